"""What the driver counts while receipts come in: shown on the way, kept in `run.json` at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rayvos.pipelines.receipts import Receipt

__all__ = ["RunProgress"]


@dataclass(slots=True)
class RunProgress:
    """Counts of this start of the driver, from receipts."""

    num_units: int
    """Units this start has to do."""
    num_frames: int
    """Their frames."""
    counts: Counter[str]
    """What was made, by name, those of which there is nothing yet included."""
    num_actors: int = 0
    units_done: int = 0
    pieces_done: int = 0
    frames_done: int = 0
    num_bytes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    first_failure: str = ""
    decode_wait_s: float = 0.0
    engine_s: float = 0.0
    encode_s: float = 0.0
    commit_s: float = 0.0
    busy_s: float = 0.0
    """Seconds of actors, waiting included."""
    peak_rss_bytes: int = 0
    peak_gpu_bytes: int = 0
    gpu_total_bytes: int = 0
    """Memory of the smallest GPU in use; 0: none is."""
    worker_deaths: int = 0
    """Workers that began a unit and did not end it."""
    workers: set[str] = field(default_factory=set)
    """Processes that committed units."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the actors were asked for."""
        return time.monotonic() - self.started

    @property
    def frames_per_second(self) -> float:
        """Frames of committed units per second."""
        return self.frames_done / max(self.seconds, 1e-9)

    def rates(self) -> Mapping[str, float]:
        """Return what was made per second, by name."""
        return {name: count / max(self.seconds, 1e-9) for name, count in self.counts.items()}

    def add(self, receipt: Receipt) -> None:
        """Count one unit."""
        self.units_done += 1
        self.pieces_done += receipt.num_pieces
        self.frames_done += receipt.num_frames
        self.counts.update(receipt.counts)
        self.num_bytes += receipt.num_bytes
        self.failures.update(receipt.failures)
        self.first_failure = self.first_failure or receipt.first_failure
        self.decode_wait_s += receipt.decode_wait_s
        self.engine_s += receipt.engine_s
        self.encode_s += receipt.encode_s
        self.commit_s += receipt.commit_s
        self.busy_s += receipt.seconds
        self.worker_deaths += receipt.num_attempts - 1
        self.workers.add(receipt.worker)
        self.peak_rss_bytes = max(self.peak_rss_bytes, receipt.rss_bytes)
        self.peak_gpu_bytes = max(self.peak_gpu_bytes, receipt.gpu_bytes)
        known = [total for total in (self.gpu_total_bytes, receipt.gpu_total_bytes) if total]
        self.gpu_total_bytes = min(known, default=0)

    def throughput(self) -> dict[str, float]:
        """Return the numbers that `run.json` keeps."""
        seconds = self.seconds
        return {
            "seconds": round(seconds, 3),
            "actors": self.num_actors,
            "workers": len(self.workers),
            "worker_deaths": self.worker_deaths,
            "units": self.units_done,
            "pieces": self.pieces_done,
            "frames": self.frames_done,
            **self.counts,
            "bytes": self.num_bytes,
            "frames_per_s": round(self.frames_done / max(seconds, 1e-9), 3),
            **{f"{name}_per_s": round(rate, 3) for name, rate in self.rates().items()},
            "decode_wait_s": round(self.decode_wait_s, 3),
            "engine_s": round(self.engine_s, 3),
            "encode_s": round(self.encode_s, 3),
            "commit_s": round(self.commit_s, 3),
            "busy_s": round(self.busy_s, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "peak_gpu_bytes": self.peak_gpu_bytes,
            "gpu_total_bytes": self.gpu_total_bytes,
        }
