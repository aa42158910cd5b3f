"""Says how far a test session is while `make` holds its output back until it has ended.

`make test` runs sessions side by side and shows each in one piece. Meanwhile a line comes after every tenth of a
session's tests, and one for each test that fails, on the file descriptor that TEST_PROGRESS names.
"""

from __future__ import annotations

import os
import time

import pytest

__all__ = ["pytest_configure"]

NUM_LINES = 10  # of a session in which nothing fails


class SessionProgress:
    """Counts tests that have ended and writes lines."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name
        self.started = time.monotonic()
        self.num_tests = 0
        self.num_ended = 0

    def say(self, words: str) -> None:
        os.write(
            self.descriptor, f"[{(time.monotonic() - self.started) / 60:4.1f} min] {self.name}: {words}\n".encode()
        )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.num_tests = len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.say(f"{report.nodeid} FAILED, {report.when}; its report follows when all have ended")

    def pytest_runtest_logfinish(self) -> None:
        before, self.num_ended = self.num_ended, self.num_ended + 1
        if NUM_LINES * before // self.num_tests < NUM_LINES * self.num_ended // self.num_tests:
            self.say(f"{self.num_ended} of {self.num_tests} tests")


def pytest_configure(config: pytest.Config) -> None:
    descriptor = os.environ.get("TEST_PROGRESS")
    if descriptor:
        config.pluginmanager.register(SessionProgress(int(descriptor), " ".join(config.invocation_params.args)))
