"""Where the time of one clip goes: waiting for frames, the engine, encoding."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rayvos.engines.base import FrameReader

__all__ = ["StageSeconds", "TimedReader"]


@dataclass(slots=True)
class StageSeconds:
    """Where the time of a clip goes; each stage adds to its own number."""

    decode_wait: float = 0.0
    """The engine waited for frames."""
    engine: float = 0.0
    """The engine worked."""
    encode: float = 0.0
    """Masks were encoded, beside the engine."""


class TimedReader:
    """Passes frames on and adds up the time spent waiting for them."""

    def __init__(self, reader: FrameReader, seconds: StageSeconds) -> None:
        self.num_frames, self.height, self.width = reader.num_frames, reader.height, reader.width
        self._reader = reader
        self._seconds = seconds

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, image)."""
        started = time.perf_counter()
        for item in self._reader.read(frames):
            self._seconds.decode_wait += time.perf_counter() - started
            yield item
            started = time.perf_counter()
        self._seconds.decode_wait += time.perf_counter() - started

    def close(self) -> None:
        """Close the reader behind."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
