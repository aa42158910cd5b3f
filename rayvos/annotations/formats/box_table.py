"""Boxes in a plain table: CSV with a header, JSON lines with the same keys, or one JSON list of such objects.

`clip_id,object_id,frame,x0,y0,x1,y1` and optionally `category` and `visible` (0: absent on that frame). Boxes are
`xyxy` pixel edges, frames count from 0. `clip_id` may be left out where there is exactly one clip. Rows may stand in
any order; columns in any order; commas, semicolons or tabs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.box_columns import BoxColumns, is_box_table
from rayvos.annotations.clip_paths import ClipRoot, Probe, clip_from_path, folder_of, is_one_clip
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.records import Box, Clip, ObjectInfo
from rayvos.errors import BoxError, FormatError, IdError

__all__ = ["detect", "read_box_table"]

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".json", ".ndjson")


def detect(source: str) -> bool:
    """Tell whether `source` is a file with the columns of a table of boxes."""
    return source.lower().endswith(SUFFIXES) and storage.exists(source) and is_box_table(source)


def read_box_table(
    source: str, *, frames: str | None = None, probe: Probe | None = None, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield the clips of a table, in order of their first rows.

    Args:
        source: the table.
        frames: the folder of clips (each a folder of images or a video file named by its clip_id), or one clip
            itself; None: the table's folder.
        probe: reads a video's size and frame count; needed where clips are video files.
        on_error: told of clips with a bad row or without frames, which are left out; None raises.

    Raises:
        FormatError: the table is empty or malformed, or a value cannot be used; file and line are named.
        BoxError: a box lies outside its frame.
        IdError: an object has two boxes on one frame, or two categories.
        MissingPathError: a clip's frames are not there.
        StorageError: a path cannot be read.
    """
    table = BoxColumns.read(source)
    one = frames is not None and is_one_clip(frames)
    if one and len(table.clip_ids) > 1:
        names = ", ".join(repr(name) for name in table.clip_ids[:3])
        raise FormatError(
            f"{source}: {len(table.clip_ids)} clips ({names}, …), but {frames} is one clip; "
            "give the folder that holds them all"
        )
    if not one and None in table.clip_ids:
        row = int(table.rows(table.clip_ids.index(None))[0])
        raise FormatError(
            f"{table.line(row)}: no clip_id; add the column, or name the one video or folder of images with --frames"
        )
    root = ClipRoot(frames or folder_of(source), probe)

    def read(clip: int) -> Clip:
        name = table.clip_ids[clip]
        if clip in table.bad:
            row, problem = table.bad[clip]
            raise FormatError(f"{table.line(row)}: {problem}")
        if one:
            return _with_boxes(clip_from_path(root.path, clip_id=name, probe=probe), table, clip)
        assert name is not None
        return _with_boxes(root.clip([name], clip_id=name), table, clip)

    def label(clip: int) -> str:
        return table.clip_ids[clip] or PurePosixPath(root.path).stem

    return stream_clips(range(len(table.clip_ids)), read, label, source=root.path, on_error=on_error)


def _with_boxes(clip: Clip, table: BoxColumns, number: int) -> Clip:
    """Return the clip with its rows as boxes, ordered by object and frame."""
    rows = table.rows(number)
    rows = rows[np.lexsort((table.frame[rows], table.object_id[rows]))]
    _check_rows(table, rows, clip)
    sources = table.object_id[rows]
    is_first = np.concatenate([[True], sources[1:] != sources[:-1]])
    firsts = np.flatnonzero(is_first)
    boxes = tuple(
        Box(object_id, frame, x0, y0, x1, y1, visible=visible)
        for object_id, frame, (x0, y0, x1, y1), visible in zip(
            np.cumsum(is_first).tolist(),
            table.frame[rows].tolist(),
            table.edges[rows].tolist(),
            table.visible[rows].tolist(),
            strict=True,
        )
    )
    objects = tuple(
        ObjectInfo(object_id, category, str(source))
        for object_id, (source, category) in enumerate(
            zip(sources[firsts].tolist(), _categories(table, rows, firsts), strict=True), 1
        )
    )
    return dataclasses.replace(clip, objects=objects, boxes=boxes)


def _check_rows(table: BoxColumns, rows: NDArray[np.int64], clip: Clip) -> None:
    """Check what needs the clip or two rows; `rows` are ordered by object and frame."""
    frame, object_id, edges = table.frame[rows], table.object_id[rows], table.edges[rows]
    late = np.flatnonzero(frame >= clip.num_frames)
    if late.size:
        first = int(rows[late].min())
        raise FormatError(
            f"{table.line(first)}: frame {table.frame[first]}: clip {clip.clip_id!r} has frames "
            f"0…{clip.num_frames - 1}; frames count from 0"
        )
    twice = np.flatnonzero((frame[1:] == frame[:-1]) & (object_id[1:] == object_id[:-1]))
    if twice.size:
        here, there = sorted((int(rows[twice[0]]), int(rows[twice[0] + 1])))
        raise IdError(
            f"{table.line(there)}: object {object_id[twice[0]]} has a box on frame {frame[twice[0]]} already, "
            f"in {table.line(here)}; drop one"
        )
    outside = table.visible[rows] & (
        (edges[:, 2] <= 0) | (edges[:, 3] <= 0) | (edges[:, 0] >= clip.width) | (edges[:, 1] >= clip.height)
    )
    if outside.any():
        first = int(rows[outside].min())
        raise BoxError(
            f"{table.line(first)}: box {table.edges[first].tolist()} lies outside the {clip.width}x{clip.height} "
            "frame; leave the row out, or set visible to 0"
        )


def _categories(table: BoxColumns, rows: NDArray[np.int64], firsts: NDArray[np.int64]) -> list[str | None]:
    """Return the category of each object; its rows start at `firsts`, and those without a category say nothing."""
    codes = table.category[rows]
    largest = np.maximum.reduceat(codes, firsts)
    smallest = np.minimum.reduceat(np.where(codes == 0, np.iinfo(np.int32).max, codes), firsts)
    for wrong in np.flatnonzero((largest > 0) & (smallest < largest))[:1].tolist():
        of_object = rows[table.object_id[rows] == table.object_id[rows[firsts[wrong]]]]
        first, other = (
            int(of_object[table.category[of_object] == code].min()) for code in (smallest[wrong], largest[wrong])
        )
        here, there = max(first, other), min(first, other)
        raise IdError(
            f"{table.line(here)}: object {table.object_id[here]} is {table.categories[table.category[here]]!r}, but "
            f"{table.categories[table.category[there]]!r} in {table.line(there)}; give each object its own object_id"
        )
    return [table.categories[code] for code in largest.tolist()]
