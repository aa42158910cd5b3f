"""Kills workers, machines and drivers of a labelling run, and counts what that lost.

A cluster of several nodes on this machine (Ray's own cluster utilities: each node has its raylet, its workers and its
object store) labels generated clips. While it does, processes are killed as the seed says, one after every few
committed units: an actor's process, a node (ungracefully, and another one joins), the driver (and it is started
again). The run is compared with one that nothing disturbed, made without Ray: labels that are missing, labels that are
there twice, and whether the committed files are the same, byte by byte. Attempt marks must be gone, too.

    python -m benchmarks.chaos --kills 20 --seed 7
    python -m benchmarks.chaos --quick
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.box_fill import ENGINE
from benchmarks.busy_machine import node_options, patient_starts
from benchmarks.reporting import arguments, finish
from benchmarks.small_clips import clips
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.run_folder import RunFolder
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.plan import plan_run
from rayvos.pipelines.receipts import unit_to_row
from rayvos.pipelines.worker import UnitWorker, WorkerSettings

VICTIMS = ("worker", "node", "driver")
NODE_CPUS = 2
WORKER_NODES = 3
QUICK_NODES, QUICK_ACTORS = 2, 3
PATIENCE_S = 1800.0  # without a new unit; a busy machine needs minutes for a node
ROOT = Path(__file__).parents[1]


@dataclass
class Driver:
    """The process `rayvos label`, started again after each death until it ends by itself."""

    command: list[str]
    log: Path
    most_crashes: int = 1
    """Deaths by a signal that nobody sent: native code of Ray may die, and labels must survive that, too."""
    starts: int = 0
    crashes: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        self.starts += 1
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True
            )

    def ended_well(self) -> bool:
        """Tell whether it is done; start it again where it died.

        Raises:
            SystemExit: it failed, or crashed too often.
        """
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return False
        if code == 0:
            return True
        self.crashes += code != -signal.SIGKILL
        if code > 0 or self.crashes > self.most_crashes:
            raise SystemExit(f"the driver failed with {code}:\n{self.log.read_text()[-4000:]}")
        if code != -signal.SIGKILL:
            print(f"the driver crashed with {code}:\n{self.log.read_text()[-4000:]}", file=sys.stderr, flush=True)
        self.start()
        return False

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Chaos:
    """A cluster, a driver, and who is killed next."""

    cluster: Any
    nodes: list[Any]
    driver: Driver
    rng: random.Random
    killed: Counter[str] = field(default_factory=Counter)

    def kill(self, victim: str) -> bool:
        """Kill a victim of this kind; False where there is none at the moment."""
        if victim == "driver":
            self.driver.kill()
        elif victim == "node":
            lost = self.nodes.pop(self.rng.randrange(len(self.nodes)))
            self.cluster.remove_node(lost, allow_graceful=False)
            self.nodes.append(add_node(self.cluster))
        else:
            workers = actor_processes()
            if not workers:
                return False
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(self.rng.choice(workers), signal.SIGKILL)
        self.killed[victim] += 1
        return True


def add_node(cluster: Any) -> Any:
    """Add a machine to the cluster."""
    return cluster.add_node(**node_options(NODE_CPUS))


def actor_processes() -> list[int]:
    """Return the ids of the actors' processes below this process, in order."""
    parents, names = dict[int, int](), dict[int, str]()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace")

    def is_ours(process: int) -> bool:
        while process > 1:
            if process == os.getpid():
                return True
            process = parents.get(process, 0)
        return False

    return sorted(process for process, name in names.items() if "UnitWorker" in name and is_ours(process))


