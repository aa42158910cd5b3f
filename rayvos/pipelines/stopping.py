"""SIGTERM and SIGINT end a job in order: the run folder says so at once, and the next start goes on."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from rayvos.errors import RayvosError

__all__ = ["RunStopped", "stop_signals"]

logger = logging.getLogger(__name__)


class RunStopped(BaseException):
    """SIGTERM or SIGINT ended the job; what was committed stays, and the next start goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stop_signals(record_stopping: Callable[[], None]) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `RunStopped` inside the block.

    Enter it after `ray.init`, which installs handlers of its own.

    Args:
        record_stopping: called first of all; who stops us may grant some seconds only.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may install handlers
        yield
        return

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        for each in before:  # a second signal must not find us here again; a second Ctrl-C ends the process
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
        try:
            record_stopping()
        except RayvosError:
            logger.warning("run.json could not be written", exc_info=True)
        raise RunStopped(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
