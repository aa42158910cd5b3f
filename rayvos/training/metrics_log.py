"""The numbers of a training run: `metrics.parquet` for programs, event files for TensorBoard.

One row of the table is one number: `step, split, name, value`; `split` is `train` or `validation`. The table is
written anew with every checkpoint, and a run that goes on from a checkpoint drops what came after it, so that no step
is there twice. Event files cannot be changed; a new one states from which step on it replaces older ones.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.arrow_files import read_parquet

__all__ = ["METRICS", "MetricsLog", "read_metrics"]

METRICS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ],
    metadata={"rayvos.table": "metrics", "rayvos.version": "1"},
)


def read_metrics(path: str) -> pa.Table:
    """Read `metrics.parquet`.

    Raises:
        FormatError: it is damaged.
        StorageError: it is not there.
    """
    return read_parquet(path)


class MetricsLog:
    """Keeps the numbers of a run in its folder.

    Args:
        folder: of the run, path or URL.
        step: finished steps of the checkpoint from which the run goes on; 0: it begins.
    """

    def __init__(self, folder: str, *, step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self._path = storage.join(folder, "metrics.parquet")
        self._rows: list[tuple[int, str, str, float]] = []
        if step and storage.exists(self._path):
            kept = read_metrics(self._path).to_pylist()
            self._rows = [(row["step"], row["split"], row["name"], row["value"]) for row in kept if row["step"] <= step]
        self._events_folder = storage.join(folder, "tensorboard")
        # Event files grow, which object stores cannot: they grow here and are copied.
        self._local = tempfile.TemporaryDirectory(prefix="rayvos-events-")
        self._events = SummaryWriter(self._local.name, purge_step=step + 1 if step else None)

    def add(self, step: int, split: Literal["train", "validation"], values: Mapping[str, float]) -> None:
        """Keep numbers of a step."""
        for name, value in values.items():
            self._rows.append((step, split, name, float(value)))
            self._events.add_scalar(f"{split}/{name}", float(value), step)

    def save(self) -> None:
        """Write the table and the events.

        Raises:
            StorageError: they could not be written.
        """
        table = pa.Table.from_pylist([dict(zip(METRICS.names, row, strict=True)) for row in self._rows], METRICS)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        storage.write_bytes(self._path, buffer.getvalue())
        self._events.flush()
        for file in sorted(Path(self._local.name).iterdir()):
            storage.write_bytes(storage.join(self._events_folder, file.name), file.read_bytes())

    def close(self) -> None:
        """Let go of the files; what was not saved is lost."""
        self._events.close()
        self._local.cleanup()
