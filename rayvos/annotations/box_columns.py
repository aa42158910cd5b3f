"""The rows of a table of boxes as compact columns: millions of rows at some 45 bytes each, grouped by clip.

The rows of a clip may stand anywhere in the file, so the file is read once as a stream of batches and sorted by clip.
A bad row spoils its clip only; its line number is found when the error is told.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.arrow_files import open_native
from rayvos.errors import FormatError, RayvosError

__all__ = ["BoxColumns", "is_box_table"]

REQUIRED = ("object_id", "frame", "x0", "y0", "x1", "y1")
OPTIONAL = ("clip_id", "category", "visible")
BLOCK_BYTES = 8 << 20
JSON_BATCH_ROWS = 50_000
HEAD_BYTES = 1 << 16
LARGEST_WHOLE = 2**31 - 1  # the manifest's columns are int32
TRUE, FALSE = {"1", "true", "yes", "1.0", ""}, {"0", "false", "no", "0.0"}

Batch = dict[str, pa.Array]


def is_box_table(path: str) -> bool:
    """Tell whether the head of a file has the columns of a table of boxes, as CSV or JSON lines."""
    with storage.open_input(path) as file:
        head = file.read(HEAD_BYTES)
    try:
        line = head.decode("utf-8-sig", errors="replace").splitlines()[0]
        if line.lstrip().startswith("["):
            return all(f'"{name}"' in head.decode(errors="replace") for name in REQUIRED)
        names = json.loads(line) if line.startswith("{") else _header(line, path)
    except (IndexError, ValueError, RayvosError):
        return False
    return set(REQUIRED) <= set(names)


@dataclass
class BoxColumns:
    """The rows of one table; row numbers count from 0 in file order."""

    path: str
    clip_ids: list[str | None]
    """Clip ids in order of their first row; [None] for a table without the column."""
    categories: list[str | None]
    clip: NDArray[np.int32]
    object_id: NDArray[np.int32]
    frame: NDArray[np.int32]
    edges: NDArray[np.float64]
    """(rows, 4), `xyxy`."""
    category: NDArray[np.int32]
    """Index into `categories`."""
    visible: NDArray[np.bool_]
    bad: dict[int, tuple[int, str]]
    """By clip: its first bad row and what is wrong with it."""
    first_line: int | None
    """The line of row 0 where no line is blank; None for a JSON list, whose entries count from 1."""

    def __post_init__(self) -> None:
        self._order = np.argsort(self.clip, kind="stable")
        self._starts = np.searchsorted(self.clip, np.arange(len(self.clip_ids) + 1), sorter=self._order)
        self._blank_lines: list[int] | None = None

    @classmethod
    def read(cls, path: str) -> BoxColumns:
        """Read a CSV file with a header, JSON lines, or one JSON list.

        Raises:
            FormatError: the file is empty, lacks a column, or has a line that is no row of it.
            StorageError: it cannot be read.
        """
        with storage.open_input(path) as file:
            first = file.readline().decode("utf-8-sig", errors="replace").strip()
        if not first:
            raise FormatError(f"{path}: expected a header or JSON lines with {', '.join(REQUIRED)}, found nothing")
        as_json, as_list = first.startswith("{"), first.startswith("[")
        builder = _Builder()
        if as_json or as_list:
            batches = _json_batches(_json_list(path) if as_list else _json_lines(path))
        else:
            batches = _csv_batches(path, first)
        for batch in batches:
            builder.add(batch)
        if not builder.num_rows:
            raise FormatError(f"{path}: expected a row per box below the header, found none")
        return builder.finish(cls, path, None if as_list else 1 if as_json else 2)

    def rows(self, clip: int) -> NDArray[np.int64]:
        """Return the row numbers of a clip (an index into `clip_ids`), in file order."""
        return self._order[self._starts[clip] : self._starts[clip + 1]]

    def line(self, row: int) -> str:
        """Return the place of a row, for messages: `boxes.csv line 203`."""
        if self.first_line is None:
            return f"{self.path} entry {row + 1}"
        if self._blank_lines is None:  # read again only for a message
            with storage.open_input(self.path) as file:
                self._blank_lines = [number for number, text in enumerate(file, 1) if not text.strip()]
        line = row + self.first_line
        # Blank lines are no rows: each one up to the row's line moves it one further.
        for blank in self._blank_lines:
            if blank <= line:
                line += 1
        return f"{self.path} line {line}"


class _Builder:
    """Collects checked batches."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._clips: dict[str | None, int] = {}
        self._categories: dict[str | None, int] = {None: 0}
        self._chunks: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("clip", "object_id", "frame", "edges", "category", "visible")
        }
        self._bad: dict[int, tuple[int, str]] = {}

    def add(self, batch: Batch) -> None:
        num_rows = len(batch["frame"])
        clip = _codes(batch.get("clip_id"), self._clips, num_rows)
        problems: dict[int, str] = {}
        object_id = _whole_numbers(batch["object_id"], "object_id", 1, problems)
        frame = _whole_numbers(batch["frame"], "frame", 0, problems)
        visible = _flags(batch.get("visible"), num_rows, problems)
        edges = np.stack([_numbers(batch[name], name, visible, problems) for name in ("x0", "y0", "x1", "y1")], axis=1)
        empty = visible & ~((edges[:, 0] < edges[:, 2]) & (edges[:, 1] < edges[:, 3]))
        for row in np.flatnonzero(empty).tolist():
            problems.setdefault(
                row, f"box {edges[row].tolist()}: expected x0 < x1 and y0 < y1; is it x, y, width, height?"
            )
        for row in sorted(problems):
            self._bad.setdefault(int(clip[row]), (self.num_rows + row, problems[row]))
        category = _codes(batch.get("category"), self._categories, num_rows)
        columns: list[NDArray[Any]] = [clip, object_id, frame, edges, category, visible]
        for chunks, values in zip(self._chunks.values(), columns, strict=True):
            chunks.append(values)
        self.num_rows += num_rows

    def finish(self, kind: type[BoxColumns], path: str, first_line: int | None) -> BoxColumns:
        # One column at a time, so that chunks and whole are in memory twice for one column only.
        columns = {}
        for name, chunks in self._chunks.items():
            columns[name] = np.concatenate(chunks)
            chunks.clear()
        return kind(
            path=path,
            clip_ids=list(self._clips),
            categories=list(self._categories),
            bad=self._bad,
            first_line=first_line,
            **columns,
        )


