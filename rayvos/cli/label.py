"""`rayvos label`: masks from boxes, on this machine or on a Ray cluster."""

from __future__ import annotations

import atexit
import dataclasses
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.errors import UsageError
from rayvos.video.limits import DecodeLimits

if TYPE_CHECKING:
    from rayvos.pipelines.label import LabelJob, LabelSummary
    from rayvos.pipelines.progress import LabelProgress

__all__ = ["LabelOptions", "label", "label_job"]

EXIT_DEAD_LETTERS = 3
EXIT_SIGNAL = 128  # plus the signal's number, as shells do

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Options of `rayvos label`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """Output folder, path or URL. The same command on the same folder goes on where it was."""
    boxes: str | None = None
    """Boxes of a video or folder of frames: CSV, JSON or MOT text. Needed where SOURCE is no manifest."""
    engine: str = "cut"
    """What labels: `cut` (no weights), `box2seg`, `sta`, `stcn`, or your own `package.module:Class`."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of the engine, as key=value; may be given several times."""
    cues: str | None = None
    """Cues of the engine `cut`; short for --option cues=CUES."""
    weights: str | None = None
    """Weights of the engine, path or URL; by default those that come with it, if it needs any."""
    calibration: str | None = None
    """Maps scores to IoUs, see `rayvos eval calibration --fit`; default: FILE.calibration.json beside the weights
    FILE.safetensors, if it is there; `none`: the engine's own scores."""
    device: Annotated[Literal["auto", "cuda", "cpu"], Parameter(name=["--device", "-d"])] = "auto"
    """Where networks run; `auto` takes the cluster's GPUs if it has some."""
    prompts: Literal["all", "boxes"] = "all"
    """Which prompts to use; `boxes` leaves out masks, points and traces."""
    seed: int = 0
    """For engines that draw random numbers."""
    limit: int | None = None
    """Label only the first so many clips."""
    clips_file: str | None = None
    """Label only the clips listed in this file, one id per line."""
    actors: int | None = None
    """Number of actors; by default as many as the cluster holds."""
    address: str = ""
    """Ray cluster: `auto`, an address, or `local` for one inside this process; default: RAY_ADDRESS, else `local`."""
    retry_failed: Annotated[bool, Parameter(negative="")] = False
    """Take up dead letters of earlier starts again."""
    max_failed: float = 0.5
    """Give up when more fails: a share below 1 (judged from 20 on), or a number of clips or frame ranges."""
    max_attempts: int = 3
    """Workers a clip may kill before it becomes a dead letter."""
    timeout_s: float | None = None
    """Time limit of a clip or frame range; default: 20 times the planned time, at least 600 s."""
    memory_limit: str | None = None
    """Memory an actor may use, such as 4GB, on machines without GPU; default: its share of the machine's."""
    max_pixels: int = DecodeLimits().max_pixels
    """Largest frame, width x height; a clip with a larger one becomes a dead letter before it is decoded."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Discard the run that is in the output folder and start anew."""
    dry_run: Annotated[bool, Parameter(negative="")] = False
    """Show the plan and do nothing."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print one JSON object."""


def label(source: str, options: LabelOptions) -> int:
    """Make masks from boxes, on this machine or on a Ray cluster.

    What is done is never done again: the same command resumes a run, and redoes clips whose boxes changed.
    Exits with 0 when all is done, 3 when some clips failed (`rayvos status` tells which).

    For example:

        rayvos label clips.parquet -o out

        rayvos label video.mp4 --boxes boxes.csv -o out

    Args:
        source: Manifest (`.parquet`, see `rayvos import`), or a video or folder of frames with --boxes.
        options: the rest; documented by their own fields.
    """
    from rayvos.cli.progress import Progress
    from rayvos.pipelines.label import plan_only, run_label
    from rayvos.pipelines.stopping import RunStopped

    if options.dry_run:
        _show_plan(plan_only(label_job(source, options)), as_json=options.as_json)
        return 0
    job = label_job(source, options, folder=options.out)
    with Progress("labelling", unit="units") as progress:

        def show(found: LabelProgress) -> None:
            progress.set_total(found.num_units)
            progress.advance(found.units_done - progress.count, note=_note(found))

        try:
            summary = run_label(job, on_progress=show)
        except RunStopped as stopped:
            _say_stopped(options)
            return EXIT_SIGNAL + stopped.number
    _show_summary(summary, as_json=options.as_json)
    return EXIT_DEAD_LETTERS if summary.dead_letters else 0


