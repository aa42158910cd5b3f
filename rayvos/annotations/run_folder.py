"""The run folder: where one job's labels or candidates lie, and how to read the live ones.

    OUT/run.json                      configuration, versions, counts, throughput
    OUT/manifests/<digest>.parquet    the manifests the run was started on, as they were
    OUT/plans/00000.parquet …         which unit holds which clip's frames; the newest plan says what is live
    OUT/labels/<unit_id>.parquet      one file per committed unit; its footer holds the unit's dead letters
    OUT/candidates/<unit_id>.parquet  the same, in the folder of a candidates job
    OUT/attempts/<unit_id>/…          marks of units in flight

Why so: a unit's file never changes once it is there, so corrections add files. *Live* is what the newest plan names:
it lists each (clip, frame range) once, with the one unit that holds it. A clip that was corrected or removed is
simply no longer named by it, its older labels stay readable through the older plans, and no reader can meet a label
twice. A log of commits would have to be replayed and repaired; rewriting a table would lose what is being written.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from rayvos import storage
from rayvos.annotations.arrow_files import open_parquet, read_parquet
from rayvos.annotations.own_json import read_own_json
from rayvos.annotations.tables import DEAD_LETTERS, TableName, check_schema, with_added_columns
from rayvos.annotations.unit_rows import SCHEMAS, ResultTable, pieces_by_clip, sort_rows, split_by_clip
from rayvos.errors import FormatError, MissingPathError, UsageError

__all__ = [
    "DeadLetter",
    "Piece",
    "RunFolder",
    "Unit",
    "iter_labels",
    "iter_rows",
    "read_candidates",
    "read_dead_letters",
    "read_labels",
]

FOOTER_KEY = b"rayvos.unit"
RESULTS_KEY = "rayvos.results"  # in the metadata of a plan
_OPEN_UNITS = 4  # unit files kept in memory while reading clip by clip: neighbours share a unit
_READ_THREADS = 16  # footers are small; on object stores a run of 10,000 units waits for latency alone


@dataclass(frozen=True, slots=True)
class Piece:
    """A clip's frame range: the smallest thing that is labelled, committed or fails."""

    clip_id: str
    manifest_row: int
    fingerprint: str
    """Digest of all that the clip's labels depend on."""
    frame_start: int
    frame_stop: int
    cost_s: float
    """Planned seconds of work."""
    round: int = 0
    """How often the clip was corrected before."""
    earlier_units: tuple[str, ...] = ()
    """Units that hold the clip's rows of the round before, of which some may be kept."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The pieces that one actor labels in one go: one output file."""

    unit_id: str
    pieces: tuple[Piece, ...]

    @property
    def cost_s(self) -> float:
        """Planned seconds of work."""
        return sum(piece.cost_s for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A piece that failed for good."""

    clip_id: str
    frame_start: int
    frame_stop: int
    error: str
    """Stable code, see `rayvos.errors`."""
    message: str
    traceback: str
    attempts: int


class RunFolder:
    """Paths and small files of one run folder, local or remote.

    Args:
        path: path or URL.
        table: what the run makes; None asks its newest plan, and takes labels where there is none.
    """

    def __init__(self, path: str, table: ResultTable | None = None) -> None:
        self.path = path.rstrip("/") or path[:1]
        self._table = table

    @property
    def table(self) -> ResultTable:
        """What the run makes.

        Raises:
            FormatError: the newest plan is damaged, or names a table that this rayvos does not know.
        """
        if self._table is not None:
            return self._table
        numbers = self.plan_numbers()
        if not numbers:
            return "labels"
        path = self.plan_file(numbers[-1])
        named = _read_metadata(path).get(RESULTS_KEY.encode(), b"labels").decode()
        self._table = next((table for table in SCHEMAS if table == named), None)
        if self._table is None:
            raise FormatError(f"{path}: a run of {named!r}, expected {' or '.join(sorted(SCHEMAS))}; update rayvos")
        return self._table

    @property
    def schema(self) -> pa.Schema:
        """Schema of the table in the units' files."""
        return SCHEMAS[self.table]

    def unit_file(self, unit_id: str) -> str:
        """Return the path of a unit's rows."""
        return storage.join(self.path, self.table, f"{unit_id}.parquet")

    def attempts_folder(self, unit_id: str) -> str:
        """Return the folder of a unit's attempt marks."""
        return storage.join(self.path, "attempts", unit_id)

    def manifest_file(self, digest: str) -> str:
        """Return the path of a manifest snapshot."""
        return storage.join(self.path, "manifests", f"{digest}.parquet")

    def plan_file(self, number: int) -> str:
        """Return the path of a plan."""
        return storage.join(self.path, "plans", f"{number:05d}.parquet")

    @property
    def run_json(self) -> str:
        """Path of `run.json`."""
        return storage.join(self.path, "run.json")

    def plan_numbers(self) -> list[int]:
        """Return the numbers of the stored plans, ascending."""
        names = storage.list_folder(storage.join(self.path, "plans"))
        return [int(name[:-8]) for name in names if name.endswith(".parquet") and name[:-8].isdigit()]

    def committed(self) -> set[str]:
        """Return the ids of the units whose files are there."""
        names = storage.list_folder(storage.join(self.path, self.table))
        return {name[:-8] for name in names if name.endswith(".parquet") and not name.startswith((".", "_"))}

    def read_run_json(self) -> dict[str, Any]:
        """Return what `run.json` says; empty where there is none.

        Raises:
            FormatError: it is no JSON object.
        """
        try:
            return read_own_json(self.run_json, "remove it and run the job again")
        except MissingPathError:
            return {}

    def read_plan(self, number: int | None = None) -> pa.Table:
        """Return a plan (`tables.PLAN`), the newest by default.

        Raises:
            MissingPathError: the folder holds no plan: it is no run folder, or the run never started.
        """
        if number is None:
            numbers = self.plan_numbers()
            if not numbers:
                raise MissingPathError(
                    f"{self.path}: no plan found; is it the output folder of `rayvos label` or `rayvos candidates`?"
                )
            number = numbers[-1]
        return _read_table(self.plan_file(number), "plan")

    def read_unit(self, unit_id: str) -> pa.Table:
        """Return the rows of a committed unit, in the schema of the run's table.

        Raises:
            MissingPathError: it is not there.
            FormatError: the file is damaged.
        """
        return _read_table(self.unit_file(unit_id), self.table)

    def newest_manifest(self) -> str:
        """Return the path of the manifest snapshot that the newest plan was made on.

        Raises:
            MissingPathError: the folder holds no plan.
        """
        metadata = self.read_plan().schema.metadata
        return self.manifest_file(metadata[b"rayvos.manifest"].decode())

    def read_footer(self, unit_id: str) -> dict[str, Any]:
        """Return what a committed unit says of itself: `unit_id`, `dead_letters` (a list of objects).

        Raises:
            FormatError: the file is damaged.
        """
        path = self.unit_file(unit_id)
        try:
            footer = json.loads(_read_metadata(path)[FOOTER_KEY])
        except (KeyError, ValueError) as error:
            raise FormatError(f"{path}: damaged: {error}; remove it and run the job again to redo its unit") from error
        return dict(footer)

    def read_footers(self, unit_ids: Collection[str]) -> list[dict[str, Any]]:
        """Return the footers of several units, in the order given, read side by side."""
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            return list(pool.map(self.read_footer, unit_ids))


def _read_metadata(path: str) -> dict[bytes, bytes]:
    """Return what a Parquet file says of itself.

    Raises:
        FormatError: the file is damaged.
    """
    try:
        with open_parquet(path) as file:
            return dict(file.metadata.metadata or {})
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{path}: damaged: {error}; remove it and run the job again to redo its unit") from error


def _read_table(path: str, table: TableName) -> pa.Table:
    try:
        found = read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{path}: expected Parquet: {error}; if a run wrote it, remove it and run again") from error
    check_schema(found.schema, table, path)
    return with_added_columns(found, table)


def iter_labels(
    path: str, *, clip_ids: Collection[str] | None = None, complete_only: bool = False
) -> Iterator[tuple[str, pa.Table]]:
    """Yield the live labels clip by clip (`tables.LABELS`, sorted by frame and object); see `iter_rows`."""
    return iter_rows(path, "labels", clip_ids=clip_ids, complete_only=complete_only)


def iter_rows(
    path: str, table: ResultTable, *, clip_ids: Collection[str] | None = None, complete_only: bool = False
) -> Iterator[tuple[str, pa.Table]]:
    """Yield the live rows clip by clip, in the order of the manifest; some units are in memory at a time.

    Args:
        path: a run folder, a folder of such tables, or one table (Parquet); path or URL.
        table: which table is expected there.
        clip_ids: only these clips; None: all.
        complete_only: leave out clips of which a frame range is not committed (or is a dead letter).

    Yields:
        (clip_id, rows): sorted, see `sort_rows`; a clip without any row is left out.

    Raises:
        MissingPathError: nothing is there.
        UsageError: it is a run that makes another table.
        SchemaError: a file is no such table, or one of a newer rayvos.
    """
    run = RunFolder(path)
    if path.endswith(".parquet"):
        yield from _iter_files([path], table, clip_ids)
    elif run.plan_numbers():
        if run.table != table:
            raise UsageError(f"{path}: expected a run that makes {table}, found one that makes {run.table}")
        yield from _iter_run(run, clip_ids, complete_only)
    else:
        names = [name for name in storage.list_folder(path) if name.endswith(".parquet") and name[0] not in "._"]
        if not names:
            raise MissingPathError(f"{path}: no table of {table} found; pass a run folder or a {table}.parquet")
        yield from _iter_files([storage.join(path, name) for name in names], table, clip_ids)


def _iter_files(
    paths: Sequence[str], table: ResultTable, clip_ids: Collection[str] | None
) -> Iterator[tuple[str, pa.Table]]:
    for path in paths:
        for clip_id, rows in split_by_clip(_read_table(path, table)).items():
            if clip_ids is None or clip_id in clip_ids:
                yield clip_id, sort_rows(rows, table)


def _iter_run(run: RunFolder, clip_ids: Collection[str] | None, complete_only: bool) -> Iterator[tuple[str, pa.Table]]:
    committed = run.committed()
    plan = run.read_plan()
    units: OrderedDict[str, dict[str, pa.Table]] = OrderedDict()

    def rows_of(unit_id: str, clip_id: str) -> pa.Table | None:
        if unit_id not in units:
            units[unit_id] = split_by_clip(run.read_unit(unit_id))
            if len(units) > _OPEN_UNITS:
                units.popitem(last=False)
        units.move_to_end(unit_id)
        return units[unit_id].get(clip_id)

    for clip_id, pieces in pieces_by_clip(plan):
        if clip_ids is not None and clip_id not in clip_ids:
            continue
        if complete_only and not all(unit_id in committed for unit_id, _ in pieces):
            continue
        found = [rows_of(unit_id, clip_id) for unit_id, _ in pieces if unit_id in committed]
        tables = [table for table in found if table is not None]
        if complete_only and len(tables) < len(pieces):
            continue  # a frame range is a dead letter
        if tables:
            yield clip_id, sort_rows(pa.concat_tables(tables), run.table)


def read_labels(path: str, *, clip_ids: Collection[str] | None = None) -> pa.Table:
    """Return the live labels of a run folder or label table as one Arrow table (`tables.LABELS`).

    Sorted by clip (manifest order), frame and object. For runs that do not fit in memory use `iter_labels`.

    Raises:
        StorageError, FormatError: see `iter_labels`.
    """
    return _read_rows(path, "labels", clip_ids)


def read_candidates(path: str, *, clip_ids: Collection[str] | None = None) -> pa.Table:
    """Return the live candidates of a run folder or candidate table as one Arrow table (`tables.CANDIDATES`).

    Sorted by clip (manifest order), frame, object, kind and rank.

    Raises:
        StorageError, FormatError, UsageError: see `iter_rows`.
    """
    return _read_rows(path, "candidates", clip_ids)


def _read_rows(path: str, table: ResultTable, clip_ids: Collection[str] | None) -> pa.Table:
    schema = SCHEMAS[table]
    tables = [rows.cast(schema) for _, rows in iter_rows(path, table, clip_ids=clip_ids)]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_dead_letters(path: str) -> pa.Table:
    """Return the live dead letters of a run folder (`tables.DEAD_LETTERS`), in the order of the manifest.

    Raises:
        MissingPathError: the folder holds no plan.
        FormatError: a unit's file is damaged.
    """
    run = RunFolder(path)
    plan = run.read_plan().select(["unit_id", "clip_id", "frame_start"]).to_pylist()
    committed = run.committed()
    unit_ids = list(dict.fromkeys(row["unit_id"] for row in plan if row["unit_id"] in committed))
    letters = {
        (footer["unit_id"], letter["clip_id"], letter["frame_start"]): letter
        for footer in run.read_footers(unit_ids)
        for letter in footer["dead_letters"]
    }
    rows = []
    for row in plan:
        letter = letters.get((row["unit_id"], row["clip_id"], row["frame_start"]))
        if letter is not None:
            rows.append({"unit_id": row["unit_id"], **letter})
    return pa.Table.from_pylist(rows, schema=DEAD_LETTERS)


def footer_of(unit_id: str, dead_letters: Sequence[DeadLetter]) -> bytes:
    """Return the footer that a unit's file carries under `FOOTER_KEY`."""
    letters = [asdict(letter) for letter in dead_letters]
    return json.dumps({"unit_id": unit_id, "dead_letters": letters}, sort_keys=True).encode()
