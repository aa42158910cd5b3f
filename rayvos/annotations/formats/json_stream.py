"""Writes a JSON object with long lists item by item, so that no list has to fit in memory.

    with JsonStream(path, {"info": {...}}, lists=("images", "annotations")) as stream:
        stream.add("images", {...})
        stream.add("annotations", {...})

Lists are filled in any order: each waits in a temporary file of its own until the end.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any, Self

from rayvos import storage

__all__ = ["JsonStream", "json_bytes"]


def json_bytes(value: Any) -> bytes:
    """Return compact JSON in ASCII; NaN and infinity, which JSON lacks, are refused with a ValueError."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


class JsonStream:
    """One JSON file in the making; it appears whole when the block ends without error.

    Args:
        path: path or URL of the file.
        head: what stands in front of the lists.
        lists: names of the lists, in the order of the file; an empty name makes the file one bare list.

    Raises:
        StorageError: and its children, naming the path.
    """

    def __init__(self, path: str, head: Mapping[str, Any], lists: Sequence[str]) -> None:
        self._path = path
        self._head = head
        self._lists = lists
        self._spools: dict[str, IO[bytes]] = {}
        self._stack = ExitStack()

    def add(self, name: str, item: Mapping[str, Any]) -> None:
        """Append one item to a list."""
        spool = self._spools[name]
        spool.write(b",\n" if spool.tell() else b"\n")
        spool.write(json_bytes(item))

    def __enter__(self) -> Self:
        for name in self._lists:
            # Small exports never touch the disk twice; larger ones spill.
            self._spools[name] = self._stack.enter_context(tempfile.SpooledTemporaryFile(max_size=4 << 20))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self._write()

    def _write(self) -> None:
        with storage.open_output(self._path) as out:
            bare = list(self._lists) == [""]
            if not bare:
                out.write(b"{")
                for key, value in self._head.items():
                    out.write(json_bytes(key) + b":" + json_bytes(value) + b",\n")
            for number, name in enumerate(self._lists):
                out.write((b",\n" if number else b"") + (b"[" if bare else json_bytes(name) + b":["))
                self._spools[name].seek(0)
                shutil.copyfileobj(self._spools[name], out, 1 << 20)
                out.write(b"\n]")
            out.write(b"\n" if bare else b"}\n")
