"""The manifest: one Parquet file with one row per clip, written and read as a stream.

Row groups are small (`ROWS_PER_GROUP` clips or `BYTES_PER_GROUP` of prompts), so that an actor reads just the clips
of its unit, and importing or planning a million clips holds one group in memory.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.arrow_files import open_parquet
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo, Point, Trace
from rayvos.annotations.tables import COMPRESSION, MANIFEST, check_schema
from rayvos.errors import BoxError, FormatError, IdError

__all__ = [
    "ManifestFile",
    "ManifestWriter",
    "check_clip",
    "check_clip_id",
    "clip_to_row",
    "row_to_clip",
    "write_manifest",
]

ROWS_PER_GROUP = 256
ITEMS_PER_GROUP = 50_000  # prompts of a row group: some MB, read at once by the actor that needs one of its clips
MAX_CLIP_ID = 200  # file systems allow 255 bytes a name; exports add suffixes
# What may not be null; anything else may. Other programs write manifests, too.
_NEEDED = ("source", "height", "width", "num_frames")
_NEEDED_INSIDE = {
    "source": ("kind", "uri"),
    "objects": ("object_id",),
    "boxes": ("object_id", "frame", "x0", "y0", "x1", "y1", "visible"),
    "masks": ("object_id", "frame", "machine_made"),
    "points": ("object_id", "frame", "x", "y", "label"),
    "traces": ("object_id", "frame", "x", "y"),
}
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


def check_clip_id(clip_id: str, where: str = "clip_id") -> str:
    """Return `clip_id` if it can name a folder inside an output folder and nothing outside it.

    Slashes are allowed between parts (`TRAIN_0/abc`); `..`, `.`, empty parts, absolute paths, backslashes, control
    characters and more than 200 bytes are not.

    Raises:
        IdError: it cannot.
    """
    parts = clip_id.split("/")
    if (
        not clip_id
        or any(part in ("", ".", "..") for part in parts)
        or _FORBIDDEN.search(clip_id)
        or clip_id.startswith("~")
    ):
        raise IdError(
            f"{where} {clip_id[:80]!r}: expected a name without '..', empty parts, backslashes or control characters; "
            "rename the clip"
        )
    if len(clip_id.encode()) > MAX_CLIP_ID:
        raise IdError(
            f"{where} {clip_id[:40]!r}…: {len(clip_id.encode())} bytes, at most {MAX_CLIP_ID}; rename the clip"
        )
    return clip_id


def check_clip(clip: Clip) -> Clip:
    """Return `clip` if its ids, frames and boxes can be worked with.

    Raises:
        IdError: an object id is below 1, listed twice, used but not listed, or has two boxes or masks on one frame.
        BoxError: a visible box is not finite, inverted, of zero area, or wholly outside the frame.
        FormatError: a frame index is outside the clip, or the clip has no frames, no size or no known kind of source.
    """
    where = f"clip {clip.clip_id!r}"
    check_clip_id(clip.clip_id)
    if clip.source.kind not in ("images", "video"):
        raise FormatError(f"{where}: expected a source of kind 'images' or 'video', found {clip.source.kind!r}")
    if clip.num_frames < 1 or clip.height < 1 or clip.width < 1:
        raise FormatError(
            f"{where}: expected frames and a size, found {clip.num_frames} frames of {clip.height}x{clip.width}; "
            "re-import it"
        )
    ids = [known.object_id for known in clip.objects]
    if len(set(ids)) < len(ids) or any(object_id < 1 for object_id in ids):
        raise IdError(f"{where}: object ids must be different whole numbers from 1, found {sorted(ids)}")
    known = set(ids)
    for kind, prompts in (("box", clip.boxes), ("mask", clip.masks), ("point", clip.points), ("trace", clip.traces)):
        seen: set[tuple[int, int]] = set()
        for prompt in prompts:
            place = f"{where} frame {prompt.frame} object {prompt.object_id}"
            if prompt.object_id not in known:
                raise IdError(f"{place}: the {kind} belongs to no object of the clip; it lists {sorted(known)}")
            if not 0 <= prompt.frame < clip.num_frames:
                raise FormatError(f"{place}: frame index outside 0…{clip.num_frames - 1}; frames count from 0")
            if kind in ("box", "mask"):
                if (prompt.object_id, prompt.frame) in seen:
                    raise IdError(
                        f"{place}: two {'boxes' if kind == 'box' else 'masks'} for one object on one frame; drop one"
                    )
                seen.add((prompt.object_id, prompt.frame))
    for box in clip.boxes:
        if box.visible:
            check_box(box, clip.height, clip.width, f"{where} frame {box.frame} object {box.object_id}")
    return clip


def check_box(box: Box, height: int, width: int, where: str) -> None:
    """Check that a visible box is finite, ordered, not empty, and touches its frame.

    Raises:
        BoxError: it is not.
    """
    sides = (box.x0, box.y0, box.x1, box.y1)
    if not all(abs(side) < 1e9 for side in sides):  # false for NaN and infinity, too
        raise BoxError(f"{where}: box {sides}: expected four finite pixel positions")
    if box.x1 < box.x0 or box.y1 < box.y0:
        raise BoxError(f"{where}: box {sides} is inverted: expected x0 < x1 and y0 < y1; is it xywh?")
    if box.x1 == box.x0 or box.y1 == box.y0:
        raise BoxError(f"{where}: box {sides} has no area; leave the row out or mark the object absent")
    if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= width or box.y0 >= height:
        raise BoxError(f"{where}: box {sides} lies outside the {width}x{height} frame; mark the object absent there")


def clip_to_row(clip: Clip) -> dict[str, Any]:
    """Return the manifest row of a clip, as `pyarrow` takes it."""
    return {
        "clip_id": clip.clip_id,
        "source": _fields(clip.source),
        "height": clip.height,
        "width": clip.width,
        "num_frames": clip.num_frames,
        "fps": clip.fps,
        "objects": [_fields(item) for item in clip.objects],
        "boxes": [_fields(item) for item in clip.boxes],
        "masks": [_fields(item) for item in clip.masks],
        "points": [_fields(item) for item in clip.points],
        "traces": [_fields(item) for item in clip.traces],
        "annotated_frames": None if clip.annotated_frames is None else list(clip.annotated_frames),
    }


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def row_to_clip(row: dict[str, Any]) -> Clip:
    """Return the clip of a manifest row (`Table.to_pylist()`)."""
    source = row["source"]
    return Clip(
        clip_id=row["clip_id"],
        source=ClipSource(
            kind=source["kind"],
            uri=source["uri"],
            frame_names=tuple(source["frame_names"] or ()),
            video_frames=tuple(source["video_frames"] or ()),
            identity=source["identity"] or "",
        ),
        height=row["height"],
        width=row["width"],
        num_frames=row["num_frames"],
        fps=row["fps"],
        objects=tuple(ObjectInfo(**item) for item in row["objects"] or ()),
        boxes=tuple(Box(**item) for item in row["boxes"] or ()),
        masks=tuple(MaskPrompt(**item) for item in row["masks"] or ()),
        points=tuple(Point(**item) for item in row["points"] or ()),
        traces=tuple(
            Trace(item["object_id"], item["frame"], tuple(item["x"]), tuple(item["y"])) for item in row["traces"] or ()
        ),
        annotated_frames=None if row["annotated_frames"] is None else tuple(row["annotated_frames"]),
    )


class ManifestWriter:
    """Writes clips into one manifest, a row group at a time; the file appears when the block ends without error.

    Clip ids must differ; object ids, frames and boxes are not checked here, since a bad clip must not stop an
    import: `check_clip` does it where the clip is planned.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.num_clips = 0
        self._ids: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._items = 0
        self._buffer = io.BytesIO()
        self._writer = pq.ParquetWriter(self._buffer, MANIFEST, compression=COMPRESSION)

    def add(self, clip: Clip) -> None:
        """Append one clip.

        Raises:
            IdError: a clip of this id was added before, or the id cannot name an output.
        """
        check_clip_id(clip.clip_id)
        if clip.clip_id in self._ids:
            raise IdError(f"{self.path}: clip_id {clip.clip_id!r} is there twice; clip ids must differ")
        self._ids.add(clip.clip_id)
        self._rows.append(clip_to_row(clip))
        self._items += len(clip.boxes) + len(clip.masks) + len(clip.points) + clip.num_frames
        self.num_clips += 1
        if len(self._rows) >= ROWS_PER_GROUP or self._items >= ITEMS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=MANIFEST))
            self._rows, self._items = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            self._writer.close()
            storage.write_bytes(self.path, self._buffer.getvalue())


