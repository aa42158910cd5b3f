"""How many workers train on a cluster, what each asks of Ray, and whether actors elsewhere make its samples.

A worker's CPUs are those of one machine; its sample actors are anywhere. What is planned fits together: every worker
has its CPUs beside one actor at least, so that neither waits for what the other holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rayvos.errors import UsageError
from rayvos.training.runs import LOADERS_BESIDE_GPU, num_loaders

__all__ = ["Machine", "WorkerGroup", "plan_workers"]


class Machine(Protocol):
    """A machine of the cluster."""

    @property
    def num_cpus(self) -> float:
        """Its CPUs, as Ray counts them."""
        ...

    @property
    def num_gpus(self) -> float:
        """Its GPUs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroup:
    """How many workers train, and what each asks of Ray."""

    num_workers: int
    num_cpus: int
    """Per worker: its own threads, and the processes that make samples."""
    use_gpu: bool
    sample_actors: int = 0
    """Per worker: actors of one CPU each that make its samples on any machine; 0: processes beside it do."""

    def num_threads(self, processes: int | None) -> int:
        """Return how many threads a worker computes with, beside its processes (as in `RunSettings`).

        The threads of one operation end together: with more of them and of processes than cores, all wait for the
        one that has none. On two cores that took up to thirty times as long.
        """
        beside = 0 if self.sample_actors else num_loaders(processes, beside_gpu=self.use_gpu)
        return max(1, self.num_cpus - beside)


def plan_workers(
    machines: Sequence[Machine],
    *,
    workers: int | None,
    device: str,
    processes: int | None,
    sample_actors: int | None = None,
) -> WorkerGroup:
    """Return the group for a cluster.

    Args:
        machines: of the cluster.
        workers: what the user asks for; None: one per GPU, or one on a cluster without.
        device: `cpu` leaves GPUs alone, `cuda` insists on them, `auto` takes them where they are.
        processes: per worker, that make samples; see `RunSettings`.
        sample_actors: per worker, in place of processes; the first finds a CPU, others may have to wait for one. None:
            as many as processes beside a GPU, where GPUs' machines have too few CPUs for those and others have more;
            else 0.

    Raises:
        UsageError: the cluster does not have what is asked for.
    """
    num_cpus, num_gpus = int(sum(there.num_cpus for there in machines)), int(sum(there.num_gpus for there in machines))
    use_gpu = num_gpus > 0 and device != "cpu"
    if device.startswith("cuda") and not use_gpu:
        raise UsageError("--device cuda: the cluster has no GPU; use --device cpu, or add a machine with one")
    num_workers = workers or (num_gpus if use_gpu else 1)
    if num_workers < 1 or _places(machines, 1, use_gpu=use_gpu) < num_workers:
        raise UsageError(f"--workers {num_workers}: the cluster has {num_cpus} CPUs and {num_gpus} GPUs; ask for fewer")
    # One CPU stays free: for Ray, and so that a group can start while the one before is ending.
    free = (num_cpus - 1) // num_workers
    if sample_actors is None:
        sample_actors = _actors_beside_few_cpus(machines, num_workers, free) if use_gpu and processes is None else 0
    _check_actors(sample_actors, processes, num_workers=num_workers, num_cpus=num_cpus)
    most = free - sample_actors
    if use_gpu:
        most = min(most, 1 if sample_actors else 1 + num_loaders(processes, beside_gpu=True))
    return WorkerGroup(
        num_workers=num_workers,
        num_cpus=_cpus_per_worker(machines, num_workers, use_gpu=use_gpu, most=most),
        use_gpu=use_gpu,
        sample_actors=sample_actors,
    )


def _check_actors(sample_actors: int, processes: int | None, *, num_workers: int, num_cpus: int) -> None:
    if sample_actors < 0:
        raise UsageError(f"--sample-actors {sample_actors}: expected a number from 0")
    if sample_actors and processes is not None:
        raise UsageError("--loaders and --sample-actors: one of them makes the samples; leave the other out")
    if sample_actors and 2 * num_workers > num_cpus:
        raise UsageError(
            f"--sample-actors {sample_actors}: {num_workers} workers and an actor for each take {2 * num_workers} "
            f"CPUs, the cluster has {num_cpus}; ask for fewer workers, add machines, or leave it out"
        )


def _actors_beside_few_cpus(machines: Sequence[Machine], num_workers: int, free: int) -> int:
    """Return how many actors a worker gets by default; `free` CPUs there are for each worker, on all machines."""
    beside = _cpus_per_worker(machines, num_workers, use_gpu=True, most=min(free, 1 + LOADERS_BESIDE_GPU)) - 1
    anywhere = free - 1
    return min(LOADERS_BESIDE_GPU, anywhere) if beside < min(LOADERS_BESIDE_GPU, anywhere) else 0


def _cpus_per_worker(machines: Sequence[Machine], num_workers: int, *, use_gpu: bool, most: int) -> int:
    """Return how many CPUs, `most` or fewer, every worker finds on its machine; one at least."""
    num_cpus = max(1, most)
    while num_cpus > 1 and _places(machines, num_cpus, use_gpu=use_gpu) < num_workers:
        num_cpus -= 1
    return num_cpus


def _places(machines: Sequence[Machine], num_cpus: int, *, use_gpu: bool) -> int:
    """Return how many workers of so many CPUs find room."""
    by_cpus = [int(there.num_cpus) // num_cpus for there in machines]
    if not use_gpu:
        return sum(by_cpus)
    return sum(min(places, int(there.num_gpus)) for places, there in zip(by_cpus, machines, strict=True))
