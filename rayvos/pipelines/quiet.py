"""Keeps what Ray writes by itself out of the driver's streams: stdout is for results, stderr for progress."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, cast

__all__ = ["quiet_driver", "quiet_start"]

logger = logging.getLogger(__name__)

RAY_THREAD = "ray_listen_error_messages"  # prints to stdout that a worker died; ray/_private/worker.py


@contextmanager
def quiet_start() -> Iterator[None]:
    """Keep the C++ side of Ray silent, unless the block (`ray.init`) fails or debug logs are wanted."""
    if logger.isEnabledFor(logging.DEBUG) or "RAY_BACKEND_LOG_LEVEL" in os.environ:
        yield
        return
    # It calls every pool of actors an error, and this setting worth a line.
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def quiet_driver() -> Iterator[None]:
    """Log what Ray's thread prints of dying workers (they are counted in dead letters) instead of printing it."""
    before = sys.stdout
    ours = cast(TextIO, _WithoutRay(before))
    sys.stdout = ours
    try:
        yield
    finally:
        if sys.stdout is ours:
            sys.stdout = before


class _WithoutRay:
    """A stream that leaves out what one thread writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name != RAY_THREAD:
            return self._stream.write(text)
        if text.strip():
            logger.info("ray=%s", text.strip())
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
