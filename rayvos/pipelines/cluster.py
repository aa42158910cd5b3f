"""Joins a Ray cluster or starts one inside this process, and decides how many actors of which size it gets.

Why so many and not more: an actor that dies is started again, and needs the CPUs it had, maybe on another machine.
A pool that takes every CPU of the cluster cannot come back after a machine is lost, and waits for ever. One CPU
stays free, and on several machines actors ask for a share of their CPUs that fits without the largest machine.

An autoscaler tells nobody how many machines it may start. Who wants more actors than the machines of the moment hold
says how many: those that find no room wait, which is what an autoscaler starts machines for.
"""

from __future__ import annotations

import io
import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayvos.engines.base import EngineNeeds
from rayvos.errors import RunError, UsageError
from rayvos.pipelines.quiet import quiet_driver, quiet_start

__all__ = [
    "ActorPool",
    "Node",
    "connected",
    "data_settings",
    "gpu_share_for",
    "plan_pool",
    "read_nodes",
    "usable_cores",
]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
OBJECT_STORE_BYTES = 200_000_000  # receipts only; Ray asks for at least 79 MB
CPUS_BESIDE_GPU = 4.0  # two or three decode, one drives the GPU, one encodes now and then
MAX_GPU_ACTORS = 8
GPU_CONTEXT_BYTES = 600 << 20  # of CUDA and its libraries, per process, outside what torch counts
GPU_HEADROOM = 0.9  # clips differ
SHARE_OF_MEMORY = 0.9  # of what Ray counts as a machine's memory; the rest is the driver's and Ray's own


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster offers."""

    num_cpus: float
    num_gpus: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class ActorPool:
    """How many actors a job gets, and what each asks of Ray."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    memory_limit_bytes: int | None
    """Per actor; None where an accelerator's driver makes a limit meaningless."""
    num_threads: int
    """For torch and OpenCV inside an actor."""