@contextlib.contextmanager
def running_cluster(num_nodes: int) -> Iterator[tuple[Any, list[Any]]]:
    """Have a cluster of a small head and some machines; all are processes below this one."""
    from ray.cluster_utils import Cluster

    patient_starts()
    head = {**node_options(1), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [add_node(cluster) for _ in range(num_nodes)]
        yield cluster, nodes
    finally:
        cluster.shutdown()


def label_quietly(job: LabelJob) -> None:
    """Do a job's units one after the other in this process, without Ray."""
    run = RunFolder(job.out)
    plan = plan_run(run, job.manifest, job.work().load())
    settings = WorkerSettings(
        run=job.out, manifest=plan.manifest, work=job.work(), session="quiet", num_actors=1, max_attempts=3,
        timeout_s=None, memory_limit_bytes=None, num_threads=1,
    )  # fmt: skip
    worker = UnitWorker(settings)
    for unit in plan.todo:
        for _ in worker({"unit": [unit_to_row(unit)["unit"]]}):
            pass


def disturb(chaos: Chaos, out: str, victims: list[str], num_units: int) -> None:
    """Run the driver to its end and kill the victims on the way, each after its share of the units.

    Raises:
        SystemExit: nothing was committed for too long.
    """
    run, waiting = RunFolder(out), list(victims)
    chaos.driver.start()
    last_count, last_change = -1, time.monotonic()
    while not chaos.driver.ended_well():
        count = len(run.committed())
        if count != last_count:
            last_count, last_change = count, time.monotonic()
        if time.monotonic() - last_change > PATIENCE_S:
            raise SystemExit(f"no new unit for {PATIENCE_S:.0f} s:\n{chaos.driver.log.read_text()[-4000:]}")
        due = (len(victims) - len(waiting) + 1) * num_units / (len(victims) + 1)
        if waiting and count >= due and chaos.kill(waiting[0]):
            print(f"  {count:4d} of {num_units} units: killed a {waiting.pop(0)}", flush=True)
        time.sleep(0.05)


def rows_of(folder: Path) -> Counter[tuple[str, int, int]]:
    """Return (clip, frame, object) of every row of all committed files, with how often it is there."""
    found: Counter[tuple[str, int, int]] = Counter()
    for path in sorted(folder.glob("*.parquet")):
        columns = pq.read_table(path, columns=["clip_id", "frame", "object_id"], use_threads=False).to_pydict()
        found.update(zip(columns["clip_id"], columns["frame"], columns["object_id"], strict=True))
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the committed files by name, as every reader sees them: what a killed writer left begins with a dot."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def choose_victims(kills: int, seed: int) -> list[str]:
    """Return who is killed, in order: each kind at least once where there are kills enough, the rest by chance."""
    rng = random.Random(seed)
    found = [*VICTIMS[:kills], *rng.choices(VICTIMS, k=max(0, kills - len(VICTIMS)))]
    rng.shuffle(found)
    return found


def run_chaos(options: argparse.Namespace, folder: Path) -> tuple[int, int, bool, Chaos, float]:
    """Return the labels lost, those there twice, whether the files are the same, who was killed, and the seconds."""
    kills, num_nodes = (3, QUICK_NODES) if options.quick else (options.kills, WORKER_NODES)
    num_units = max(12, 3 * kills)
    manifest, out = str(folder / "clips.parquet"), str(folder / "run")
    (folder / "frames").mkdir()
    write_manifest(clips(folder / "frames", num_units), manifest)
    # Planned so that a clip of two frames, or one of its frames, fills a unit.
    engine = {"seconds_per_frame": 400.0, "delay_s": options.unit_s / 2}
    job = LabelJob(manifest, str(folder / "quiet"), EngineChoice(ENGINE, {**engine, "delay_s": 0.0}))
    label_quietly(job)
    num_units = len(files_of(folder / "quiet" / "labels"))
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    with running_cluster(num_nodes) as (cluster, nodes):
        words = ["label", manifest, "-o", out, "--engine", ENGINE, "--max-attempts", str(kills + 3)]
        words += [f"--option={name}={value}" for name, value in engine.items()]
        words += ["--actors", str(QUICK_ACTORS)] if options.quick else []
        command = [sys.executable, "-c", "from rayvos.cli.main import run; run()", *words, "--address", cluster.address]
        chaos = Chaos(cluster, nodes, Driver(command, folder / "driver.log"), random.Random(options.seed))
        started = time.monotonic()
        try:
            disturb(chaos, out, choose_victims(kills, options.seed), num_units)
        finally:
            chaos.driver.kill()
        seconds = time.monotonic() - started
    expected, found = rows_of(folder / "quiet" / "labels"), rows_of(folder / "run" / "labels")
    identical = files_of(folder / "quiet" / "labels") == files_of(folder / "run" / "labels")
    # A killed driver leaves the folder in which its workers told that they start; no unit's marks may be left.
    identical &= all(path.name.startswith("starts-") for path in (folder / "run" / "attempts").iterdir())
    return sum((expected - found).values()), sum((found - expected).values()), identical, chaos, seconds


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unit-s", type=float, default=1.0, help="seconds that a unit takes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        lost, duplicated, identical, chaos, seconds = run_chaos(options, Path(temporary))
    killed = ", ".join(f"{count} {kind}s" for kind, count in sorted(chaos.killed.items()))
    print(
        f"killed {killed}; {chaos.driver.starts} starts of the driver, "
        f"{chaos.driver.crashes} of which crashed, {seconds:.0f} s, seed {options.seed}"
    )
    numbers = {
        "lost": lost, "duplicated": duplicated, "identical": identical, "killed": dict(chaos.killed),
        "driver_starts": chaos.driver.starts, "driver_crashes": chaos.driver.crashes,
        "seconds": seconds, "seed": options.seed,
    }  # fmt: skip
    finish(options, {"chaos_lost_labels": lost, "chaos_duplicated_labels": duplicated}, numbers)
    print(f"LOST {lost} DUPLICATED {duplicated} IDENTICAL {'yes' if identical else 'no'}")
    sys.stdout.flush()
    # The nodes were children of this process: none of their threads shall keep it.
    os._exit(int(bool(lost or duplicated or not identical)))


if __name__ == "__main__":
    main()
