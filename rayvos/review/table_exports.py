"""The exports that put all clips into one file: COCO, YouTube-VIS, and one label table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.formats.coco_results import write_coco
from rayvos.annotations.formats.youtube_vis_results import write_youtube_vis
from rayvos.annotations.records import Clip
from rayvos.annotations.tables import COMPRESSION, LABELS
from rayvos.review.export_options import ExportFormat, ExportOptions

__all__ = ["file_names", "write_file", "write_label_table"]

_FILES: dict[str, tuple[str, ...]] = {
    "coco": ("instances.json",),
    "youtube-vis": ("instances.json", "results.json"),
    "parquet": ("labels.parquet",),
}
ROWS_PER_GROUP = 16_384  # about 30 MB of 480p masks: what a reader of one row group holds


def file_names(export_format: ExportFormat) -> tuple[str, ...]:
    """Return the names of the files that a format consists of."""
    return _FILES[export_format]


def write_file(
    out: str, clips: Iterable[tuple[Clip, pa.Table]], options: ExportOptions, categories: Sequence[str | None]
) -> dict[str, int]:
    """Write all clips into the format's files and return counts.

    Raises:
        StorageError: a file cannot be written.
    """
    paths = [storage.join(out, name) for name in _FILES[options.format]]
    if options.format == "coco":
        images, annotations = write_coco(paths[0], clips, category_names=categories, min_score=options.min_score)
        return {"images": images, "annotations": annotations}
    if options.format == "youtube-vis":
        videos, annotations = write_youtube_vis(
            paths[0], paths[1], clips, category_names=categories, min_score=options.min_score
        )
        return {"videos": videos, "annotations": annotations}
    return {"rows": write_label_table(paths[0], (table for _, table in clips), min_score=options.min_score)}


def write_label_table(path: str, tables: Iterable[pa.Table], *, min_score: float = 0.0) -> int:
    """Write label tables as one (`tables.LABELS`), in row groups of bounded size, and return the number of rows.

    A label below `min_score` has no row: nothing is said of it. Absent objects and people's masks stay.

    Raises:
        StorageError: the file cannot be written.
    """
    num_rows = 0
    waiting: list[pa.Table] = []
    with storage.open_output(path) as file, pq.ParquetWriter(file, LABELS, compression=COMPRESSION) as writer:
        for table in tables:
            waiting.append(_accepted(table.cast(LABELS), min_score))
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
