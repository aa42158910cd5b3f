"""The Arrow schemas of every table rayvos stores, versioned.

Each Parquet file carries `rayvos.table` and `rayvos.version` in its schema metadata; a reader refuses another table
and a newer version (`check_schema`). Version rule: a column added at the end keeps the version, anything else raises
it. All tables are plain Parquet with zstd, readable by pandas, DuckDB and Spark without rayvos.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from rayvos.errors import SchemaError

__all__ = [
    "CANDIDATES",
    "COMPRESSION",
    "DEAD_LETTERS",
    "LABELS",
    "MANIFEST",
    "PLAN",
    "TableName",
    "check_schema",
    "with_added_columns",
]

TableName = Literal["manifest", "labels", "candidates", "dead_letters", "plan"]

COMPRESSION = "zstd"  # smallest of the codecs every reader knows: 7.3 MB where snappy takes 10.1, same read time

_VERSIONS: dict[TableName, int] = {"manifest": 2, "labels": 1, "candidates": 1, "dead_letters": 1, "plan": 1}


def _schema(table: TableName, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"rayvos.table": table, "rayvos.version": str(_VERSIONS[table])})


def _list_of(**columns: pa.DataType) -> pa.DataType:
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in columns.items()]))


_TEXT, _COUNT, _REAL, _FLAG = pa.string(), pa.int32(), pa.float64(), pa.bool_()

MANIFEST = _schema(
    "manifest",
    [
        pa.field("clip_id", _TEXT, nullable=False),
        pa.field(
            "source",
            pa.struct(
                [
                    pa.field("kind", _TEXT),
                    pa.field("uri", _TEXT),
                    pa.field("frame_names", pa.list_(_TEXT)),
                    pa.field("video_frames", pa.list_(_COUNT)),
                    pa.field("identity", _TEXT),
                ]
            ),
        ),
        pa.field("height", _COUNT),
        pa.field("width", _COUNT),
        pa.field("num_frames", _COUNT),
        pa.field("fps", _REAL),
        pa.field("objects", _list_of(object_id=_COUNT, category=_TEXT, source_id=_TEXT)),
        pa.field(
            "boxes", _list_of(object_id=_COUNT, frame=_COUNT, x0=_REAL, y0=_REAL, x1=_REAL, y1=_REAL, visible=_FLAG)
        ),
        pa.field("masks", _list_of(object_id=_COUNT, frame=_COUNT, rle=pa.binary(), machine_made=_FLAG)),
        pa.field(
            "points",
            _list_of(object_id=_COUNT, frame=_COUNT, x=_REAL, y=_REAL, label=_TEXT, annotator=_TEXT, seconds=_REAL),
        ),
        pa.field("traces", _list_of(object_id=_COUNT, frame=_COUNT, x=pa.list_(_REAL), y=pa.list_(_REAL))),
        pa.field("annotated_frames", pa.list_(_COUNT)),
    ],
)
"""One row per clip; the columns are those of `records.Clip`. `masks[].rle` null: the object is absent there.

Version 1 lacks `points[].annotator` and `points[].seconds`, and is read, too.
"""
_ADDED_INSIDE = {"points": ("annotator", "seconds")}  # fields that older manifests lack

LABELS = _schema(
    "labels",
    [
        pa.field("clip_id", _TEXT, nullable=False),
        pa.field("frame", _COUNT, nullable=False),
        pa.field("object_id", _COUNT, nullable=False),
        pa.field("present", _FLAG, nullable=False),
        pa.field("rle", pa.binary()),
        pa.field("height", _COUNT),
        pa.field("width", _COUNT),
        pa.field("area", _COUNT),
        pa.field("box", pa.struct([pa.field(side, pa.float32()) for side in ("x0", "y0", "x1", "y1")])),
        pa.field("score", pa.float32()),
        pa.field("quality", pa.map_(_TEXT, pa.float32())),
        pa.field("provenance", _TEXT),
        pa.field("engine", _TEXT),
        pa.field("weights", _TEXT),
        pa.field("fingerprint", _TEXT),
        pa.field("unit_id", _TEXT),
        pa.field("round", _COUNT),
        pa.field("object_fingerprint", _TEXT),
    ],
)
"""One row per (clip, frame, object). `present=false`: absent, then rle, area, box and score are null.

