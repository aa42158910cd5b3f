"""What a job does to each clip: one contract for labelling and for candidates, so that one machinery runs both.

A *choice* is small, names options and weights, and travels to the actors; each actor loads its own *work* from it.
Planning, committing, attempts, dead letters and resuming know nothing else of what is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import Piece
from rayvos.annotations.unit_rows import ResultTable
from rayvos.engines.base import EngineNeeds, FrameReader
from rayvos.engines.timing import StageSeconds

__all__ = ["Work", "WorkChoice"]


class Work(Protocol):
    """A loaded work: an engine with all that decides what it makes of a clip."""

    table: ResultTable
    """What its rows are."""

    def configuration(self) -> dict[str, Any]:
        """Return all that rows depend on besides the clip, as plain JSON values; a run folder belongs to one."""
        ...

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know."""
        ...

    def prepare(self, clip: Clip) -> Clip:
        """Return the clip with the prompts that are used; what is dropped does not count in its fingerprint."""
        ...

    def first_frames(self, clip: Clip, frames: range) -> Sequence[int]:
        """Return the frames that will be read first, in order, so that they can be decoded ahead; none: unknown."""
        ...

    def rows_of(
        self, clip: Clip, images: FrameReader, piece: Piece, unit_id: str, seconds: StageSeconds, earlier: pa.Table
    ) -> pa.Table:
        """Return the rows of a piece, in the schema of the table.

        Args:
            clip: as the manifest has it.
            images: its open reader.
            piece: which frames.
            unit_id: of the unit that will hold the rows.
            seconds: adds up where the time goes.
            earlier: the clip's rows of the round before; those that no correction touches may be kept. Empty: none.

        Raises:
            InputError: the clip cannot be used.
            EngineError: the engine failed, or yields something else than it promises.
        """
        ...

    def count(self, rows: pa.Table) -> Mapping[str, int]:
        """Return what progress and `run.json` count of a unit's rows, by name, also where there is no row."""
        ...


class WorkChoice(Protocol):
    """Says which work; picklable and small, since Ray keeps it for every restart of an actor."""

    def load(self) -> Work:
        """Make the work.

        Raises:
            UsageError: an engine, option or value is unknown.
            WeightsError: the weights cannot be used.
        """
        ...
