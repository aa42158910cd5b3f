from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.engines.base import EngineNeeds
from rayvos.errors import RunError, UsageError
from rayvos.pipelines.cluster import Node, connected, gpu_share_for, plan_pool

CPU_ENGINE = EngineNeeds(0, 0.1, 0.1)
GPU_ENGINE = EngineNeeds(0, 0.1, 0.1, num_gpus=1)
GIB = 2**30


def test_one_cpu_of_a_machine_stays_free() -> None:
    pool = plan_pool([Node(9, 0, 16 * GIB)], CPU_ENGINE, num_units=100)

    assert (pool.num_actors, pool.num_cpus, pool.num_gpus) == (8, 1, 0)
    assert pool.memory_limit_bytes is not None
    assert 8 * pool.memory_limit_bytes <= 16 * GIB


@given(st.lists(st.integers(2, 64), min_size=2, max_size=6), st.sampled_from([0.5, 1, 2]))
def test_actors_fit_without_the_largest_machine(sizes: list[int], num_cpus: float) -> None:
    nodes = [Node(size, 0, 0) for size in sizes]

    pool = plan_pool(nodes, EngineNeeds(0, 0.1, 0.1, num_cpus=num_cpus), num_units=10**6)

    room = max(0.1 * pool.num_actors, sum(sizes) - max(sizes) - 1)
    assert pool.num_actors * pool.num_cpus <= room + 1e-9
    assert pool.num_actors >= max(1, (sum(sizes) - 1) // num_cpus - len(sizes))


def test_there_are_no_more_actors_than_units() -> None:
    assert plan_pool([Node(64, 0, 0)], CPU_ENGINE, num_units=3).num_actors == 3


def test_every_gpu_gets_an_actor_and_its_share_of_cpus() -> None:
    pool = plan_pool([Node(8, 4, 0), Node(8, 4, 0)], GPU_ENGINE, num_units=100)

    assert (pool.num_actors, pool.num_cpus, pool.num_gpus) == (8, 2, 1)
    assert pool.memory_limit_bytes is None


@pytest.mark.parametrize("nodes", [[Node(8, 0, 0)], [Node(8, 2, 0)]])
def test_cpus_do_where_gpus_are_absent_or_not_wanted(nodes: list[Node]) -> None:
    device = "cpu" if nodes[0].num_gpus else "auto"

    assert plan_pool(nodes, GPU_ENGINE, num_units=100, device=device).num_gpus == 0


def test_actors_share_a_gpu_and_its_cpus() -> None:
    needs = EngineNeeds(0, 0.1, 0.1, num_gpus=0.25)

    pool = plan_pool([Node(8, 1, 0), Node(16, 2, 0)], needs, num_units=100)

    assert (pool.num_actors, pool.num_gpus, pool.num_cpus) == (12, 0.25, 2)


def test_a_gpu_that_is_insisted_on_must_be_there() -> None:
    with pytest.raises(UsageError, match="no GPU"):
        plan_pool([Node(8, 0, 0)], GPU_ENGINE, num_units=1, device="cuda")


def test_a_machine_too_small_for_an_actor_is_named() -> None:
    with pytest.raises(UsageError, match="no machine holds an actor of 16 CPUs"):
        plan_pool([Node(8, 0, 0)], EngineNeeds(0, 0.1, 0.1, num_cpus=16), num_units=1)


def test_actors_beyond_the_machines_of_the_moment_wait_for_more() -> None:
    nodes = [Node(0, 0, 0), Node(4, 0, 0)]

    pool = plan_pool(nodes, CPU_ENGINE, num_units=100, actors=40)

    assert (pool.num_actors, pool.num_cpus) == (40, 1)


def test_a_cluster_of_a_head_alone_needs_to_hear_how_many_actors() -> None:
    head = [Node(0, 0, 0)]

    with pytest.raises(UsageError, match="--actors N"):
        plan_pool(head, CPU_ENGINE, num_units=100)
    with pytest.raises(UsageError, match="--actors N"):
        plan_pool(head, GPU_ENGINE, num_units=100, device="cuda")

    assert plan_pool(head, CPU_ENGINE, num_units=100, actors=7).num_actors == 7
    pool = plan_pool(head, GPU_ENGINE, num_units=100, actors=7, device="cuda")
    assert (pool.num_actors, pool.num_gpus, pool.num_cpus) == (7, 1, 4)


@given(peak=st.integers(0, 90 * GIB), total=st.integers(8 * GIB, 160 * GIB))
def test_as_many_actors_share_a_gpu_as_fit_its_memory(peak, total):
    share = gpu_share_for(peak, total)

    actors = int(1 / share)
    assert 1 <= actors <= 8
    if actors > 1:
        assert actors * peak < 0.9 * total
        assert share * total > peak
    elif peak:
        assert 2 * (peak + GIB) > 0.9 * total


def test_a_machine_too_busy_to_start_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(**options: object) -> None:
        raise Exception("The current node timed out during startup")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", give_up)

    with pytest.raises(RunError, match=r"could not start or connect: The current node.*the machine is busy"):
        connected("local").__enter__()
