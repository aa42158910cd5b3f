"""The rows that a run's units hold: of which table they are, whose they are, and in which order they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from rayvos.annotations.tables import CANDIDATES, LABELS

__all__ = ["SCHEMAS", "ResultTable", "pieces_by_clip", "sort_rows", "split_by_clip"]

ResultTable = Literal["labels", "candidates"]
"""What a run makes: the table its units hold, and the folder they lie in."""

SCHEMAS: dict[ResultTable, pa.Schema] = {"labels": LABELS, "candidates": CANDIDATES}
_ORDER: dict[ResultTable, tuple[str, ...]] = {
    "labels": ("frame", "object_id"),
    "candidates": ("frame", "object_id", "kind", "rank"),
}


def pieces_by_clip(plan: pa.Table) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield (clip_id, [(unit_id, frame_start)]); a plan lists a clip's pieces one after the other."""
    current, pieces = "", list[tuple[str, int]]()
    columns = (plan.column(name).to_pylist() for name in ("clip_id", "unit_id", "frame_start"))
    for clip_id, unit_id, frame_start in zip(*columns, strict=True):
        if clip_id != current and pieces:
            yield current, pieces
            pieces = []
        current = clip_id
        pieces.append((unit_id, frame_start))
    if pieces:
        yield current, pieces


def split_by_clip(table: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each clip; a unit's file keeps the rows of a clip together."""
    table = table.combine_chunks()
    ids = table.column("clip_id")
    if table.num_rows == 0:
        return {}
    runs = pc.run_end_encode(ids.chunk(0))
    found: dict[str, pa.Table] = {}
    start = 0
    for clip_id, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        rows = table.slice(start, stop - start)
        found[clip_id] = pa.concat_tables([found[clip_id], rows]) if clip_id in found else rows
        start = stop
    return found


def sort_rows(rows: pa.Table, table: ResultTable) -> pa.Table:
    """Return rows of one clip in their order: by frame and object, candidates then by kind and rank."""
    keys = [(name, "ascending") for name in _ORDER[table]]
    return rows.select(SCHEMAS[table].names).sort_by(keys).combine_chunks()
