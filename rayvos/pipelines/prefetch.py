"""Opens the next clip of a unit, and decodes its first frames, while the current one is labelled.

On storage with latency a short clip's opening takes as long as its labelling; a worker that opens one ahead never
waits for it. One thread, one clip ahead: memory stays that of two clips' waiting frames.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rayvos.engines.base import FrameReader

__all__ = ["OpeningClip", "PrefetchedReader"]

JOIN_S = 5.0  # a thread that hangs in storage is a daemon and is left behind


class PrefetchedReader:
    """A reader whose first pass is already under way; any other pass goes to the reader behind."""

    def __init__(self, reader: FrameReader, expected: Sequence[int]) -> None:
        self.num_frames, self.height, self.width = reader.num_frames, reader.height, reader.width
        self._reader = reader
        self._expected = list(expected)
        self._pass: Iterator[tuple[int, NDArray[np.uint8]]] | None = None
        self._first: tuple[int, NDArray[np.uint8]] | None = None

    def start(self) -> None:
        """Decode the first expected frame; those after it follow in the reader's own threads."""
        started = self._reader.read(self._expected)
        self._first = next(started, None)
        self._pass = started

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, image), from the pass under way where it is the one asked for."""
        started, first = self._pass, self._first
        self._pass = self._first = None
        if started is not None and first is not None and list(frames) == self._expected:
            yield first
            del first
            yield from started
            return
        if started is not None:
            _close(started)
        del first, started
        yield from self._reader.read(frames)

    def close(self) -> None:
        """Stop the pass under way and close the reader."""
        if self._pass is not None:
            _close(self._pass)
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _close(frames: Iterator[tuple[int, NDArray[np.uint8]]]) -> None:
    close = getattr(frames, "close", None)  # generators have it; other iterators need none
    if close is not None:
        close()


class OpeningClip:
    """A clip that is being opened in a thread.

    Args:
        open_reader: opens the clip.
        expected: the frames that will be asked for first.
        ahead: open it in a thread now; False opens it in the caller's thread, when asked for.
    """

    def __init__(self, open_reader: Callable[[], FrameReader], expected: Sequence[int], *, ahead: bool) -> None:
        self._open_reader = open_reader
        self._expected = expected
        self._reader: PrefetchedReader | FrameReader | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        if ahead:
            # A daemon: a worker that ends must not wait for storage that hangs.
            self._thread = threading.Thread(target=self._open, name="rayvos-open", daemon=True)
            self._thread.start()

    def _open(self) -> None:
        try:
            reader = PrefetchedReader(self._open_reader(), self._expected)
            self._reader = reader
            reader.start()
        except BaseException as error:  # raised again in the thread that asks for the reader
            self._error = error

    def result(self) -> FrameReader:
        """Return the open reader.

        Raises:
            Whatever opening the clip or decoding its first frame raised.
        """
        if self._thread is None:
            self._reader = self._open_reader()
        else:
            self._thread.join()
        if self._error is not None:
            self.close()
            raise self._error
        assert self._reader is not None
        return self._reader

    def close(self) -> None:
        """Close the reader, if it was opened."""
        if self._thread is not None:
            self._thread.join(JOIN_S)
        if self._reader is not None:
            self._reader.close()
