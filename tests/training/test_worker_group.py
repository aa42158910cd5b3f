"""What a cluster's machines hold decides how many workers train, and who makes their samples."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rayvos.errors import UsageError
from rayvos.training.worker_group import WorkerGroup, plan_workers


@dataclass
class Machine:
    num_cpus: float
    num_gpus: float = 0


def plan(*machines, workers=None, device="auto", processes=None, sample_actors=None):
    return plan_workers(
        machines, workers=workers, device=device, processes=processes, sample_actors=sample_actors
    )  # fmt: skip


def group(num_workers, num_cpus, *, use_gpu=False, sample_actors=0):
    return WorkerGroup(num_workers=num_workers, num_cpus=num_cpus, use_gpu=use_gpu, sample_actors=sample_actors)


def test_workers_share_the_cpus_of_a_machine_but_one():
    assert plan(Machine(8)) == group(1, 7)
    assert plan(Machine(8), workers=2) == group(2, 3)
    assert plan(Machine(2), workers=2) == group(2, 1)


def test_a_worker_asks_for_no_more_than_its_machine_has():
    assert plan(Machine(4), Machine(4)) == group(1, 4)
    assert plan(Machine(4), Machine(4), workers=3) == group(3, 2)
    assert plan(Machine(32), Machine(8, 4), processes=8) == group(4, 2, use_gpu=True)


def test_a_gpu_gets_a_worker_with_cpus_for_its_processes():
    assert plan(Machine(64, 8)) == group(8, 5, use_gpu=True)
    assert plan(Machine(64, 8), workers=2, processes=6) == group(2, 7, use_gpu=True)
    assert plan(Machine(4, 1)) == group(1, 3, use_gpu=True)
    assert plan(Machine(4, 1), device="cpu") == group(1, 3)


def test_other_machines_feed_gpus_whose_machine_has_few_cpus():
    assert plan(Machine(4, 4), Machine(32)) == group(4, 1, use_gpu=True, sample_actors=4)
    assert plan(Machine(2, 1), Machine(4)) == group(1, 1, use_gpu=True, sample_actors=4)
    assert plan(Machine(16, 1), Machine(32)) == group(1, 5, use_gpu=True)
    assert plan(Machine(4, 4), Machine(32), sample_actors=0) == group(4, 1, use_gpu=True)
    assert plan(Machine(4, 4), Machine(32), processes=2) == group(4, 1, use_gpu=True)


def test_actors_that_are_asked_for_have_cpus_beside_the_workers():
    assert plan(Machine(8), sample_actors=3) == group(1, 4, sample_actors=3)
    assert plan(Machine(8), workers=2, sample_actors=1) == group(2, 2, sample_actors=1)
    assert plan(Machine(2), sample_actors=1) == group(1, 1, sample_actors=1)
    assert plan(Machine(2), sample_actors=6) == group(1, 1, sample_actors=6)


def test_a_worker_has_no_more_threads_and_processes_than_cpus():
    assert group(1, 4).num_threads(processes=None) == 3
    assert group(1, 4).num_threads(processes=0) == 4
    assert group(1, 4, sample_actors=3).num_threads(processes=None) == 4
    assert group(1, 5, use_gpu=True).num_threads(processes=None) == 1
    assert group(1, 1).num_threads(processes=None) == 1


def test_what_the_cluster_does_not_have_is_refused():
    with pytest.raises(UsageError, match="the cluster has no GPU"):
        plan(Machine(8), device="cuda")
    with pytest.raises(UsageError, match=r"--workers 99: the cluster has 8 CPUs"):
        plan(Machine(8), workers=99)
    with pytest.raises(UsageError, match=r"--workers 8: the cluster has 36 CPUs and 8 GPUs"):
        plan(Machine(4, 8), Machine(32))
    with pytest.raises(
        UsageError, match=r"2 workers and an actor for each take 4 CPUs, the cluster has 2; ask for fewer"
    ):
        plan(Machine(2), workers=2, sample_actors=1)
    with pytest.raises(UsageError, match="one of them makes the samples"):
        plan(Machine(8), processes=1, sample_actors=1)
    with pytest.raises(UsageError, match="--sample-actors -1: expected a number from 0"):
        plan(Machine(8), sample_actors=-1)
