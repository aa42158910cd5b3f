"""`rayvos plan`: what a labelling run would do and take, without doing it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.label import DEFAULTS, LabelOptions, label_job
from rayvos.cli.running import RunOptions
from rayvos.errors import UsageError

__all__ = ["plan"]


def plan(
    source: str,
    *,
    options: LabelOptions = DEFAULTS,
    run: RunOptions,
    rates_from: str | None = None,
) -> int:
    """Show units, frames, output size and time of a run, without doing any of its work.

    Takes the options of `rayvos label`. Example:

        rayvos plan clips.parquet -o out --actors 8

    Args:
        source: Manifest (`.parquet`), or a video or folder of frames with --boxes.
        options: what to make, as for `rayvos label`.
        run: where to and how, as for `rayvos label`.
        rates_from: Run folder whose measured rates to use; by default that of --out.
    """
    from rayvos.pipelines.cluster import usable_cores
    from rayvos.pipelines.forecast import forecast
    from rayvos.pipelines.run import plan_only

    job = label_job(source, run, options)
    made = plan_only(job)
    engine = job.engine.load()
    actors = run.actors or max(1, int(usable_cores() / max(engine.needs().num_cpus, 1e-9)))
    measured = _rates_of(rates_from, engine.name) if rates_from is not None else _rates_in(run.out)
    found = forecast(made, _labels_per_frame(made.manifest), actors, measured)
    if run.as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    print(f"{found.clips} clips, {found.frames} frames in {found.units} units")
    print(f"  to do   {found.units_left} units, {found.frames_left} frames")
    print(f"  time    about {_duration(found.seconds_left)} with {found.actors} actors ({found.basis})")
    print(f"  output  about {found.output_bytes / 1e6:.1f} MB")
    return 0


def _rates_in(run: str) -> Mapping[str, Any] | None:
    measured: Mapping[str, Any] | None = RunFolder(run).read_run_json().get("throughput")
    return measured


def _rates_of(run: str, engine: str) -> Mapping[str, Any]:
    """Return the rates of the run that the user names.

    Raises:
        UsageError: it measured none, or those of another engine.
    """
    measured, its_engine = _rates_in(run), RunFolder(run).read_run_json().get("engine")
    if not measured or not measured.get("frames"):
        raise UsageError(f"--rates-from {run}: no measured rates there; name a run folder that labelled some frames")
    if its_engine != engine:
        raise UsageError(f"--rates-from {run}: rates of engine {its_engine!r}, but the plan is for {engine!r}")
    return measured


def _labels_per_frame(manifest: str) -> float:
    frames = labels = 0
    for clip in ManifestFile(manifest):
        frames += clip.num_frames
        labels += clip.num_frames * len(clip.objects)
    return labels / max(1, frames)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