def _codes(values: pa.Array | None, known: dict[str | None, int], num_rows: int) -> NDArray[np.int32]:
    """Return an index into `known` for each text, adding new ones; an empty text or no column is None."""
    if values is None:
        return np.full(num_rows, known.setdefault(None, len(known)), np.int32)
    encoded = pc.utf8_trim_whitespace(values).dictionary_encode()
    codes = [known.setdefault(text or None, len(known)) for text in encoded.dictionary.to_pylist()]
    indices: NDArray[np.int32] = encoded.indices.to_numpy()
    return np.array(codes, np.int32)[indices]


def _floats(texts: pa.Array) -> NDArray[np.float64]:
    """Return the numbers; NaN for what is none."""
    trimmed = pc.utf8_trim_whitespace(texts)
    try:
        return trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    except pa.ArrowInvalid:
        return np.array([_float(text) for text in trimmed.to_pylist()])


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _whole_numbers(texts: pa.Array, name: str, least: int, problems: dict[int, str]) -> NDArray[np.int32]:
    values = _floats(texts)
    with np.errstate(invalid="ignore"):
        good = (values >= least) & (values <= LARGEST_WHOLE) & (values == np.floor(values))
    for row in np.flatnonzero(~good).tolist():
        text = texts[row].as_py()
        hint = "; did you mean the category column?" if name == "object_id" and text.strip().isalpha() else ""
        problems.setdefault(row, f"{name} {text!r}: expected a whole number from {least}{hint}")
    return np.where(good, values, 0).astype(np.int32)


def _numbers(texts: pa.Array, name: str, visible: NDArray[np.bool_], problems: dict[int, str]) -> NDArray[np.float64]:
    values = _floats(texts)
    for row in np.flatnonzero(visible & ~np.isfinite(values)).tolist():
        problems.setdefault(row, f"{name} {texts[row].as_py()!r}: expected a finite number of pixels")
    return np.nan_to_num(values, posinf=0, neginf=0)


