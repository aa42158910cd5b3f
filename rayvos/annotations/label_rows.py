"""Builds the rows of the label table: masks and what is said of them in, one Arrow table out.

The table's content is a function of what was added and of nothing else, so that a call in a notebook and an actor
of a cluster give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayvos.annotations.records import Clip
from rayvos.annotations.tables import LABELS
from rayvos.errors import ShapeError

__all__ = ["EncodedMask", "LabelRow", "encode_mask", "read_mask", "rows_to_table", "stamp_labels"]


@dataclass(frozen=True, slots=True)
class EncodedMask:
    """A mask as the label table holds it."""

    rle: bytes
    """COCO compressed RLE counts."""
    area: int
    """Pixels."""
    box: tuple[float, float, float, float] | None
    """Tight box, xyxy pixel edges; None for a mask without a pixel."""


def encode_mask(mask: NDArray[np.bool_]) -> EncodedMask:
    """Return the RLE, area and tight box of a (height, width) mask."""
    from rayvos.masks.boxes import mask_to_box
    from rayvos.masks.rle import mask_to_rle

    return EncodedMask(mask_to_rle(mask), int(np.count_nonzero(mask)), _sides(mask_to_box(mask)))


def read_mask(rle: bytes, height: int, width: int) -> EncodedMask:
    """Return the area and tight box of an RLE mask beside the RLE itself.

    Raises:
        FormatError: `rle` does not hold `height x width` pixels.
    """
    from rayvos.masks.rle import rle_area, rle_box

    return EncodedMask(rle, rle_area(rle, height, width), _sides(rle_box(rle, height, width)))


def _sides(box: NDArray[np.float32] | None) -> tuple[float, float, float, float] | None:
    return None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row of the label table, besides what all rows of its clip share."""

    frame: int
    object_id: int
    mask: EncodedMask | None
    """None: absent."""
    score: float | None
    quality: Mapping[str, float] = field(default_factory=dict)
    human: bool = False
    """The mask is the one that a person gave."""


def rows_to_table(clip: Clip, rows: Sequence[LabelRow], *, engine: str, weights: str) -> pa.Table:
    """Return the rows of one clip as a label table; fingerprints and unit are empty until `stamp_labels`.

    Args:
        clip: the clip the rows belong to.
        rows: in the order they shall have: by frame, then object.
        engine: name of the engine of the rows that no person gave.
        weights: digest of its weights.
    """
    masks = [row.mask for row in rows]
    columns: dict[str, list[Any]] = {
        "clip_id": [clip.clip_id] * len(rows),
        "frame": [row.frame for row in rows],
        "object_id": [row.object_id for row in rows],
        "present": [mask is not None for mask in masks],
        "rle": [mask and mask.rle for mask in masks],
        "height": [clip.height] * len(rows),
        "width": [clip.width] * len(rows),
        "area": [None if mask is None else mask.area for mask in masks],
        "box": [None if mask is None else _box_row(mask) for mask in masks],
        "score": [None if row.mask is None else row.score for row in rows],
        "quality": [sorted(row.quality.items()) if row.mask is not None else [] for row in rows],
        "provenance": ["human" if row.human else "pseudo" for row in rows],
        "engine": ["" if row.human else engine for row in rows],
        "weights": ["" if row.human else weights for row in rows],
        "fingerprint": [""] * len(rows),
        "unit_id": [""] * len(rows),
        "round": [0] * len(rows),
        "object_fingerprint": [""] * len(rows),
    }
    return pa.table(columns, schema=LABELS)


def _box_row(mask: EncodedMask) -> dict[str, float] | None:
    return None if mask.box is None else dict(zip(("x0", "y0", "x1", "y1"), mask.box, strict=True))


def stamp_labels(
    table: pa.Table,
    *,
    fingerprint: str,
    unit_id: str,
    round_: int | None = None,
    object_fingerprints: Mapping[int, str] | None = None,
) -> pa.Table:
    """Return the rows with what a run knows of them.

    Args:
        table: the rows of one clip.
        fingerprint: of the clip.
        unit_id: of the unit that holds them.
        round_: in which they were made; None leaves the column as it is.
        object_fingerprints: by object id; None leaves the column as it is.

    Raises:
        ShapeError: the table is no label table.
    """
    if table.schema.names != LABELS.names:
        raise ShapeError(f"labels: expected the columns of tables.LABELS, found {', '.join(table.schema.names)}")
    stamps: dict[str, pa.Array] = {
        name: pa.repeat(pa.scalar(value, pa.string()), table.num_rows)
        for name, value in (("fingerprint", fingerprint), ("unit_id", unit_id))
    }
    if round_ is not None:
        stamps["round"] = pa.repeat(pa.scalar(round_, pa.int32()), table.num_rows)
    if object_fingerprints is not None:
        object_ids = table.column("object_id").to_pylist()
        stamps["object_fingerprint"] = pa.array([object_fingerprints.get(key, "") for key in object_ids], pa.string())
    for name, stamp in stamps.items():
        table = table.set_column(table.schema.get_field_index(name), LABELS.field(name), stamp)
    return table
