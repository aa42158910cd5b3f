"""What a planned run takes and costs on a cluster that a file describes; the prices are the user's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import yaml

from rayvos import storage
from rayvos.engines.base import EngineNeeds
from rayvos.errors import UsageError, choose
from rayvos.pipelines.cluster import ActorPool, Node, plan_pool

__all__ = ["ClusterCosts", "ClusterForecast", "cluster_forecast", "cluster_pool", "read_cluster"]

T = TypeVar("T")

READS_PER_VIDEO = 10  # blocks of 5 MB, as fsspec reads ahead; a picture is one
WRITES_PER_UNIT = 2  # the mark that it was begun, and its file
READS_PER_UNIT = 3  # is it there, who else began it, its clips' rows of the manifest


@dataclass(frozen=True, slots=True)
class Workers:
    """Machines of one kind that come and go."""

    machines: int
    cpus: float
    gpus: float = 0
    price_per_hour: float | None = None
    start_s: float = 180.0
    idle_s: float = 180.0
    repeated_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Head:
    """The machine that stays."""

    price_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """Prices of the object store."""

    price_per_gb_month: float | None = None
    price_per_1000_reads: float | None = None
    price_per_1000_writes: float | None = None


@dataclass(frozen=True, slots=True)
class ClusterCosts:
    """A cluster as `cluster/costs.yaml` describes it."""

    workers: Workers
    head: Head = Head()
    storage: Storage = Storage()
    currency: str = ""


@dataclass(frozen=True, slots=True)
class ClusterForecast:
    """What a run takes and costs; a cost is None where its price is not filled in."""

    machines: int
    """That work at the same time."""
    actors: int
    seconds: float
    """From the start of the job to its end."""
    worker_hours: float
    """Of all machines together, coming and going included."""
    head_hours: float
    reads: int
    writes: int
    output_bytes: float
    currency: str
    worker_cost: float | None
    head_cost: float | None
    request_cost: float | None
    storage_cost_per_month: float | None
    missing_prices: tuple[str, ...]


def read_cluster(path: str) -> ClusterCosts:
    """Read a cluster's description.

    Raises:
        UsageError: it is no such file; the message names the key.
        StorageError: it cannot be read.
    """
    try:
        found = yaml.safe_load(storage.read_bytes(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--cluster {path}: expected YAML: {error}") from error
    return _read(ClusterCosts, found, f"--cluster {path}")


_PARTS: Mapping[str, type[Any]] = {"workers": Workers, "head": Head, "storage": Storage}


def _read(kind: type[T], found: Any, where: str) -> T:
    if not isinstance(found, dict):
        raise UsageError(f"{where}: expected 'key: value' lines, found {found!r}; see cluster/costs.yaml")
    assert is_dataclass(kind)
    names = [field.name for field in fields(kind)]
    values: dict[str, Any] = {}
    for key, value in found.items():
        choose(f"{where}: key", str(key), names)
        if key in _PARTS:
            values[key] = _read(_PARTS[key], value, f"{where} {key}")
        elif key == "currency":
            values[key] = str(value)
        elif value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0):
            values[key] = value
        else:
            raise UsageError(f"{where} {key}: expected a number from 0, or nothing, found {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{where}: {error}; see cluster/costs.yaml") from error


def cluster_pool(costs: ClusterCosts, needs: EngineNeeds, num_units: int, device: str) -> tuple[ActorPool, int]:
    """Return the actors that a job gets on the cluster when all machines are up, and the machines that they fill.

    Raises:
        UsageError: no machine can hold an actor.
    """
    workers = costs.workers
    nodes = [Node(0, 0, 0), *(Node(workers.cpus, workers.gpus, 0) for _ in range(int(workers.machines)))]
    pool = plan_pool(nodes, needs, num_units=num_units, device=device)
    all_actors = plan_pool(nodes, needs, num_units=10**9, device=device).num_actors
    per_machine = math.ceil(all_actors / max(1, workers.machines))
    return pool, math.ceil(pool.num_actors / per_machine)


def cluster_forecast(
    costs: ClusterCosts, pool: ActorPool, machines: int, *, busy_s: float, units: int, output_bytes: float,
    pictures: int, videos: int,
) -> ClusterForecast:  # fmt: skip
    """Return what a run takes on a cluster.

    Args:
        costs: the cluster.
        pool: its actors, from `cluster_pool`.
        machines: how many they fill.
        busy_s: seconds of one actor that the work takes, at measured rates.
        units: to do.
        output_bytes: that will be written.
        pictures: files of frames that will be read.
        videos: video files that will be read.
    """
    workers = costs.workers
    work_s = busy_s * (1 + workers.repeated_share) / pool.num_actors
    tail_s = 0.5 * busy_s / units if units and pool.num_actors > 1 else 0.0
    seconds = (workers.start_s + work_s + tail_s) if units else 0.0
    worker_hours = machines * (seconds + workers.idle_s) / 3600 if units else 0.0
    reads = pictures + READS_PER_VIDEO * videos + READS_PER_UNIT * units
    writes = WRITES_PER_UNIT * units
    prices = costs.storage
    request_cost = None
    if prices.price_per_1000_reads is not None and prices.price_per_1000_writes is not None:
        request_cost = (reads * prices.price_per_1000_reads + writes * prices.price_per_1000_writes) / 1000
    return ClusterForecast(
        machines=machines,
        actors=pool.num_actors,
        seconds=seconds,
        worker_hours=worker_hours,
        head_hours=seconds / 3600,
        reads=reads,
        writes=writes,
        output_bytes=output_bytes,
        currency=costs.currency,
        worker_cost=_times(worker_hours, workers.price_per_hour),
        head_cost=_times(seconds / 3600, costs.head.price_per_hour),
        request_cost=request_cost,
        storage_cost_per_month=_times(output_bytes / 1e9, prices.price_per_gb_month),
        missing_prices=tuple(_missing(costs)),
    )


def _times(amount: float, price: float | None) -> float | None:
    return None if price is None else amount * price


def _missing(costs: ClusterCosts) -> Iterator[str]:
    for part in ("workers", "head", "storage"):
        found = getattr(costs, part)
        for name in (field.name for field in fields(found)):
            if name.startswith("price") and getattr(found, name) is None:
                yield f"{part}.{name}"
