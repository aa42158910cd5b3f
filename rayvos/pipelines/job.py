"""What a job on a manifest is told, whatever it makes of the clips."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from rayvos.engines.registry import EngineChoice
from rayvos.errors import UsageError
from rayvos.pipelines.work import WorkChoice
from rayvos.video.limits import DecodeLimits

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job(ABC):
    """What every job is told; its children add what they do to each clip."""

    manifest: str
    """Path or URL."""
    out: str
    """The run folder, path or URL."""
    engine: EngineChoice
    clip_ids: tuple[str, ...] | None = None
    """Only these clips; None: all."""
    limit: int | None = None
    """Only the first so many clips."""
    retry_failed: bool = False
    """Take up dead letters again."""
    max_failed: float = 0.5
    """Below 1: the share of pieces, from 1: the number of pieces, that may fail before the job gives up."""
    max_attempts: int = 3
    """Workers a clip may kill before it is set aside."""
    timeout_s: float | None = None
    """Time limit of a clip's frame range; None: 20 times what is planned, 600 s at least."""
    memory_limit_bytes: int | None = None
    """Per actor; None: an equal share of its machine's."""
    gpus_per_actor: float | None = None
    """None: what the engine asks for. Below 1, an actor gets that share of its GPU's memory and no more."""
    max_pixels: int = DecodeLimits().max_pixels
    """Largest frame, width x height."""
    actors: int | None = None
    """None: as many as fit."""
    address: str = ""
    """Of Ray: `local`, `auto`, an address; empty: RAY_ADDRESS, else `local`."""
    overwrite: bool = False
    """Discard the run that is in the folder."""

    def __post_init__(self) -> None:
        if self.max_failed < 0 or self.max_attempts < 1:
            raise UsageError("max_failed: expected 0 or more; max_attempts: expected 1 or more")
        for name in ("timeout_s", "memory_limit_bytes", "gpus_per_actor", "max_pixels", "actors", "limit"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name}: expected more than 0, found {value}")
        share = self.gpus_per_actor
        if share is not None and share > 1 and share != int(share):  # Ray has no such thing
            raise UsageError(f"gpus_per_actor: expected a share of one GPU or a whole number of them, found {share}")

    @abstractmethod
    def work(self) -> WorkChoice:
        """Return what is done to each clip."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what `run.json` keeps of the job: all but the work's own options, which are in its configuration."""
        return {
            "manifest": self.manifest,
            "clips": None if self.clip_ids is None else len(self.clip_ids),
            "limit": self.limit,
            "engine": self.engine.name,
            "weights": self.engine.weights,
            "device": self.engine.device,
            "seed": self.engine.seed,
            "calibration": self.engine.calibration,
            "max_failed": self.max_failed,
            "max_attempts": self.max_attempts,
            "timeout_s": self.timeout_s,
            "memory_limit_bytes": self.memory_limit_bytes,
            "gpus_per_actor": self.gpus_per_actor,
            "max_pixels": self.max_pixels,
            "retry_failed": self.retry_failed,
            "arguments": sys.argv[1:],
        }
