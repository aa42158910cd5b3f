"""`rayvos candidates`: points for annotators to verify, on this machine or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rayvos.cli.running import Made, RunOptions, do_job, show_plan

if TYPE_CHECKING:
    from rayvos.pipelines.candidates import CandidateJob

__all__ = ["CandidateOptions", "candidate_job", "candidates"]

MADE = Made(
    "mining", "mined", "candidates", "candidates",
    lambda out: f"rayvos export {out} -o points --format point-vos, or rayvos export {out} -o sheets -f contact-sheet",
)  # fmt: skip


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CandidateOptions:
    """Options of `rayvos candidates` besides those of every run."""

    engine: str = "stcn"
    """What propagates masks: `stcn`, or your own `package.module:Class` that gives probabilities."""
    guide: str = "guided"
    """What makes masks of boxes, traces and points on key frames: `guided`, `scribble` (no weights), `cut` (boxes
    only), or your own; not used where masks are given."""
    guide_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of the guide, as key=value; may be given several times."""
    guide_weights: str | None = None
    """Weights of the guide, path or URL; by default those that come with it, if it needs any."""
    prompts: Literal["auto", "masks", "boxes", "traces", "points"] = "auto"
    """What candidates start from; `auto` takes, object by object, the first of these that is given."""
    frames: int = 10
    """Frames of a clip that carry candidates, evenly spaced."""
    foreground: int = 7
    """Candidates of high probability per object and frame, at most."""
    ambiguous: int = 3
    """Candidates of uncertain probability, at most."""
    background: int = 10
    """Candidates of low probability, at most."""
    foreground_from: float = 0.8
    """Lowest probability of a foreground candidate."""
    background_to: float = 0.2
    """Highest probability of a background candidate."""
    distance: float = 20.0
    """Pixels between any two candidates of an object on a frame, at least."""
    force_key_frame: Annotated[bool, Parameter(negative="")] = False
    """The key frame carries candidates in any case, in the place of the nearest one."""
    dataset: str = ""
    """Name of the data set: another name draws other points."""


DEFAULTS = CandidateOptions()


def candidates(manifest: str, *, options: CandidateOptions = DEFAULTS, run: RunOptions) -> int:
    """Propose points for annotators to verify, from masks, boxes, traces or points of a few frames.

    Each object's mask (its own, or made of the prompt of its key frame) is propagated both ways through the clip; on
    ten frames, points of high, uncertain and low probability are drawn, 20 pixels apart (Point-VOS). The same command
    resumes a run; the same manifest gives the same points on any number of machines. Exits with 3 when some clips
    failed (`rayvos status` tells which).

    For example:

        rayvos import vidln narratives.jsonl --frames frames/ -o clips.parquet --option objects=nouns

        rayvos candidates clips.parquet -o out

        rayvos export out -o points --format point-vos

    Args:
        manifest: Manifest (`.parquet`, see `rayvos import`), path or URL.
        options: what to propose; documented by their own fields.
        run: where to and how; documented by their own fields.
    """
    from rayvos.pipelines.run import plan_only

    job = candidate_job(manifest, options, run)
    if run.dry_run:
        show_plan(plan_only(job), as_json=run.as_json)
        return 0
    return do_job(job, run, MADE)


def candidate_job(manifest: str, options: CandidateOptions, run: RunOptions) -> CandidateJob:
    """Return the job that the options describe.

    Raises:
        UsageError: an option is wrong.
    """
    from rayvos.engines.candidates.mining import MiningOptions
    from rayvos.engines.candidates.selection import CandidateRule
    from rayvos.engines.options import parse_options
    from rayvos.engines.registry import EngineChoice
    from rayvos.pipelines.candidates import CandidateJob

    rule = CandidateRule(
        num_foreground=options.foreground,
        num_ambiguous=options.ambiguous,
        num_background=options.background,
        foreground_from=options.foreground_from,
        background_to=options.background_to,
        distance_px=options.distance,
        num_frames=options.frames,
    )
    return CandidateJob(
        manifest=manifest,
        engine=EngineChoice(options.engine, parse_options(run.option), run.weights, run.device, run.seed),
        guide=EngineChoice(
            options.guide, parse_options(options.guide_option), options.guide_weights, run.device, run.seed
        ),
        options=MiningOptions(
            rule=rule,
            prompts=options.prompts,
            force_key_frame=options.force_key_frame,
            dataset=options.dataset,
        ),
        **run.for_job(),
    )