`rle`: COCO compressed counts of `height x width`. `box`: tight box of the mask, xyxy pixel edges. `score`: predicted
IoU in [0, 1]; `quality`: its terms by name. `provenance`: `pseudo` (an engine's) or `human` (the prompt itself).
`weights`: digest, empty for engines without any. `fingerprint`: digest of all that the clip's labels depend on.
`round`: 0 for a clip's first labels, one more each time that corrections had the label made again.
`object_fingerprint`: digest of all that the object's labels depend on; empty where they depend on the other objects.
"""

PLAN = _schema(
    "plan",
    [
        pa.field("unit_id", _TEXT, nullable=False),
        pa.field("clip_id", _TEXT, nullable=False),
        pa.field("manifest_row", pa.int64(), nullable=False),
        pa.field("fingerprint", _TEXT, nullable=False),
        pa.field("frame_start", _COUNT, nullable=False),
        pa.field("frame_stop", _COUNT, nullable=False),
        pa.field("cost_s", _REAL),
        pa.field("round", _COUNT),
        pa.field("earlier_units", pa.list_(_TEXT)),
    ],
)
"""One row per piece (a clip's frame range); the rows of one `unit_id` are one unit, one output file.

`round`: how often the clip was corrected before. `earlier_units`: hold the clip's labels of the round before, of
which those of unchanged objects are kept.
"""

DEAD_LETTERS = _schema(
    "dead_letters",
    [
        pa.field("unit_id", _TEXT),
        pa.field("clip_id", _TEXT),
        pa.field("frame_start", _COUNT),
        pa.field("frame_stop", _COUNT),
        pa.field("error", _TEXT),
        pa.field("message", _TEXT),
        pa.field("traceback", _TEXT),
        pa.field("attempts", _COUNT),
    ],
)
"""One row per piece that failed for good; `error` is a stable code of `rayvos.errors`."""

CANDIDATES = _schema(
    "candidates",
    [
        pa.field("clip_id", _TEXT, nullable=False),
        pa.field("frame", _COUNT, nullable=False),
        pa.field("object_id", _COUNT, nullable=False),
        pa.field("x", _COUNT),
        pa.field("y", _COUNT),
        pa.field("kind", _TEXT),
        pa.field("probability", pa.float32()),
        pa.field("rank", _COUNT),
    ],
)
"""One row per proposed point: integer pixel (x, y), `kind` background, foreground or ambiguous."""


_SCHEMAS: dict[TableName, pa.Schema] = {
    "manifest": MANIFEST,
    "labels": LABELS,
    "plan": PLAN,
    "dead_letters": DEAD_LETTERS,
    "candidates": CANDIDATES,
}
_ADDED: dict[TableName, tuple[str, ...]] = {
    "labels": ("round", "object_fingerprint"),
    "plan": ("round", "earlier_units"),
}
"""Columns that tables of an earlier rayvos lack."""


def check_schema(found: pa.Schema, table: TableName, where: str) -> None:
    """Check that a file holds `table` in a version this rayvos reads.

    Args:
        found: the file's schema.
        table: the table that is expected.
        where: the file, for the message.

    Raises:
        SchemaError: the file is no rayvos table, another one, a newer version, or lacks a column.
    """
    metadata = {key.decode(): value.decode(errors="replace") for key, value in (found.metadata or {}).items()}
    name, version = metadata.get("rayvos.table"), metadata.get("rayvos.version", "0")
    if name != table:
        what = f"a rayvos {name} table" if name else "no rayvos table"
        raise SchemaError(f"{where}: expected a {table} table, found {what}; make one with `rayvos import`")
    if not version.isdigit() or int(version) > _VERSIONS[table]:
        raise SchemaError(
            f"{where}: {table} version {version!r}, but this rayvos reads up to {_VERSIONS[table]}; update rayvos"
        )
    expected = _SCHEMAS[table]
    missing = [name for name in expected.names if name not in found.names and name not in _ADDED.get(table, ())]
    if missing:
        raise SchemaError(
            f"{where}: {table} table without column {', '.join(missing)}; write it again with `rayvos import`"
        )
    for field in expected:
        if field.name in found.names and found.field(field.name).type not in (field.type, _older_type(field)):
            raise SchemaError(
                f"{where}: column {field.name!r}: expected {field.type}, found {found.field(field.name).type}"
            )


def with_added_columns(found: pa.Table, table: TableName) -> pa.Table:
    """Return a checked table with all columns of its schema: those that an earlier rayvos did not write are null."""
    for name in _ADDED.get(table, ()):
        if name not in found.schema.names:
            field = _SCHEMAS[table].field(name)
            found = found.append_column(field, pa.nulls(found.num_rows, field.type))
    return found


def _older_type(field: pa.Field) -> pa.DataType:
    """Return the type of a column before fields were added inside it."""
    added = _ADDED_INSIDE.get(field.name, ())
    if not added:
        return field.type
    return pa.list_(pa.struct([inside for inside in field.type.value_type if inside.name not in added]))
