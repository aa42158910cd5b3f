"""Progress of long work on stderr: a live bar on a terminal, one plain line per ten seconds anywhere else.

    with Progress("importing", total=None, unit="clips") as progress:
        for clip in clips:
            progress.advance()

`rayvos --quiet` silences it. stdout stays free for results.
"""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self, TextIO

__all__ = ["Progress"]

SECONDS_PER_LINE = 10.0  # rare enough that a day's job log stays readable


class Progress:
    """Counts the units of one piece of work and shows them; use as a context manager.

    Args:
        title: what is going on, one or two words: `importing`.
        total: the number of units, or None where it is not known.
        unit: what is counted, in plural.
        stream: where to show it; None is stderr.
    """

    def __init__(
        self, title: str, *, total: int | None = None, unit: str = "clips", stream: TextIO | None = None
    ) -> None:
        self.count = 0
        self.title = title
        self.unit = unit
        self._total = total
        self._note = ""
        self._stream = stream or sys.stderr
        self._quiet = logging.getLogger("rayvos").level >= logging.ERROR
        self._started = self._last_line = time.monotonic()
        self._bar = _TerminalBar(self) if self._stream.isatty() and not self._quiet else None

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` more units; `note` (a few words, such as `3 skipped`) is shown behind the numbers."""
        self.count += count
        self._note = self._note if note is None else note
        self._show()

    def set_total(self, total: int) -> None:
        """State the number of units once it is known."""
        self._total = total
        self._show()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.show(self.count, self._total, self._note)
        elif not self._quiet and time.monotonic() - self._last_line >= SECONDS_PER_LINE:
            self._write_line()

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._started
        parts = [f"{self.count} of {self._total} {self.unit}" if self._total else f"{self.count} {self.unit}"]
        parts.append(f"{self.count / max(seconds, 1e-9):.1f} {self.unit}/s")
        if self._total and self.count:
            parts.append(f"{max(0.0, seconds / self.count * (self._total - self.count)):.0f} s left")
        if self._note:
            parts.append(self._note)
        print(f"{self.title}: {', '.join(parts)}", file=self._stream, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._show()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet and self._last_line > self._started:  # short work leaves no line behind
            self._write_line()


class _TerminalBar:
    """The live bar; rich is imported only where there is a terminal to draw on."""

    def __init__(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._escape = escape
        self._rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(escape(progress.unit)),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=progress._stream),
            transient=True,
        )
        self._task = self._rich.add_task(escape(progress.title), total=None, note="")

    def start(self) -> None:
        self._rich.start()

    def show(self, count: int, total: int | None, note: str) -> None:
        self._rich.update(self._task, completed=count, total=total, note=self._escape(note))

    def stop(self) -> None:
        self._rich.stop()
