"""Decoding that runs ahead of its consumer in daemon threads, in order and within a bound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Self, TypeVar

__all__ = ["DecodeAhead"]

T = TypeVar("T")

JOIN_S = 2.0  # a thread stuck in a dead network read must not hold up its consumer; it is a daemon and ends alone


class DecodeAhead(Generic[T], Iterator[tuple[int, T]]):
    """Yields `(frame, decode(frame))` in the order asked for, while threads work on the frames that follow.

    Threads start with the object and stop on `close`, on the last frame, and on the first error, which is raised
    where its frame would have been yielded.

    Args:
        decode: called once per frame; from one thread at a time and in order where `num_threads` is 1.
        frames: what to decode.
        num_threads: threads to use.
        ahead: frames that may be in work or waiting, beyond the one the consumer holds.
    """

    def __init__(self, decode: Callable[[int], T], frames: Sequence[int], *, num_threads: int, ahead: int) -> None:
        self._decode = decode
        self._frames = list(frames)
        self._ahead = max(1, ahead)
        self._condition = threading.Condition()
        self._num_started = 0
        self._num_given = 0
        self._ready: dict[int, T | BaseException] = {}
        self._closed = False
        num_threads = max(1, min(num_threads, self._ahead, len(self._frames)))
        self._threads = [
            threading.Thread(target=self._work, name="rayvos-decode", daemon=True) for _ in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def _may_start(self) -> bool:
        return self._closed or self._num_started < min(len(self._frames), self._num_given + self._ahead)

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._may_start() or self._num_started == len(self._frames))
                if self._closed or self._num_started == len(self._frames):
                    return
                position = self._num_started
                self._num_started += 1
            result: T | BaseException
            try:
                result = self._decode(self._frames[position])
            except BaseException as error:  # carried to the consumer's thread and raised there, whatever it is
                result = error
            with self._condition:
                self._ready[position] = result
                self._condition.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, T]:
        """Return the next frame and what it decoded to.

        Raises:
            ValueError: the pass was closed before.
        """
        with self._condition:
            position = self._num_given
            if position == len(self._frames):
                raise StopIteration
            self._condition.wait_for(lambda: self._closed or position in self._ready)
            if self._closed:
                raise ValueError("frames were asked for after their reader was closed")
            result = self._ready.pop(position)
            self._num_given += 1
            self._condition.notify_all()
        if isinstance(result, BaseException):
            self.close()
            raise result
        return self._frames[position], result

    def close(self) -> bool:
        """Stop the threads, drop what was decoded, and tell whether all threads have ended."""
        with self._condition:
            self._closed = True
            self._ready.clear()
            self._condition.notify_all()
        for thread in self._threads:
            thread.join(JOIN_S)
        return not any(thread.is_alive() for thread in self._threads)