def usable_cores() -> int:
    """Return the CPU cores this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        most, period = quota.read_text().split()
        if most != "max":
            cores = min(cores, max(1, int(most) // int(period)))
    return cores


@contextmanager
def connected(address: str, *, least_cpus: float = 0) -> Iterator[None]:
    """Be connected to Ray inside the block.

    Args:
        address: `local` starts a cluster inside this process and ends it with the block; `auto` joins the one that
            runs on this machine; an address or `ray://` URL joins that one; empty takes RAY_ADDRESS, else `local`.
            A process that is connected already stays as it is.
        least_cpus: logical CPUs a local cluster must offer, however few cores there are.

    Raises:
        RunError: no cluster answers at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS", "") or "local"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {
        "num_cpus": math.ceil(max(usable_cores(), least_cpus)) + 1,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    try:
        _check_answers(address)
        with quiet_start():
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR,
                **(local if address == "local" else {}),
            )  # fmt: skip
    except Exception as error:
        # A bare Exception is what Ray raises where its processes do not come up within half a minute.
        if type(error) is not Exception and not isinstance(error, OSError | RuntimeError | ValueError):
            raise
        hint = "check --address and RAY_ADDRESS"
        if "timed out during startup" in str(error):
            hint = "the machine is busy: the same command works once it is less so"
        elif address == "local":  # Ray keeps a token in the home folder
            hint = "where the home folder cannot be written, set RAY_AUTH_MODE=disabled"
        raise RunError(f"Ray at {address!r}: could not start or connect: {error}; {hint}") from error
    try:
        with quiet_driver():
            yield
    finally:
        with redirect_stdout(io.StringIO()):  # Ray prints here what it held back as repeated
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Fail at once where nobody listens; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def read_nodes() -> list[Node]:
    """Return the machines that are alive."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0), found.get("memory", 0.0)) for found in alive]


def plan_pool(
    nodes: list[Node],
    needs: EngineNeeds,
    *,
    num_units: int,
    actors: int | None = None,
    device: str = "auto",
    memory_limit_bytes: int | None = None,
) -> ActorPool:
    """Return the pool of actors for a job.

    Args:
        nodes: the cluster's machines.
        needs: what one actor of the engine takes.
        num_units: units of work; more actors than that are of no use.
        actors: what the user asks for, which may be more than the machines hold now; None takes what fits.
        device: `cpu` leaves accelerators alone; `cuda` insists on them, and with `actors` waits for machines that
            have some; `auto` takes them where they are.
        memory_limit_bytes: per actor; None shares out a machine's memory.

    Raises:
        UsageError: no machine can hold an actor, or accelerators are asked for and there are none.
    """
    num_gpus = _gpus_per_actor(nodes, needs, device, may_come=actors is not None)
    if num_gpus and memory_limit_bytes is not None:
        raise UsageError("--memory-limit: works for actors without a GPU only; leave it out, or use --device cpu")
    num_cpus = _cpus_beside_gpu(nodes, num_gpus) if num_gpus else needs.num_cpus
    places = [_places(node, num_cpus, num_gpus) for node in nodes]
    total_cpus, largest = sum(node.num_cpus for node in nodes), max((node.num_cpus for node in nodes), default=0.0)
    fitting = sum(places)
    if fitting and not num_gpus and fitting * num_cpus > total_cpus - 1:
        fitting = max(1, math.floor((total_cpus - 1) / num_cpus))
    if fitting < 1 and actors is None:
        raise UsageError(
            f"no machine holds an actor of {num_cpus} CPUs and {num_gpus} GPUs; the largest has {largest} CPUs; "
            "if the cluster adds machines by itself, say for how many actors: --actors N"
        )
    num_actors = max(1, min(actors or fitting, num_units))
    asked_cpus = num_cpus
    if len(nodes) > 1 and not num_gpus and num_actors <= fitting:
        asked_cpus = min(num_cpus, max(0.1, math.floor(100 * (total_cpus - largest - 1) / num_actors) / 100))
    limit = memory_limit_bytes
    if limit is None and not num_gpus:
        limit = _share_of_memory(nodes, places, num_actors)
    return ActorPool(num_actors, asked_cpus, num_gpus, limit, max(1, int(num_cpus)))


def gpu_share_for(peak_bytes: int, total_bytes: int) -> float:
    """Return the smallest share of a GPU in which an actor fits that was seen to need `peak_bytes` of memory.

    Args:
        peak_bytes: what torch reserved at most; the driver's context comes on top.
        total_bytes: memory of the GPU.

    Returns:
        1 / n for n actors on a GPU, rounded down to hundredths, n from 1 to `MAX_GPU_ACTORS`.
    """
    room = int(GPU_HEADROOM * total_bytes // (peak_bytes + GPU_CONTEXT_BYTES))
    return math.floor(100 / max(1, min(MAX_GPU_ACTORS, room))) / 100


def _gpus_per_actor(nodes: list[Node], needs: EngineNeeds, device: str, *, may_come: bool) -> float:
    there = any(node.num_gpus for node in nodes)
    if device.startswith("cuda") and not there:
        if not may_come:
            raise UsageError(
                "--device cuda: the cluster has no GPU; use --device cpu, add a machine with one, or where machines "
                "come by themselves, say for how many actors: --actors N"
            )
        there = True
    return needs.num_gpus if there and device != "cpu" else 0.0


def _cpus_beside_gpu(nodes: list[Node], num_gpus: float) -> float:
    """Return the CPUs of an actor with a GPU: for decoding ahead, the engine, encoding behind; fewer where scarce."""
    shares = [node.num_cpus / (node.num_gpus / num_gpus) for node in nodes if node.num_gpus >= num_gpus]
    return max(1.0, min(CPUS_BESIDE_GPU, math.floor(min(shares, default=CPUS_BESIDE_GPU))))


def _places(node: Node, num_cpus: float, num_gpus: float) -> int:
    by_cpu = math.floor(node.num_cpus / num_cpus) if num_cpus else math.inf
    by_gpu = math.floor(node.num_gpus / num_gpus) if num_gpus else math.inf
    return int(min(by_cpu, by_gpu))


def _share_of_memory(nodes: list[Node], places: list[int], num_actors: int) -> int | None:
    """Return what each actor may use so that those on the fullest machine fit together."""
    shares = [
        SHARE_OF_MEMORY * node.memory_bytes / min(num_actors, max(1, fit))
        for node, fit in zip(nodes, places, strict=True)
        if node.memory_bytes and fit
    ]
    return int(min(shares)) if shares else None


@contextmanager
def data_settings(*, no_progress_timeout_s: float) -> Iterator[None]:
    """Set what rayvos needs of Ray Data's process-wide context, and put it back behind the block.

    Args:
        no_progress_timeout_s: Ray ends the execution when no unit ends for so long: its failure mode is to wait.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    wanted = {
        "enable_progress_bars": False,  # receipts drive our own
        "print_on_execution_start": False,
        "execution_no_progress_timeout_s": no_progress_timeout_s,
        "max_errored_blocks": 0,
        "actor_task_retry_on_errors": False,  # a worker turns every error into a dead letter or a receipt
    }
    before = {name: getattr(context, name) for name in wanted}
    ray_logger = logging.getLogger("ray.data")
    level = ray_logger.level
    ray_logger.setLevel(logging.DEBUG if logger.isEnabledFor(logging.DEBUG) else logging.CRITICAL)
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        ray_logger.setLevel(level)
