"""`rayvos plan`: what a labelling run would do and take, without doing it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.label import DEFAULTS, LabelOptions, label_job
from rayvos.cli.running import RunOptions
from rayvos.engines.base import EngineNeeds
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.pipelines.cluster_costs import ClusterForecast
    from rayvos.pipelines.forecast import Forecast

__all__ = ["plan"]


def plan(
    source: str,
    *,
    options: LabelOptions = DEFAULTS,
    run: RunOptions,
    rates_from: str | None = None,
    cluster: str | None = None,
) -> int:
    """Show units, frames, output size and time of a run, without doing any of its work.

    Takes the options of `rayvos label`. Example:

        rayvos plan clips.parquet -o out --actors 8

    Args:
        source: Manifest (`.parquet`), or a video or folder of frames with --boxes.
        options: what to make, as for `rayvos label`.
        run: where to and how, as for `rayvos label`.
        rates_from: Run folder whose measured rates to use; by default that of --out.
        cluster: File that describes a cluster and its prices, such as cluster/costs.yaml: shows time and cost there.
    """
    from rayvos.pipelines.cluster import usable_cores
    from rayvos.pipelines.forecast import forecast
    from rayvos.pipelines.run import plan_only

    job = label_job(source, run, options)
    made = plan_only(job)
    engine = job.engine.load()
    actors = run.actors or max(1, int(usable_cores() / max(engine.needs().num_cpus, 1e-9)))
    measured = _rates_of(rates_from, engine.name) if rates_from is not None else _rates_in(run.out)
    facts = _facts_of(made.manifest)
    found = forecast(made, facts.labels_per_frame, actors, measured)
    there = None if cluster is None else _on_cluster(cluster, found, facts, engine.needs(), job.engine.device)
    if run.as_json:
        more = {} if there is None else {"cluster": dataclasses.asdict(there)}
        print(json.dumps({**dataclasses.asdict(found), **more}))
        return 0
    print(f"{found.clips} clips, {found.frames} frames in {found.units} units")
    print(f"  to do   {found.units_left} units, {found.frames_left} frames")
    print(f"  time    about {_duration(found.seconds_left)} with {found.actors} actors ({found.basis})")
    print(f"  output  about {found.output_bytes / 1e6:.1f} MB")
    if there is not None:
        _show_cluster(cluster or "", there)
    return 0


def _on_cluster(path: str, found: Forecast, facts: _ManifestFacts, needs: EngineNeeds, device: str) -> ClusterForecast:
    from rayvos.pipelines.cluster_costs import cluster_forecast, cluster_pool, read_cluster

    costs = read_cluster(path)
    pool, machines = cluster_pool(costs, needs, found.units_left, device)
    left = found.frames_left / max(1, found.frames)
    return cluster_forecast(
        costs, pool, machines, busy_s=found.busy_s, units=found.units_left, output_bytes=found.output_bytes,
        pictures=round(left * facts.pictures), videos=round(left * facts.videos),
    )  # fmt: skip


def _show_cluster(path: str, found: ClusterForecast) -> None:
    print(f"on the cluster of {path}, with --actors {found.actors}:")
    print(f"  time    about {_duration(found.seconds)} on {found.machines} machines, their start included")
    print(f"  hours   {found.worker_hours:.1f} of workers, {found.head_hours:.1f} of the head")
    print(f"  stores  {found.reads} reads, {found.writes} writes, {found.output_bytes / 1e9:.3g} GB")
    if found.missing_prices:
        print(f"  cost    fill in {', '.join(found.missing_prices)}")
        return
    parts = (found.worker_cost or 0.0, found.head_cost or 0.0, found.request_cost or 0.0)
    print(
        f"  cost    {sum(parts):.2f} {found.currency}: {parts[0]:.2f} workers, {parts[1]:.2f} head, "
        f"{parts[2]:.2f} requests; {found.storage_cost_per_month or 0.0:.2f} a month for the output"
    )


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


@dataclasses.dataclass(frozen=True, slots=True)
class _ManifestFacts:
    """What a forecast wants to know of a manifest."""

    labels_per_frame: float
    pictures: int
    videos: int


def _facts_of(manifest: str) -> _ManifestFacts:
    frames = labels = pictures = videos = 0
    for clip in ManifestFile(manifest):
        frames += clip.num_frames
        labels += clip.num_frames * len(clip.objects)
        if clip.source.kind == "video":
            videos += 1
        else:
            pictures += clip.num_frames
    return _ManifestFacts(labels / max(1, frames), pictures, videos)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
