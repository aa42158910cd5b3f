"""Late units: when they are given out again, and that whoever is second ends without a trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rayvos.annotations.run_folder import Piece, Unit
from rayvos.pipelines.cluster import ActorPool
from rayvos.pipelines.receipts import Receipt
from rayvos.pipelines.run import run_job
from rayvos.pipelines.stragglers import Rescue
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import REPOSITORY, files_of, job_on, make_clips, make_trouble, worker_environment

POOL = ActorPool(num_actors=3, num_cpus=1, num_gpus=0, memory_limit_bytes=None, num_threads=1)


def unit(name: str, cost_s: float = 10.0) -> Unit:
    return Unit(name, (Piece("clip", 0, "", 0, 1, cost_s),))


def rescue(*names: str) -> Rescue:
    return Rescue([unit(name) for name in names], POOL, object, SimpleNamespace(late_s=60.0))


def receipt(name: str, seconds: float = 10.0) -> Receipt:
    return Receipt(name, 1, 1, {}, 1, seconds)


def names(units: list[Unit]) -> list[str]:
    return sorted(unit.unit_id for unit in units)


def test_nothing_is_late_while_every_actor_has_a_unit() -> None:
    watched = rescue("a", "b", "c")

    assert watched.late(0) == []
    assert watched.late(10_000) == []


def test_what_is_left_at_the_end_is_late_after_a_minute() -> None:
    watched = rescue("a", "b", "c", "d")
    watched.done(receipt("a"))
    watched.done(receipt("b"))

    assert watched.late(100) == []
    assert watched.late(159) == []
    assert names(watched.late(161)) == ["c", "d"]
    watched.done(receipt("c"))
    assert watched.late(161) == []
    assert names(watched.late(222)) == ["d"]
    watched.done(receipt("d"))
    assert watched.late(10_000) == []


def test_a_run_that_is_slower_than_planned_waits_longer() -> None:
    watched = rescue("a", "b", "c")
    watched.done(receipt("a", seconds=100.0))

    assert watched.late(0) == []
    assert watched.late(290) == []
    assert names(watched.late(310)) == ["b", "c"]


PROGRAM = """
import sys, time
from rayvos.pipelines.attempts import WorkerNote
from rayvos.pipelines.stragglers import watching_for
with watching_for(sys.argv[1], WorkerNote(), 0.1):
    print("at work", flush=True)
    time.sleep(float(sys.argv[2]))
print("done")
"""


@pytest.mark.parametrize(("made", "seconds", "said"), [(True, "60", ["at work"]), (False, "1", ["at work", "done"])])
def test_a_worker_ends_when_another_one_made_its_file(
    tmp_path: Path, made: bool, seconds: str, said: list[str]
) -> None:
    path = tmp_path / "unit.parquet"
    if made:
        path.write_bytes(b"")

    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), seconds],
        env=worker_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip

    assert ended.stdout.split("\n")[:-1] == said
    assert ended.returncode == (1 if made else 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_unit_that_hangs_at_the_end_is_done_by_another_actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayvos.pipelines.run.LATE_S", 2.0)
    clips = make_clips(tmp_path, 3)
    label_here(job_on(clips, tmp_path / "quiet"))
    make_trouble(clips[2], "hang once")

    summary = run_job(job_on(clips, tmp_path / "out", actors=2, max_attempts=1))

    assert summary.dead_letters == {}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