def _flags(texts: pa.Array | None, num_rows: int, problems: dict[int, str]) -> NDArray[np.bool_]:
    if texts is None:
        return np.ones(num_rows, np.bool_)
    encoded = texts.dictionary_encode()
    words = [text.strip().lower() for text in encoded.dictionary.to_pylist()]
    indices: NDArray[np.int32] = encoded.indices.to_numpy()
    unknown = np.array([word not in TRUE | FALSE for word in words])[indices]
    for row in np.flatnonzero(unknown).tolist():
        problems.setdefault(row, f"visible {texts[row].as_py()!r}: expected 1 or 0")
    return np.array([word not in FALSE for word in words])[indices]


def _header(line: str, path: str) -> list[str]:
    """Return the column names of a header line; the delimiter is the one that splits it into them."""
    names = next(csv.reader([line], delimiter=_delimiter(line)))
    names = [name.strip().strip('"').lower() for name in names]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        hint = "; boxes are edges x0,y0,x1,y1, not x,y,width,height" if {"x", "y"} <= set(names) else ""
        raise FormatError(
            f"{path} line 1: expected the columns {', '.join(REQUIRED)} (and clip_id, category, visible), "
            f"found {', '.join(names)[:200]!r}, without {', '.join(missing)}{hint}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormatError(f"{path} line 1: column {', '.join(twice)} is there twice")
    return names


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _csv_batches(path: str, header: str) -> Iterator[Batch]:
    names = _header(header, path)
    wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in names]
    with open_native(path) as file:
        try:
            reader = pa.csv.open_csv(
                file,
                read_options=pa.csv.ReadOptions(
                    block_size=BLOCK_BYTES, column_names=names, skip_rows=1, use_threads=False
                ),
                parse_options=pa.csv.ParseOptions(delimiter=_delimiter(header)),
                convert_options=pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), include_columns=wanted
                ),
            )
            for batch in reader:
                yield dict(zip(wanted, batch.columns, strict=True))
        except pa.ArrowInvalid as error:
            _raise_csv_error(path, names, _delimiter(header), error)


def _raise_csv_error(path: str, names: list[str], delimiter: str, error: Exception) -> None:
    """Raise an error with the line that the CSV reader stumbled over, which it does not name.

    A header without rows is no error here.
    """
    last = 0
    with io.TextIOWrapper(storage.open_input(path), "utf-8-sig", newline="") as text:
        rows = csv.reader(text, delimiter=delimiter)
        try:
            for row in rows:
                last = rows.line_num
                if row and len(row) != len(names):
                    raise FormatError(
                        f"{path} line {last}: expected {len(names)} columns as in the header, found {len(row)}"
                    ) from error
        except (csv.Error, UnicodeDecodeError) as reason:
            raise FormatError(f"{path} line {last + 1} or later: expected UTF-8 rows: {reason}") from reason
    if last > 1:
        raise FormatError(f"{path}: expected CSV rows: {error}") from error


def _json_batches(records: Iterator[tuple[str, Any]]) -> Iterator[Batch]:
    rows: list[dict[str, str]] = []
    for where, record in records:
        rows.append(_json_row(record, where))
        if len(rows) >= JSON_BATCH_ROWS:
            yield _columns(rows)
            rows = []
    if rows:
        yield _columns(rows)


def _json_lines(path: str) -> Iterator[tuple[str, Any]]:
    with io.TextIOWrapper(storage.open_input(path), "utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path} line {number}"
                try:
                    yield where, json.loads(line)
                except ValueError as error:
                    raise FormatError(f"{where}: expected one JSON object per line: {error}") from error


def _json_list(path: str) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(storage.read_bytes(path).decode("utf-8-sig"))
    except ValueError as error:
        raise FormatError(f"{path}: expected a JSON list of objects: {error}") from error
    for number, record in enumerate(records, 1):
        yield f"{path} entry {number}", record


def _json_row(record: Any, where: str) -> dict[str, str]:
    if not isinstance(record, dict) or not set(REQUIRED) <= set(record):
        raise FormatError(f"{where}: expected an object with the keys {', '.join(REQUIRED)}, found {str(record)[:80]}")
    return {name: "" if record.get(name) is None else str(record[name]) for name in (*REQUIRED, *OPTIONAL)}


def _columns(rows: list[dict[str, str]]) -> Batch:
    return {name: pa.array([row[name] for row in rows], pa.string()) for name in (*REQUIRED, *OPTIONAL)}
