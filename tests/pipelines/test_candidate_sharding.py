"""Candidates do not depend on which worker does which unit, in this process and without Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rayvos.annotations.run_folder import RunFolder, read_candidates
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.plan import plan_run
from rayvos.pipelines.receipts import Receipt, unit_to_row
from rayvos.pipelines.worker import UnitWorker, WorkerSettings
from tests.pipelines.test_candidates import candidates_on, files_of, make_traced


def mine_here(job, num_workers: int) -> list[Receipt]:
    """Do a job's units by several workers, in turns."""
    plan = plan_run(RunFolder(job.out, "candidates"), job.manifest, job.work().load())
    settings = WorkerSettings(
        run=job.out, manifest=plan.manifest, work=job.work(), session="test", num_actors=num_workers, max_attempts=3,
        timeout_s=None, memory_limit_bytes=None, num_threads=1,
    )  # fmt: skip
    workers = [UnitWorker(settings) for _ in range(num_workers)]
    receipts = []
    for turn, unit in enumerate(plan.todo):
        batches = workers[turn % num_workers]({"unit": [unit_to_row(unit)["unit"]]})
        receipts += [Receipt.from_row({"receipt": batch["receipt"][0]}) for batch in batches]
    return receipts


@pytest.mark.parametrize(("num_workers", "guide"), [(2, "scribble"), (7, "guided")])
def test_several_workers_write_the_files_of_one(tmp_path: Path, num_workers: int, guide: str) -> None:
    clips, choice = make_traced(tmp_path, 7), EngineChoice(guide)
    alone = mine_here(candidates_on(clips, tmp_path / "one", guide=choice), 1)

    together = mine_here(candidates_on(clips, tmp_path / "more", guide=choice), num_workers)

    assert files_of(tmp_path / "more") == files_of(tmp_path / "one")
    assert len(files_of(tmp_path / "one")) == 7
    assert (
        sum(receipt.counts["candidates"] for receipt in together)
        == read_candidates(str(tmp_path / "more")).num_rows
        == sum(receipt.counts["candidates"] for receipt in alone)
    )


def test_a_run_cut_short_goes_on_to_the_same_candidates(tmp_path: Path) -> None:
    clips = make_traced(tmp_path, 3)
    job = candidates_on(clips, tmp_path / "out")
    mine_here(job, 1)
    before = files_of(tmp_path / "out")
    for name in list(before)[:2]:
        (tmp_path / "out" / "candidates" / name).unlink()

    again = mine_here(job, 1)

    assert len(again) == 2
    assert files_of(tmp_path / "out") == before


def test_a_clip_that_cannot_be_started_is_a_dead_letter_beside_its_neighbours(tmp_path: Path) -> None:
    good, bare = make_traced(tmp_path, 2)
    bare = dataclasses.replace(bare, boxes=(), traces=())

    (receipt,) = mine_here(candidates_on([good, bare], tmp_path / "out", seconds_per_frame=0.01), 1)

    assert receipt.failures == {"bad_input": 1}
    assert "expected masks, boxes, traces or points of an object to start from" in receipt.first_failure
    assert set(read_candidates(str(tmp_path / "out")).column("clip_id").to_pylist()) == {"clip0"}
