"""Where a training run stands, and the board on which its first worker says so and its driver reads it.

On Ray the board is a process: it imports this file alone, which takes no torch and spares each run four seconds of CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NoteBoard", "RunNote"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNote:
    """Where a run stands, for people who watch it."""

    step: int
    steps: int
    loss: float
    waiting_share: float
    """Of the time of this start, spent waiting for samples."""
    samples_per_second: float
    """Of this start, over all workers."""
    validation: dict[str, float]
    """The latest; empty before the first."""


class NoteBoard:
    """Holds the latest note."""

    def __init__(self) -> None:
        self._note: RunNote | None = None

    def post(self, note: RunNote) -> None:
        """Put a note in the place of the one before."""
        self._note = note

    def read(self) -> RunNote | None:
        """Return the latest note; None before the first."""
        return self._note
