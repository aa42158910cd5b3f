"""The exports that put all clips into one file: COCO, YouTube-VIS, Point-VOS, and one table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.formats.coco_results import write_coco
from rayvos.annotations.formats.point_vos_results import candidate_records, write_point_vos
from rayvos.annotations.formats.youtube_vis_results import write_youtube_vis
from rayvos.annotations.records import Clip
from rayvos.annotations.tables import COMPRESSION, LABELS
from rayvos.annotations.unit_rows import SCHEMAS, ResultTable
from rayvos.review.export_options import ExportFormat, ExportOptions

__all__ = ["file_names", "write_file", "write_label_table"]

_FILES: dict[str, tuple[str, ...]] = {
    "coco": ("instances.json",),
    "youtube-vis": ("instances.json", "results.json"),
    "point-vos": ("points.json",),
}
ROWS_PER_GROUP = 16_384  # about 30 MB of 480p masks: what a reader of one row group holds


def file_names(export_format: ExportFormat, table: ResultTable) -> tuple[str, ...]:
    """Return the names of the files that a format of such a table consists of."""
    return (f"{table}.parquet",) if export_format == "parquet" else _FILES[export_format]


def write_file(
    paths: Sequence[str],
    clips: Iterable[tuple[Clip, pa.Table]],
    options: ExportOptions,
    table: ResultTable,
    categories: Sequence[str | None],
) -> dict[str, int]:
    """Write all clips into the format's files and return counts.

    Args:
        paths: of the files, in the order of `file_names`.
        clips: the clips with their rows.
        options: the format and more.
        table: what the rows are.
        categories: names of the objects' categories.

    Raises:
        StorageError: a file cannot be written.
    """
    if options.format == "coco":
        images, annotations = write_coco(paths[0], clips, category_names=categories, min_score=options.min_score)
        return {"images": images, "annotations": annotations}
    if options.format == "youtube-vis":
        videos, annotations = write_youtube_vis(
            paths[0], paths[1], clips, category_names=categories, min_score=options.min_score
        )
        return {"videos": videos, "annotations": annotations}
    if options.format == "point-vos":
        return write_point_vos(paths[0], (record for clip, rows in clips for record in candidate_records(clip, rows)))
    tables = (_accepted(rows, options.min_score) if table == "labels" else rows for _, rows in clips)
    return {"rows": _write_table(paths[0], tables, SCHEMAS[table])}


def write_label_table(path: str, tables: Iterable[pa.Table], *, min_score: float = 0.0) -> int:
    """Write label tables as one (`tables.LABELS`), in row groups of bounded size, and return the number of rows.

    A label below `min_score` has no row: nothing is said of it. Absent objects and people's masks stay.

    Raises:
        StorageError: the file cannot be written.
    """
    return _write_table(path, (_accepted(table, min_score) for table in tables), LABELS)


def _write_table(path: str, tables: Iterable[pa.Table], schema: pa.Schema) -> int:
    num_rows = 0
    waiting: list[pa.Table] = []
    with storage.open_output(path) as file, pq.ParquetWriter(file, schema, compression=COMPRESSION) as writer:
        for table in tables:
            waiting.append(table.cast(schema))
            num_rows += waiting[-1].num_rows
            if sum(part.num_rows for part in waiting) >= ROWS_PER_GROUP:
                _write_groups(writer, waiting)
                waiting = []
        _write_groups(writer, waiting)
    return num_rows


def _accepted(table: pa.Table, min_score: float) -> pa.Table:
    if min_score <= 0:
        return table
    score = pc.fill_null(table.column("score"), 0.0)
    human = pc.fill_null(pc.equal(table.column("provenance"), "human"), False)
    keep = pc.or_(pc.or_(pc.invert(table.column("present")), human), pc.greater_equal(score, min_score))
    return table.filter(keep)


def _write_groups(writer: pq.ParquetWriter, tables: Sequence[pa.Table]) -> None:
    if tables:
        writer.write_table(pa.concat_tables(tables).combine_chunks(), row_group_size=ROWS_PER_GROUP)
