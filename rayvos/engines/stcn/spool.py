"""A temporary file of probability maps: what the backward pass found waits there for the forward pass.

A clip's maps would fill the memory (5 MB a frame for three objects at 480x864); on disk they take what they hold,
since most pixels are sure. They are rounded to 16 bits, 1/65535, far below what decides a pixel.
"""

from __future__ import annotations

import tempfile
import zlib
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import StorageError

__all__ = ["ProbabilitySpool"]

STEPS = 65535


class ProbabilitySpool:
    """Maps by frame; the file has no name and vanishes with the process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by __exit__
        self._places: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        self._end = 0

    def put(self, frame: int, maps: NDArray[np.float32]) -> None:
        """Keep the maps of a frame, values in [0, 1].

        Raises:
            StorageError: the temporary folder is full.
        """
        rounded = np.rint(maps * STEPS).astype("<u2")
        # High bytes first, then low ones: the high ones are nearly constant.
        data = zlib.compress(rounded.view(np.uint8).reshape(-1, 2).T.tobytes(), 1)
        try:
            self._file.seek(self._end)
            left = memoryview(data)
            while left:  # a full disk takes a part first
                left = left[self._file.write(left) :]
        except OSError as error:
            raise StorageError(
                f"temporary folder {tempfile.gettempdir()}: could not keep frame {frame}, {len(data)} bytes after "
                f"{self._end}: {error}; free space there, or set TMPDIR to another folder"
            ) from error
        self._places[frame] = (self._end, len(data), maps.shape)
        self._end += len(data)

    def get(self, frame: int) -> NDArray[np.float32] | None:
        """Return the maps of a frame; None where none were kept."""
        if frame not in self._places:
            return None
        start, length, shape = self._places[frame]
        self._file.seek(start)
        halves = np.frombuffer(zlib.decompress(self._file.read(length)), np.uint8).reshape(2, -1)
        rounded = np.ascontiguousarray(halves.T).view("<u2").reshape(shape)
        maps: NDArray[np.float32] = rounded.astype(np.float32) / np.float32(STEPS)
        return maps

    def __len__(self) -> int:
        """Return the size of the file in bytes."""
        return self._end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
