"""Live metrics of a run for Prometheus, by `ray.util.metrics`; `cluster/monitoring` has a dashboard and alerts.

The driver counts what receipts tell. Ray exports each name with the prefix `ray_`, on the metrics port of the
driver's machine.

Why so: a worker's own series would end with the worker, and a cluster of preemptible machines would leave thousands
of them. What counts in the end is the commit log; metrics are for watching.
"""

from __future__ import annotations

from typing import Any

from rayvos.pipelines.receipts import Receipt

__all__ = ["COUNTERS", "GAUGES", "HISTOGRAMS", "RunMetrics"]

COUNTERS = {
    "rayvos_units_total": "units committed",
    "rayvos_pieces_total": "clips or frame ranges done, failed ones included",
    "rayvos_frames_total": "frames of committed units",
    "rayvos_labels_total": "rows of label tables",
    "rayvos_masks_total": "rows with a mask",
    "rayvos_candidates_total": "rows of candidate tables",
    "rayvos_bytes_total": "bytes of units' files",
    "rayvos_failures_total": "dead letters, by code",
    "rayvos_worker_deaths_total": "workers that began a unit and did not end it",
    "rayvos_busy_seconds_total": "seconds of actors from the start of a unit to its commit",
    "rayvos_engine_seconds_total": "of these, in the engine",
    "rayvos_wait_seconds_total": "of these, waiting: for decoding, for storage",
}
GAUGES = {
    "rayvos_units_left": "units that this start of the driver has still to do",
    "rayvos_device_busy_share": "share of the last unit's time in which the engine worked",
}
HISTOGRAMS = {"rayvos_unit_seconds": "seconds from the start of a unit to its commit"}

UNIT_SECONDS = [1.0, 2, 5, 10, 20, 40, 60, 90, 120, 300, 600, 1800]  # a unit is planned for 60
TAGS = {"rayvos_failures_total": ("run", "code"), "rayvos_wait_seconds_total": ("run", "what")}


class RunMetrics:
    """Counts one start of the driver; needs a connection to Ray.

    Args:
        run: the run folder; its last part becomes the tag `run` of every series.
        num_units: units to do.
    """

    def __init__(self, run: str, num_units: int) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._run = run.rstrip("/").rpartition("/")[2]
        self._units_left = num_units
        self._of: dict[str, Any] = {}
        for name, text in COUNTERS.items():
            self._of[name] = Counter(name, description=text, tag_keys=TAGS.get(name, ("run",)))
        for name, text in GAUGES.items():
            self._of[name] = Gauge(name, description=text, tag_keys=("run",))
        for name, text in HISTOGRAMS.items():
            self._of[name] = Histogram(name, description=text, boundaries=UNIT_SECONDS, tag_keys=("run",))
        self._of["rayvos_units_left"].set(num_units, {"run": self._run})

    def add(self, receipt: Receipt) -> None:
        """Count one committed unit."""
        self._count("units", 1)
        self._count("pieces", receipt.num_pieces)
        self._count("frames", receipt.num_frames)
        for name, number in receipt.counts.items():
            self._count(name, number)
        self._count("bytes", receipt.num_bytes)
        for code, number in receipt.failures.items():
            self._count("failures", number, code=code)
        self._count("worker_deaths", receipt.num_attempts - 1)
        self._count("busy_seconds", receipt.seconds)
        self._count("engine_seconds", receipt.engine_s)
        self._count("wait_seconds", receipt.decode_wait_s, what="decode")
        self._count("wait_seconds", receipt.commit_s, what="storage")
        self._units_left -= 1
        self._of["rayvos_units_left"].set(self._units_left, {"run": self._run})
        if receipt.seconds > 0:
            self._of["rayvos_device_busy_share"].set(receipt.engine_s / receipt.seconds, {"run": self._run})
            self._of["rayvos_unit_seconds"].observe(receipt.seconds, {"run": self._run})

    def _count(self, name: str, amount: float, **tags: str) -> None:
        if amount > 0:  # Ray refuses a count of none
            self._of[f"rayvos_{name}_total"].inc(amount, {"run": self._run, **tags})
