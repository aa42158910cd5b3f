"""`rayvos label`: masks from boxes, on this machine or on a Ray cluster."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.running import Made, RunOptions, do_job, show_plan
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.pipelines.label import LabelJob

__all__ = ["DEFAULTS", "LabelOptions", "label", "label_job"]

MADE = Made(
    "labelling", "labelled", "masks", "labels",
    lambda out: f"rayvos report {out}, or rayvos export {out} -o masks --format davis",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Options of `rayvos label` besides those of every run."""

    boxes: str | None = None
    """Boxes of a video or folder of frames: CSV, JSON or MOT text. Needed where SOURCE is no manifest."""
    engine: str = "guided"
    """What labels: `guided` (weights come with rayvos), `cut` (no weights), `box2seg`, `sta`, `stcn`, or your own
    `package.module:Class`."""
    cues: str | None = None
    """Cues of the engine `cut`, which must be chosen; short for --option cues=CUES."""
    finetune: Annotated[bool, Parameter(negative="")] = False
    """Sharpen the network for each object with the masks that a person gave of it, in turn, and propagate them (engine
    guided); --option finetune=middle or first takes one of them, --option finetune_steps=N other than 300 steps."""
    adapt: Annotated[bool, Parameter(negative="")] = False
    """Adapt the network of the engine `guided` to each clip by its boxes alone, where the score says that it helps."""
    propagate: Annotated[bool, Parameter(negative="")] = False
    """Let the best masks of each object, propagated through its clip, vote on every frame (engine guided): better
    masks for about twice the time."""
    calibration: str | None = None
    """Maps scores to IoUs, see `rayvos eval calibration --fit`; default: FILE.calibration.json beside the weights
    FILE.safetensors, if it is there; `none`: the engine's own scores."""
    prompts: Literal["all", "boxes"] = "all"
    """Which prompts to use; `boxes` leaves out masks, points and traces."""


DEFAULTS = LabelOptions()


def label(source: str, *, options: LabelOptions = DEFAULTS, run: RunOptions) -> int:
    """Make masks from boxes, on this machine or on a Ray cluster.

    What is done is never done again: the same command resumes a run, and redoes clips whose boxes changed.
    Exits with 0 when all is done, 3 when some clips failed (`rayvos status` tells which).

    For example:

        rayvos label clips.parquet -o out

        rayvos label video.mp4 --boxes boxes.csv -o out

    Args:
        source: Manifest (`.parquet`, see `rayvos import`), or a video or folder of frames with --boxes.
        options: what to make; documented by their own fields.
        run: where to and how; documented by their own fields.
    """
    from rayvos.pipelines.run import plan_only

    if run.dry_run:
        show_plan(plan_only(label_job(source, run, options)), as_json=run.as_json)
        return 0
    return do_job(label_job(source, run, options, folder=run.out), run, MADE)


def label_job(source: str, run: RunOptions, options: LabelOptions = DEFAULTS, *, folder: str | None = None) -> LabelJob:
    """Return the job that the options describe.

    Args:
        source: as `rayvos label` takes it.
        run: where to and how.
        options: what to make.
        folder: where the manifest of a video or folder of frames is written; None: a temporary folder, for plans.

    Raises:
        UsageError: an option is wrong.
        InputError, StorageError: boxes or frames cannot be read.
    """
    from rayvos.engines.options import parse_options
    from rayvos.engines.registry import EngineChoice
    from rayvos.pipelines.label import LabelJob

    engine_options = parse_options(run.option)
    if options.cues is not None:
        engine_options["cues"] = options.cues
    if options.adapt:
        engine_options.setdefault("adapt", "true")
    if options.propagate:
        engine_options.setdefault("propagate", "true")
    if options.finetune:
        engine_options.setdefault("finetune", "all")
    return LabelJob(
        manifest=_manifest(source, options, folder),
        engine=EngineChoice(options.engine, engine_options, run.weights, run.device, run.seed, options.calibration),
        prompts=options.prompts,
        **run.for_job(),
    )


def _manifest(source: str, options: LabelOptions, folder: str | None) -> str:
    """Return the manifest to label: the source itself, or one made of a video or folder and its boxes."""
    if source.endswith(".parquet"):
        if options.boxes is not None:
            raise UsageError(f"{source}: a manifest holds its boxes; leave out --boxes, or import them into it")
        return source
    if options.boxes is None:
        raise UsageError(
            f"{source}: expected a manifest (.parquet), or a video or folder with --boxes FILE; "
            "make a manifest with `rayvos import`"
        )
    from rayvos.annotations.importing import AUTO, import_clips
    from rayvos.annotations.manifest import write_manifest
    from rayvos.video.container import probe_video

    if folder is None:
        folder = tempfile.mkdtemp(prefix="rayvos-plan-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = storage.join(folder, "source.parquet")
    write_manifest(import_clips(AUTO, options.boxes, frames=source, probe=probe_video), path)
    return path
