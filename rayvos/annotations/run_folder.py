"""The run folder: where one job's labels lie, and how to read the live ones.

    OUT/run.json                      configuration, versions, counts, throughput
    OUT/manifests/<digest>.parquet    the manifests the run was started on, as they were
    OUT/plans/00000.parquet …         which unit holds which clip's frames; the newest plan says what is live
    OUT/labels/<unit_id>.parquet      one file per committed unit; its footer holds the unit's dead letters
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
import pyarrow.compute as pc

from rayvos import storage
from rayvos.annotations.arrow_files import open_parquet, read_parquet
from rayvos.annotations.tables import DEAD_LETTERS, LABELS, check_schema
from rayvos.errors import FormatError, MissingPathError

__all__ = [
    "DeadLetter",
    "Piece",
    "RunFolder",
    "Unit",
    "iter_labels",
    "label_rounds",
    "read_dead_letters",
    "read_labels",
]

FOOTER_KEY = b"rayvos.unit"
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
    """Paths and small files of one run folder, local or remote."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/") or path[:1]

    def labels_file(self, unit_id: str) -> str:
        """Return the path of a unit's labels."""
        return storage.join(self.path, "labels", f"{unit_id}.parquet")

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
        names = storage.list_folder(storage.join(self.path, "labels"))
        return {name[:-8] for name in names if name.endswith(".parquet") and not name.startswith((".", "_"))}

    def read_run_json(self) -> dict[str, Any]:
        """Return what `run.json` says; empty where there is none.

        Raises:
            FormatError: it is no JSON object.
        """
        try:
            found = json.loads(storage.read_bytes(self.run_json))
        except MissingPathError:
            return {}
        except ValueError as error:
            raise FormatError(f"{self.run_json}: expected JSON: {error}; remove it and run the job again") from error
        if not isinstance(found, dict):
            raise FormatError(f"{self.run_json}: expected a JSON object, found {type(found).__name__}")
        return found

    def read_plan(self, number: int | None = None) -> pa.Table:
        """Return a plan (`tables.PLAN`), the newest by default.

        Raises:
            MissingPathError: the folder holds no plan: it is no run folder, or the run never started.
        """
        if number is None:
            numbers = self.plan_numbers()
            if not numbers:
                raise MissingPathError(f"{self.path}: no plan found; is it the output folder of `rayvos label`?")
            number = numbers[-1]
        path = self.plan_file(number)
        table = _read_parquet(path)
        check_schema(table.schema, "plan", path)
        return table

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
        path = self.labels_file(unit_id)
        try:
            with open_parquet(path) as file:
                metadata = file.metadata.metadata or {}
            footer = json.loads(metadata[FOOTER_KEY])
        except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
            raise FormatError(f"{path}: damaged: {error}; remove it and run the job again to redo its unit") from error
        return dict(footer)

    def read_footers(self, unit_ids: Collection[str]) -> list[dict[str, Any]]:
        """Return the footers of several units, in the order given, read side by side."""
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            return list(pool.map(self.read_footer, unit_ids))


def _read_parquet(path: str) -> pa.Table:
    try:
        return read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{path}: expected Parquet: {error}; if a run wrote it, remove it and run again") from error


def iter_labels(
    path: str, *, clip_ids: Collection[str] | None = None, complete_only: bool = False
) -> Iterator[tuple[str, pa.Table]]:
    """Yield the live labels clip by clip, in the order of the manifest; some units are in memory at a time.

    Args:
        path: a run folder, a folder of label tables, or one label table (Parquet); path or URL.
        clip_ids: only these clips; None: all.
        complete_only: leave out clips of which a frame range is not committed (or is a dead letter).

    Yields:
        (clip_id, table): `tables.LABELS`, sorted by (frame, object_id); a clip without any row is left out.

    Raises:
        MissingPathError: nothing is there.
        SchemaError: a file is no label table, or one of a newer rayvos.
    """
    run = RunFolder(path)
    if path.endswith(".parquet"):
        yield from _iter_files([path], clip_ids)
    elif run.plan_numbers():
        yield from _iter_run(run, clip_ids, complete_only)
    else:
        names = [name for name in storage.list_folder(path) if name.endswith(".parquet") and name[0] not in "._"]
        if not names:
            raise MissingPathError(f"{path}: no label table found; pass a run folder or a labels.parquet")
        yield from _iter_files([storage.join(path, name) for name in names], clip_ids)


