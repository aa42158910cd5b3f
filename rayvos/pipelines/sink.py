"""Commits a unit: its rows and its dead letters appear in one file, in one atomic step, once.

The file's name is the unit's digest and its bytes are a function of the unit's rows, so that a second commit of
the same unit (a retried task, a second driver) finds the name taken and changes nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.run_folder import FOOTER_KEY, DeadLetter, RunFolder, Unit, footer_of
from rayvos.annotations.tables import COMPRESSION

__all__ = ["commit_unit", "sweep_leftovers"]

LEFTOVER_S = 3600  # no write of one unit's file takes an hour: what is older belongs to a process that is gone


def commit_unit(run: RunFolder, unit: Unit, rows: pa.Table, dead_letters: Sequence[DeadLetter]) -> int:
    """Make a unit's file appear, unless it is there.

    Args:
        run: where.
        unit: the unit.
        rows: in the run's schema, those of the unit's pieces that did not fail, in the order of the pieces.
        dead_letters: the pieces that failed for good.

    Returns:
        The size of the file in bytes.

    Raises:
        StorageError: storage failed for good (full disk, no permission); nothing appeared, and the unit is done
            again by the next run.
    """
    footer = footer_of(unit.unit_id, dead_letters)
    schema = run.schema
    table = rows.select(schema.names).cast(schema)
    table = table.replace_schema_metadata({**(schema.metadata or {}), FOOTER_KEY: footer})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=COMPRESSION)
    data = buffer.getvalue()
    storage.create_if_absent(run.unit_file(unit.unit_id), data)
    return len(data)


def sweep_leftovers(run: RunFolder) -> None:
    """Remove temporary files that killed processes left beside the units' files (local folders only)."""
    folder = storage.local_path(storage.join(run.path, run.table))
    if folder is None or not folder.is_dir():
        return
    for path in folder.glob(".*.tmp"):
        if time.time() - path.stat().st_mtime > LEFTOVER_S:
            path.unlink(missing_ok=True)