def write_manifest(clips: Iterable[Clip], path: str) -> int:
    """Write a manifest and return the number of its clips.

    Raises:
        IdError: two clips share an id, or an id cannot name an output.
        StorageError: the path cannot be written.
    """
    with ManifestWriter(path) as writer:
        for clip in clips:
            writer.add(clip)
    return writer.num_clips


class ManifestFile:
    """A manifest opened for reading, whole or by row.

    Args:
        path: path or URL.
        data: the file's bytes, where they were read before; `path` then only names them.

    Raises:
        StorageError: the path cannot be read.
        FormatError: it is no Parquet file.
        SchemaError: it is no manifest, or one of a newer rayvos.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        self.path = path
        try:
            self._parquet = open_parquet(path, data)
        except (pa.ArrowInvalid, OSError) as error:
            raise FormatError(f"{path}: expected a Parquet manifest: {error}; make one with `rayvos import`") from error
        check_schema(self._parquet.schema_arrow, "manifest", path)
        sizes = [self._parquet.metadata.row_group(i).num_rows for i in range(self._parquet.metadata.num_row_groups)]
        self._starts = [0]
        for size in sizes:
            self._starts.append(self._starts[-1] + size)

    def __len__(self) -> int:
        """Return the number of clips."""
        return self._starts[-1]

    def __iter__(self) -> Iterator[Clip]:
        """Yield the clips in file order; one row group is in memory at a time."""
        for group in range(len(self._starts) - 1):
            for row in self._read_group(group).to_pylist():
                yield row_to_clip(row)

    def read_rows(self, rows: Sequence[int]) -> Iterator[tuple[int, Clip]]:
        """Yield (row, clip) for ascending row numbers, reading only the row groups that hold them."""
        wanted = sorted(rows)
        for group in range(len(self._starts) - 1):
            start, stop = self._starts[group], self._starts[group + 1]
            local = [row - start for row in wanted if start <= row < stop]
            if local:
                rows_of_group = self._read_group(group).take(local).to_pylist()
                for position, row in zip(local, rows_of_group, strict=True):
                    yield start + position, row_to_clip(row)

    def _read_group(self, group: int) -> pa.Table:
        """Return a row group in which nothing is null that must not be.

        Raises:
            FormatError: the file is damaged, or something is missing.
        """
        try:
            table = self._parquet.read_row_group(group, use_threads=False)
        except (pa.ArrowInvalid, OSError) as error:
            raise FormatError(f"{self.path}: damaged: {error}; copy it again, or import the clips again") from error
        for name in _NEEDED:
            self._refuse_null(name, pc.is_null(table.column(name)), self._starts[group])
        for name, fields in _NEEDED_INSIDE.items():
            column = table.column(name)
            nested = pa.types.is_list(column.type)
            items, parents = (pc.list_flatten(column), pc.list_parent_indices(column)) if nested else (column, None)
            for field in fields:
                missing = pc.is_null(pc.struct_field(items, field))
                self._refuse_null(f"{name}.{field}", missing, self._starts[group], parents)
        return table

    def _refuse_null(self, name: str, missing: pa.ChunkedArray, start: int, parents: Any = None) -> None:
        if not pc.any(missing).as_py():
            return
        position = pc.index(missing, True).as_py()
        row = start + (position if parents is None else parents[position].as_py())
        raise FormatError(f"{self.path} row {row}: {name} is null; give it a value, or leave the clip out")
