"""Progress lines for logs, a bar for terminals, silence where asked."""

import io
import logging

import pytest

from rayvos.cli import progress as module
from rayvos.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_short_work_writes_nothing_to_a_log():
    stream = io.StringIO()
    with Progress("importing", stream=stream) as progress:
        progress.advance(5)

    assert stream.getvalue() == ""
    assert progress.count == 5


def test_long_work_writes_one_line_per_ten_seconds_and_one_at_the_end(clock):
    stream = io.StringIO()
    with Progress("importing", total=40, unit="clips", stream=stream) as progress:
        for _ in range(25):
            clock[0] += 1
            progress.advance(note="2 skipped")

    lines = stream.getvalue().splitlines()
    assert lines[0] == "importing: 10 of 40 clips, 1.0 clips/s, 30 s left, 2 skipped"
    assert [line.split()[1] for line in lines] == ["10", "20", "25"]


def test_a_total_may_become_known_later(clock):
    stream = io.StringIO()
    with Progress("importing", stream=stream) as progress:
        progress.set_total(8)
        clock[0] += 20
        progress.advance(4)

    assert "4 of 8 clips" in stream.getvalue()


def test_a_terminal_gets_a_bar_with_markup_shown_as_text():
    stream = Terminal()
    with Progress("[bold]importing", total=2, stream=stream) as progress:
        progress.advance(2, note="[red]x")

    assert "[bold]importing" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_quiet_silences_log_lines_and_bar(clock):
    logger = logging.getLogger("rayvos")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        for stream in (io.StringIO(), Terminal()):
            with Progress("importing", stream=stream) as progress:
                clock[0] += 60
                progress.advance()
            assert stream.getvalue() == ""
    finally:
        logger.setLevel(before)