def label_job(source: str, options: LabelOptions, *, folder: str | None = None) -> LabelJob:
    """Return the job that the options describe.

    Args:
        source: as `rayvos label` takes it.
        options: the rest.
        folder: where the manifest of a video or folder of frames is written; None: a temporary folder, for plans.

    Raises:
        UsageError: an option is wrong.
        InputError, StorageError: boxes or frames cannot be read.
    """
    from rayvos.engines.options import parse_options
    from rayvos.engines.registry import EngineChoice
    from rayvos.pipelines.label import LabelJob

    engine_options = parse_options(options.option)
    if options.cues is not None:
        engine_options["cues"] = options.cues
    return LabelJob(
        manifest=_manifest(source, options, folder),
        out=options.out,
        engine=EngineChoice(
            options.engine, engine_options, options.weights, options.device, options.seed, options.calibration
        ),
        prompts=options.prompts,
        clip_ids=_read_clip_ids(options.clips_file),
        limit=options.limit,
        retry_failed=options.retry_failed,
        max_failed=options.max_failed,
        max_attempts=options.max_attempts,
        timeout_s=options.timeout_s,
        memory_limit_bytes=None if options.memory_limit is None else parse_bytes(options.memory_limit),
        max_pixels=options.max_pixels,
        actors=options.actors,
        address=options.address,
        overwrite=options.overwrite,
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


def _read_clip_ids(path: str | None) -> tuple[str, ...] | None:
    if path is None:
        return None
    lines = storage.read_bytes(path).decode().splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as `4GB`, `512MiB` or `1000000`.

    Raises:
        UsageError: it is no size.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", text, re.IGNORECASE)
    if found is None or found[2].lower() not in _UNITS or found[1].count(".") > 1 or found[1] == ".":
        raise UsageError(f"size {text!r}: expected a number with a unit, such as 4GB or 512MiB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def _note(found: LabelProgress) -> str:
    """Return what stands behind the bar."""
    failed = f", {sum(found.failures.values())} failed" if found.failures else ""
    masks_per_s = found.masks / max(found.seconds, 1e-9)
    return f"{found.frames_per_second:.1f} frames/s, {masks_per_s:.1f} masks/s{failed}"


def _say_stopped(options: LabelOptions) -> None:
    print(f"stopped; what is done is kept in {options.out}: run the same command again to go on", file=sys.stderr)


def _show_plan(plan: Any, *, as_json: bool) -> None:
    from rayvos.pipelines.plan import describe

    facts = describe(plan)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{facts['clips']} clips, {facts['frames']} frames in {facts['units']} units")
    print(
        f"to do: {facts['units_todo']} units, {facts['frames_todo']} frames, {facts['cost_s_todo']:.0f} actor seconds"
    )


def _show_summary(summary: LabelSummary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(summary)))
        return
    done = summary.throughput
    print(f"{summary.out}: {summary.num_clips} clips, {summary.num_frames} frames in {summary.num_units} units")
    if done["units"]:
        print(
            f"  labelled now  {done['frames']} frames, {done['masks']} masks in {done['seconds']:.1f} s by "
            f"{done['actors']} actors: {done['frames_per_s']:.1f} frames/s, {done['masks_per_s']:.1f} masks/s"
        )
    else:
        print("  labelled now  nothing: all was done before")
    letters = sorted(summary.dead_letters.items())
    print(f"  dead letters  {', '.join(f'{count} {code}' for code, count in letters) or 'none'}")
    print(f"  labels        {storage.join(summary.out, 'labels')}")
    if letters:
        print(f"next: rayvos status {summary.out} --dead-letters; then the same command with --retry-failed")
    else:
        print(f"next: rayvos report {summary.out}, or rayvos export {summary.out} -o masks --format davis")
