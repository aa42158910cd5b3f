"""`rayvos plan`: what a labelling run would do and take, without doing it."""

from __future__ import annotations

import dataclasses
import json

from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.label import LabelOptions, label_job

__all__ = ["plan"]


def plan(
    source: str,
    options: LabelOptions,
    *,
    rates_from: str | None = None,
) -> int:
    """Show units, frames, output size and time of a run, without doing any of its work.

    Takes the options of `rayvos label`. Example:

        rayvos plan clips.parquet -o out --actors 8

    Args:
        source: Manifest (`.parquet`), or a video or folder of frames with --boxes.
        options: those of `rayvos label`.
        rates_from: Run folder whose measured rates to use; by default that of --out.
    """
    from rayvos.pipelines.cluster import usable_cores
    from rayvos.pipelines.forecast import forecast
    from rayvos.pipelines.label import plan_only

    job = label_job(source, options)
    made = plan_only(job)
    engine = job.engine.load()
    actors = options.actors or max(1, int(usable_cores() / max(engine.needs().num_cpus, 1e-9)))
    measured = RunFolder(rates_from or options.out).read_run_json().get("throughput")
    found = forecast(made, _labels_per_frame(made.manifest), actors, measured)
    if options.as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    print(f"{found.clips} clips, {found.frames} frames in {found.units} units")
    print(f"  to do   {found.units_left} units, {found.frames_left} frames")
    print(f"  time    about {_duration(found.seconds_left)} with {found.actors} actors ({found.basis})")
    print(f"  output  about {found.output_bytes / 1e6:.1f} MB")
    return 0


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
