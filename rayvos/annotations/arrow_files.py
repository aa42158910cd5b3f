"""Parquet and CSV files for Arrow to read, such that Arrow's own threads never hold a Python object.

A thread of Arrow's that lets go of a Python file while the interpreter ends aborts the whole process ("terminate
called without an active exception"): seen in one of forty short programs that read a table through a file object. So
local files are opened by Arrow itself, remote ones are read in the calling thread.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from rayvos import storage

__all__ = ["open_native", "open_parquet", "read_parquet"]


def open_parquet(path: str, data: bytes | None = None) -> pq.ParquetFile:
    """Open a Parquet file; read it with `use_threads=False`.

    Args:
        path: path or URL.
        data: the file's bytes, where they were read before; `path` then only names them.

    Raises:
        StorageError: and its children, naming the path.
        pyarrow.ArrowInvalid, OSError: it is no Parquet file.
    """
    if data is not None:
        source = pa.BufferReader(data)
    elif (local := storage.local_path(path)) is not None:
        with storage.naming(path):
            source = storage.retrying(lambda: pa.OSFile(str(local)))
    else:
        source = storage.open_input(path)
    return pq.ParquetFile(source, pre_buffer=False)


def read_parquet(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file as a table.

    Raises:
        StorageError: and its children, naming the path.
        pyarrow.ArrowInvalid, OSError: it is no Parquet file.
    """
    with open_parquet(path) as file:
        return file.read(columns=columns, use_threads=False)


@contextmanager
def open_native(path: str) -> Iterator[pa.NativeFile]:
    """Open a file for an Arrow reader that reads ahead in threads; a remote one is copied to this machine first.

    Raises:
        StorageError: and its children, naming the path.
    """
    local = storage.local_path(path)
    if local is not None:
        with storage.naming(path):
            file = storage.retrying(lambda: pa.OSFile(str(local)))
        with file:
            yield file
        return
    with tempfile.NamedTemporaryFile(prefix="rayvos-") as copy:
        with storage.open_input(path) as remote, storage.naming(path):
            shutil.copyfileobj(remote, copy)
        copy.flush()
        with pa.OSFile(copy.name) as file:
            yield file
