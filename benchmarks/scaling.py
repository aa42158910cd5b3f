"""An engine of fixed cost on 1 to 8 simulated machines: what share of the actors' time it is at work.

Claim: at least 0.9 on every number of machines. The engine sleeps, so eight actors share this machine's cores without
being in each other's way, and what is lost is what planning, Ray, opening, encoding and committing take between two
units. The machines are nodes of Ray's cluster utilities on this machine, each with its raylet and its actor. Work
grows with the machines. Counted is the time from when the last actor began its first unit until the first one ended
its last; how long machines and actors take to start depends on the cloud, and is left out.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --quick
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.box_fill import ENGINE
from benchmarks.busy_machine import node_options, patient_starts
from benchmarks.chaos import add_node
from benchmarks.reporting import arguments, finish
from benchmarks.small_clips import NUM_FRAMES, clips
from rayvos.annotations.manifest import write_manifest
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.run import run_job

ROOT = Path(__file__).parents[1]


def grow(cluster: Any, machines: int) -> None:
    """Add machines until there are so many besides the head."""
    while len(cluster.worker_nodes) < machines:
        add_node(cluster)
    cluster.wait_for_nodes()


def spans_of(folder: Path) -> list[list[tuple[float, float]]]:
    """Return, for each actor, when it was at work."""
    found = []
    for path in sorted(folder.iterdir()):
        times = [line.split() for line in path.read_text().splitlines()]
        found.append([(float(start), float(end)) for start, end in times])
    return found


def efficiency(spans: list[list[tuple[float, float]]]) -> float:
    """Return the share of the actors' time at work while all of them had work."""
    start = max(of_actor[0][0] for of_actor in spans)
    end = min(of_actor[-1][1] for of_actor in spans)
    if end <= start:
        raise SystemExit("no moment at which all actors had work: use --units")
    busy = sum(max(0.0, min(end, stop) - max(start, begin)) for of_actor in spans for begin, stop in of_actor)
    return busy / (len(spans) * (end - start))


def measure(cluster: Any, machines: int, units: int, unit_s: float, folder: Path) -> float:
    """Label `units` units per machine and return the efficiency."""
    grow(cluster, machines)
    place, log = folder / f"{machines}", folder / f"log-{machines}"
    place.mkdir()
    log.mkdir()
    write_manifest(clips(place, units * machines), str(place / "clips.parquet"))
    # Planned so that each clip is a unit: more than half of what a unit may hold, and no more than that.
    engine = EngineChoice(ENGINE, {"seconds_per_frame": 400.0, "delay_s": unit_s / NUM_FRAMES, "log": str(log)})
    job = LabelJob(str(place / "clips.parquet"), str(place / "run"), engine, actors=machines, address=cluster.address)
    summary = run_job(job)
    if summary.throughput["frames"] != units * machines * NUM_FRAMES:
        raise SystemExit(f"wrong result: {summary.throughput}")
    spans = spans_of(log)
    if len(spans) != machines:
        raise SystemExit(f"{len(spans)} actors had work, {machines} were expected: use --units")
    return efficiency(spans)


def main() -> None:
    """Run it."""
    from ray.cluster_utils import Cluster

    parser = arguments(__doc__ or "")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--units", type=int, default=48, help="per machine; more, if actors start far apart")
    parser.add_argument("--unit-s", type=float, default=5.0, help="seconds of engine per unit")
    options = parser.parse_args()
    sizes, units, unit_s = ([1, 2], 24, 1.0) if options.quick else (options.machines, options.units, options.unit_s)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    head = {**node_options(1), "include_dashboard": False}
    patient_starts()
    cluster = Cluster(initialize_head=True, head_node_args=head)
    found: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for machines in sizes:
            found[machines] = measure(cluster, machines, units, unit_s, Path(temporary))
            print(f"{machines} machines: engine at work {found[machines]:.3f} of the time", flush=True)
    numbers = {"efficiency": found, "units_per_machine": units, "unit_s": unit_s}
    finish(options, {f"scaling_efficiency_{machines}": value for machines, value in found.items()}, numbers)
    sys.stdout.flush()
    os._exit(0)  # the nodes are children of this process: none of their threads shall keep it


if __name__ == "__main__":
    main()