def _iter_files(paths: Sequence[str], clip_ids: Collection[str] | None) -> Iterator[tuple[str, pa.Table]]:
    for path in paths:
        table = _read_parquet(path)
        check_schema(table.schema, "labels", path)
        for clip_id, rows in _split_by_clip(table).items():
            if clip_ids is None or clip_id in clip_ids:
                yield clip_id, _sorted(rows)


def _iter_run(run: RunFolder, clip_ids: Collection[str] | None, complete_only: bool) -> Iterator[tuple[str, pa.Table]]:
    committed = run.committed()
    plan = run.read_plan()
    units: OrderedDict[str, dict[str, pa.Table]] = OrderedDict()

    def rows_of(unit_id: str, clip_id: str) -> pa.Table | None:
        if unit_id not in units:
            path = run.labels_file(unit_id)
            table = _read_parquet(path)
            check_schema(table.schema, "labels", path)
            units[unit_id] = _split_by_clip(table)
            if len(units) > _OPEN_UNITS:
                units.popitem(last=False)
        units.move_to_end(unit_id)
        return units[unit_id].get(clip_id)

    for clip_id, pieces in _pieces_by_clip(plan):
        if clip_ids is not None and clip_id not in clip_ids:
            continue
        if complete_only and not all(unit_id in committed for unit_id, _ in pieces):
            continue
        found = [rows_of(unit_id, clip_id) for unit_id, _ in pieces if unit_id in committed]
        tables = [table for table in found if table is not None]
        if complete_only and len(tables) < len(pieces):
            continue  # a frame range is a dead letter
        if tables:
            yield clip_id, _sorted(pa.concat_tables(tables))


def _pieces_by_clip(plan: pa.Table) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Yield (clip_id, [(unit_id, frame_start)]); a plan lists a clip's pieces one after the other."""
    current, pieces = "", list[tuple[str, int]]()
    columns = (plan.column(name).to_pylist() for name in ("clip_id", "unit_id", "frame_start"))
    for clip_id, unit_id, frame_start in zip(*columns, strict=True):
        if clip_id != current and pieces:
            yield current, pieces
            pieces = []
        current = clip_id
        pieces.append((unit_id, frame_start))
    if pieces:
        yield current, pieces


def _split_by_clip(table: pa.Table) -> dict[str, pa.Table]:
    """Return the rows of each clip; a unit's file keeps the rows of a clip together."""
    table = table.combine_chunks()
    ids = table.column("clip_id")
    if table.num_rows == 0:
        return {}
    runs = pc.run_end_encode(ids.chunk(0))
    found: dict[str, pa.Table] = {}
    start = 0
    for clip_id, stop in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        rows = table.slice(start, stop - start)
        found[clip_id] = pa.concat_tables([found[clip_id], rows]) if clip_id in found else rows
        start = stop
    return found


def _sorted(table: pa.Table) -> pa.Table:
    return table.select(LABELS.names).sort_by([("frame", "ascending"), ("object_id", "ascending")]).combine_chunks()


def read_labels(path: str, *, clip_ids: Collection[str] | None = None) -> pa.Table:
    """Return the live labels of a run folder or label table as one Arrow table (`tables.LABELS`).

    Sorted by clip (manifest order), frame and object. For runs that do not fit in memory use `iter_labels`.

    Raises:
        StorageError, FormatError: see `iter_labels`.
    """
    tables = [table.cast(LABELS) for _, table in iter_labels(path, clip_ids=clip_ids)]
    return pa.concat_tables(tables) if tables else LABELS.empty_table()


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


def label_rounds(run: RunFolder) -> dict[tuple[str, str], int]:
    """Return the round of every (clip_id, fingerprint) that a plan of the run ever named.

    Round 0 are a clip's first labels; each later fingerprint of the clip (its prompts were corrected, by people or by
    a new manifest) is one more. With `provenance`, `engine` and `weights` that says where a label comes from.
    """
    rounds: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    for number in run.plan_numbers():
        plan = run.read_plan(number)
        for key in zip(*(plan.column(name).to_pylist() for name in ("clip_id", "fingerprint")), strict=True):
            if key not in rounds:
                rounds[key] = counts.get(key[0], 0)
                counts[key[0]] = rounds[key] + 1
    return rounds


def footer_of(unit_id: str, dead_letters: Sequence[DeadLetter]) -> bytes:
    """Return the footer that a unit's file carries under `FOOTER_KEY`."""
    letters = [asdict(letter) for letter in dead_letters]
    return json.dumps({"unit_id": unit_id, "dead_letters": letters}, sort_keys=True).encode()
