"""What travels from actors to the driver: one receipt per unit, some numbers, no pixel and no mask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from typing import Any

from rayvos.annotations.run_folder import Piece, Unit

__all__ = ["Receipt", "row_to_unit", "unit_to_row"]

_PIECE = tuple(name.name for name in fields(Piece))
_values_of = attrgetter(*_PIECE)  # astuple copies deeply: five times as slow


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one unit."""

    unit_id: str
    num_pieces: int
    num_frames: int
    counts: Mapping[str, int]
    """What the unit's rows are, by name: labels, masks, candidates."""
    num_bytes: int
    """Size of the unit's file."""
    seconds: float = 0.0
    """From the start of the unit to its commit, waiting included."""
    decode_wait_s: float = 0.0
    engine_s: float = 0.0
    encode_s: float = 0.0
    """Beside the engine, in a thread."""
    commit_s: float = 0.0
    failures: Mapping[str, int] = field(default_factory=dict)
    """Dead letters by error code."""
    first_failure: str = ""
    """Message of one of them."""
    num_attempts: int = 1
    worker: str = ""
    """Its machine and process."""
    rss_bytes: int = 0
    """Most memory the worker has held so far."""
    gpu_bytes: int = 0
    """Most memory the worker has reserved on its GPU so far."""
    gpu_total_bytes: int = 0
    """Memory of that GPU."""
    error: str = ""
    """Code of what kept the unit from being committed; empty if it was."""
    message: str = ""

    @property
    def num_failed(self) -> int:
        """Pieces that became dead letters."""
        return sum(self.failures.values())

    def to_batch(self) -> dict[str, list[Any]]:
        """Return the receipt as a batch of one row."""
        return {"receipt": [json.dumps(asdict(self))]}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Receipt:
        """Return the receipt of a row that `to_batch` made."""
        found = json.loads(row["receipt"])
        return cls(**{name.name: found[name.name] for name in fields(cls)})


def unit_to_row(unit: Unit) -> dict[str, str]:
    """Return the row that carries a unit to its actor."""
    return {"unit": json.dumps([unit.unit_id, [_values_of(piece) for piece in unit.pieces]])}


def row_to_unit(text: str) -> Unit:
    """Return the unit of a row that `unit_to_row` made."""
    unit_id, pieces = json.loads(text)
    facts = (dict(zip(_PIECE, values, strict=True)) for values in pieces)
    return Unit(unit_id, tuple(Piece(**{**known, "earlier_units": tuple(known["earlier_units"])}) for known in facts))
