"""What every command that runs a job shares: its options, the progress bar, the summary and the exit code."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.errors import UsageError
from rayvos.video.limits import DecodeLimits

if TYPE_CHECKING:
    from rayvos.pipelines.job import Job
    from rayvos.pipelines.plan import RunPlan
    from rayvos.pipelines.progress import RunProgress
    from rayvos.pipelines.run import RunSummary

__all__ = ["Made", "RunOptions", "do_job", "parse_bytes", "show_plan"]

EXIT_DEAD_LETTERS = 3
EXIT_SIGNAL = 128  # plus the signal's number, as shells do

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of every command that runs a job."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """Output folder, path or URL. The same command on the same folder goes on where it was."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of the engine, as key=value; may be given several times."""
    weights: str | None = None
    """Weights of the engine, path or URL; by default those that come with it, if it needs any."""
    device: Annotated[Literal["auto", "cuda", "cpu"], Parameter(name=["--device", "-d"])] = "auto"
    """Where networks run; `auto` takes the cluster's GPUs if it has some."""
    seed: int = 0
    """For engines that draw random numbers."""
    limit: int | None = None
    """Only the first so many clips."""
    clips_file: str | None = None
    """Only the clips listed in this file, one id per line."""
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
    gpus_per_actor: float | None = None
    """GPUs of an actor, such as 0.25 for four on each; a run's summary says how many fit."""
    max_pixels: int = DecodeLimits().max_pixels
    """Largest frame, width x height; a clip with a larger one becomes a dead letter before it is decoded."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Discard the run that is in the output folder and start anew."""
    dry_run: Annotated[bool, Parameter(negative="")] = False
    """Show the plan and do nothing."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print one JSON object."""

    def for_job(self) -> dict[str, Any]:
        """Return what a job takes of these options, as its keywords."""
        return {
            "out": self.out,
            "clip_ids": _read_clip_ids(self.clips_file),
            "limit": self.limit,
            "retry_failed": self.retry_failed,
            "max_failed": self.max_failed,
            "max_attempts": self.max_attempts,
            "timeout_s": self.timeout_s,
            "memory_limit_bytes": None if self.memory_limit is None else parse_bytes(self.memory_limit),
            "gpus_per_actor": self.gpus_per_actor,
            "max_pixels": self.max_pixels,
            "actors": self.actors,
            "address": self.address,
            "overwrite": self.overwrite,
        }


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


@dataclass(frozen=True, slots=True)
class Made:
    """How a command speaks of what it does."""

    doing: str
    """`labelling`."""
    done: str
    """`labelled`."""
    things: str
    """What is counted, a name of `Work.count`: `masks`."""
    table: str
    """The folder of the results: `labels`."""
    following: Callable[[str], str]
    """The commands to go on with, for a run folder."""


def do_job(job: Job, options: RunOptions, made: Made) -> int:
    """Run a job with a progress bar, print what it came to, and return the exit code.

    Raises:
        RayvosError: see `rayvos.pipelines.run.run_job`.
    """
    from rayvos.cli.progress import Progress
    from rayvos.pipelines.run import run_job
    from rayvos.pipelines.stopping import RunStopped

    with Progress(made.doing, unit="units") as progress:

        def show(found: RunProgress) -> None:
            progress.set_total(found.num_units)
            progress.advance(found.units_done - progress.count, note=_note(found, made.things))

        try:
            summary = run_job(job, on_progress=show)
        except RunStopped as stopped:
            where = f"what is done is kept in {options.out}"
            print(f"stopped; {where}: run the same command again to go on", file=sys.stderr)
            return EXIT_SIGNAL + stopped.number
    if options.as_json:
        print(json.dumps(dataclasses.asdict(summary)))
    else:
        _show_summary(summary, made)
    return EXIT_DEAD_LETTERS if summary.dead_letters else 0


def _note(found: RunProgress, things: str) -> str:
    """Return what stands behind the bar."""
    failed = f", {sum(found.failures.values())} failed" if found.failures else ""
    return f"{found.frames_per_second:.1f} frames/s, {found.rates()[things]:.1f} {things}/s{failed}"


def _show_summary(summary: RunSummary, made: Made) -> None:
    now, things, heading = summary.throughput, made.things, f"{made.done} now"
    print(f"{summary.out}: {summary.num_clips} clips, {summary.num_frames} frames in {summary.num_units} units")
    if now["units"]:
        print(
            f"  {heading:12}  {now['frames']} frames, {now[things]} {things} in {now['seconds']:.1f} s by "
            f"{now['actors']} actors: {now['frames_per_s']:.1f} frames/s, {now[f'{things}_per_s']:.1f} {things}/s"
        )
    else:
        print(f"  {heading:12}  nothing: all was done before")
    if now["units"] and now["gpu_total_bytes"]:
        print(f"  {'GPU memory':12}  {_gpu_note(int(now['peak_gpu_bytes']), int(now['gpu_total_bytes']))}")
    letters = sorted(summary.dead_letters.items())
    print(f"  dead letters  {', '.join(f'{count} {code}' for code, count in letters) or 'none'}")
    print(f"  {made.table:12}  {storage.join(summary.out, made.table)}")
    if letters:
        print(f"next: rayvos status {summary.out} --dead-letters; then the same command with --retry-failed")
    else:
        print(f"next: {made.following(summary.out)}")


def _gpu_note(peak_bytes: int, total_bytes: int) -> str:
    """Return how much of a GPU an actor took, and the option by which as many as fit share one."""
    from rayvos.pipelines.cluster import gpu_share_for

    took = f"{peak_bytes / 2**30:.1f} of {total_bytes / 2**30:.0f} GiB by each actor"
    share = gpu_share_for(peak_bytes, total_bytes)
    return took if share == 1 else f"{took}: {int(1 / share)} fit on one with --gpus-per-actor {share:g}"


def show_plan(plan: RunPlan, *, as_json: bool) -> None:
    """Print what a plan comes to."""
    from rayvos.pipelines.plan import describe

    facts = describe(plan)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{facts['clips']} clips, {facts['frames']} frames in {facts['units']} units")
    print(
        f"to do: {facts['units_todo']} units, {facts['frames_todo']} frames, {facts['cost_s_todo']:.0f} actor seconds"
    )
