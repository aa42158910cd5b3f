"""Plans a run: which frames of which clips form which units, and which of them are already done.

A *piece* is a clip's frame range; a *unit* is some pieces, about a minute of an actor's work, one output file. Long
clips are cut where the engine allows, short clips are put together.

Why so: the plan is stored before work starts and is found again by a rerun, so that units, and with them file names,
do not depend on what was finished before, on the number of actors, or on who is asking. A changed manifest makes a
new plan. It takes over every piece whose clip has the same fingerprint (the unit that holds it, if committed; its
frame range, if not) and cuts only what is new. Planning from the committed files alone would cut the remainder
anew at each start, and two drivers would write the same rows under two names. A corrected clip names the units of
its round before: labels of objects that the correction does not touch are taken from there.
"""

from __future__ import annotations

import io
import itertools
import logging
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import RESULTS_KEY, Piece, RunFolder, Unit, read_dead_letters
from rayvos.annotations.tables import COMPRESSION, PLAN
from rayvos.engines.base import EngineNeeds
from rayvos.errors import IdError, InputError
from rayvos.pipelines.fingerprints import clip_fingerprint, digest_of, job_fingerprint
from rayvos.pipelines.sink import sweep_leftovers
from rayvos.pipelines.work import Work

__all__ = ["RunPlan", "describe", "make_plan", "plan_run", "store_plan"]

logger = logging.getLogger(__name__)

UNIT_S = 60.0  # design: about a minute of an actor's work is lost with an actor, and pays for its commit
SHORTEST_UNIT_S = 5.0
UNITS_AT_LEAST = 32  # small jobs are cut finer, so that a laptop's or a small cluster's actors all get work
PIECES_PER_UNIT = 1000  # bounds the receipt and the rows an actor holds where clips cost next to nothing
FRAMES_PER_HALO = 8  # a cut costs the halo twice; at least this many frames per frame of halo keep that below a quarter
REFERENCE_PIXELS = 480 * 854  # the size at which engines state their cost


@dataclass(frozen=True)
class RunPlan:
    """The units of a run and which of them are committed."""

    table: pa.Table
    """`tables.PLAN`: one row per piece, in the order of the manifest."""
    manifest: str
    """Path of the manifest: the run's snapshot once the plan is stored."""
    manifest_digest: str
    job: str
    """Fingerprint of the configuration."""
    selection: str
    """Digest of the clips chosen from the manifest; empty for all."""
    number: int | None = None
    """The plan's number in the run folder; None: not stored."""
    committed: frozenset[str] = field(default_factory=frozenset)
    """Ids of the units that are done."""

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in the order of their first piece."""
        grouped: dict[str, list[Piece]] = {}
        for row in self.table.to_pylist():
            row["round"], row["earlier_units"] = row["round"] or 0, tuple(row["earlier_units"] or ())
            grouped.setdefault(row.pop("unit_id"), []).append(Piece(**row))
        return [Unit(unit_id, tuple(pieces)) for unit_id, pieces in grouped.items()]

    @property
    def todo(self) -> list[Unit]:
        """The units that are not committed, the costliest first, so that no long one is left for the end."""
        left = [unit for unit in self.units if unit.unit_id not in self.committed]
        return sorted(left, key=lambda unit: (-unit.cost_s, unit.unit_id))

    @property
    def num_clips(self) -> int:
        """Number of clips."""
        return len(set(self.table.column("clip_id").to_pylist()))

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        starts, stops = (self.table.column(name).to_pylist() for name in ("frame_start", "frame_stop"))
        return int(sum(stops) - sum(starts))


def plan_run(
    run: RunFolder,
    manifest: str,
    work: Work,
    *,
    clip_ids: Collection[str] | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    unit_s: float = UNIT_S,
) -> RunPlan:
    """Return the run's plan for a manifest and a work: the stored one where it fits, else a new one, stored.

    Args:
        run: the run folder; made by the first plan.
        manifest: path or URL of a manifest.
        work: what will be done to each clip.
        clip_ids: only these clips; None: all.
        limit: only the first so many clips.
        retry_failed: plan dead letters again.
        unit_s: seconds of work a unit should hold at most.

    Raises:
        InputError: the manifest holds no clip (of those asked for).
        IdError: two clips share an id.
        StorageError, FormatError: a file cannot be read or written.
    """
    selection = "" if clip_ids is None and limit is None else digest_of(repr((sorted(clip_ids or ()), limit)).encode())
    data = storage.read_bytes(manifest)
    digest = digest_of(data)
    job = job_fingerprint(work.configuration())
    sweep_leftovers(run)
    stored = _find_stored(run, digest, job, selection)
    if stored is not None and not (retry_failed and _dead_pieces(run)):
        return stored
    plan = make_plan(
        run, manifest, work,
        data=data, digest=digest, clip_ids=clip_ids, limit=limit, selection=selection,
        retry_failed=retry_failed, unit_s=unit_s,
    )  # fmt: skip
    storage.create_if_absent(run.manifest_file(digest), data)
    return store_plan(run, plan)


def _find_stored(run: RunFolder, digest: str, job: str, selection: str) -> RunPlan | None:
    numbers = run.plan_numbers()
    if not numbers:
        return None
    table = run.read_plan(numbers[-1])
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    if (facts["rayvos.manifest"], facts["rayvos.job"], facts["rayvos.selection"]) != (digest, job, selection):
        return None
    return RunPlan(table, run.manifest_file(digest), digest, job, selection, numbers[-1], frozenset(run.committed()))


def store_plan(run: RunFolder, plan: RunPlan) -> RunPlan:
    """Store a plan under the next number and return it with that number.

    Raises:
        StorageError: the run folder cannot be written.
    """
    facts = {
        "rayvos.manifest": plan.manifest_digest,
        "rayvos.job": plan.job,
        "rayvos.selection": plan.selection,
        RESULTS_KEY: run.table,
    }
    table = plan.table.replace_schema_metadata({**(PLAN.metadata or {}), **facts})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=COMPRESSION)
    while True:  # another driver may take a number first; its plan then stands before ours
        number = max(run.plan_numbers(), default=-1) + 1
        if storage.create_if_absent(run.plan_file(number), buffer.getvalue()):
            break
    logger.info("plan number=%d units=%d clips=%d", number, len(plan.units), plan.num_clips)
    return RunPlan(
        table, run.manifest_file(plan.manifest_digest), plan.manifest_digest, plan.job, plan.selection, number,
        plan.committed,
    )  # fmt: skip


def make_plan(
    run: RunFolder,
    manifest: str,
    work: Work,
    *,
    data: bytes | None = None,
    digest: str = "",
    clip_ids: Collection[str] | None = None,
    limit: int | None = None,
    selection: str = "",
    retry_failed: bool = False,
    unit_s: float = UNIT_S,
) -> RunPlan:
    """Return a new plan without storing it; `data` are the bytes of the manifest, the other options as in `plan_run`.

    Raises:
        InputError: the manifest holds no clip (of those asked for).
        StorageError, FormatError: a file cannot be read.
    """
    job = job_fingerprint(work.configuration())
    needs = work.needs()
    committed = run.committed()
    past = _read_past(run)
    dead = _dead_pieces(run) if retry_failed else set()
    rows: list[_Row] = []
    unsplit: list[tuple[int, float]] = []  # (position in rows, cost) of new clips, cut once the total is known
    for manifest_row, clip in _chosen(ManifestFile(manifest, data), clip_ids, limit):
        used = work.prepare(clip)
        fingerprint = clip_fingerprint(used, job)
        cost_s = _cost_s(used, needs)
        round_ = past.rounds.get((clip.clip_id, fingerprint), past.num_rounds.get(clip.clip_id, 0))
        earlier = past.units.get(clip.clip_id, []) if needs.separate_objects else []
        old = past.pieces.get((clip.clip_id, fingerprint))
        if old is None:
            unsplit.append((len(rows), cost_s))
            old = [(0, max(1, clip.num_frames), "")]
        for start, stop, unit_id in old:
            share = cost_s * (stop - start) / max(1, clip.num_frames)
            failed = (unit_id, clip.clip_id, start) in dead
            keep = unit_id if unit_id in committed and not failed else ""
            rows.append(_Row(keep, clip.clip_id, manifest_row, fingerprint, start, stop, share, round_, [], unit_id))
            if not keep:
                rows[-1].earlier_units = [unit for unit in earlier if unit in committed and unit != unit_id]
    if not rows:
        raise InputError(f"{manifest}: no clip to work on; check --clips-file and --limit, or import clips first")
    total_s = sum(row.cost_s for row in rows if not row.unit_id)
    target_s = min(unit_s, max(min(SHORTEST_UNIT_S, unit_s), total_s / UNITS_AT_LEAST))
    rows = _cut(rows, dict(unsplit), target_s, needs.halo)
    _group(rows, target_s)
    columns = {name: [getattr(row, name) for row in rows] for name in PLAN.names}
    table = pa.table(columns, schema=PLAN)
    return RunPlan(table, manifest, digest, job, selection, None, frozenset(committed))


@dataclass(slots=True)
class _Row:
    """A row of the plan in the making; `unit_id` is empty until it is known."""

    unit_id: str
    clip_id: str
    manifest_row: int
    fingerprint: str
    frame_start: int
    frame_stop: int
    cost_s: float
    round: int
    earlier_units: list[str]
    before: str = ""
    """The unit that held the piece in an older plan: a piece that is taken up again must not land on its old file."""


def _chosen(manifest: ManifestFile, clip_ids: Collection[str] | None, limit: int | None) -> Iterator[tuple[int, Clip]]:
    wanted = None if clip_ids is None else set(clip_ids)
    seen: set[str] = set()
    for row, clip in enumerate(manifest):
        if limit is not None and len(seen) >= limit:
            return
        if wanted is not None and clip.clip_id not in wanted:
            continue
        if clip.clip_id in seen:
            raise IdError(f"{manifest.path} row {row}: clip_id {clip.clip_id!r} is there twice; clip ids must differ")
        seen.add(clip.clip_id)
        yield row, clip


def _cost_s(clip: Clip, needs: EngineNeeds) -> float:
    """Return the planned seconds of a clip: of its frames and its labels (all objects' on all frames without boxes)."""
    scale = max(0.05, clip.height * clip.width / REFERENCE_PIXELS)
    num_labels = sum(box.visible for box in clip.boxes) or clip.num_frames * len(clip.objects)
    masked = {mask.object_id for mask in clip.masks if mask.rle is not None and not mask.machine_made}
    labelling = scale * (clip.num_frames * needs.seconds_per_frame + num_labels * needs.seconds_per_label)
    labelling += num_labels * needs.seconds_per_crop
    return labelling + needs.seconds_per_clip + len(masked) * needs.seconds_per_masked_object


@dataclass(frozen=True, slots=True)
class _Past:
    """What the plans of a run say; a newer plan wins."""

    pieces: dict[tuple[str, str], list[tuple[int, int, str]]] = field(default_factory=dict)
    """(clip_id, fingerprint) → [(start, stop, unit_id)]."""
    rounds: dict[tuple[str, str], int] = field(default_factory=dict)
    """(clip_id, fingerprint) → round: 0 for a clip's first fingerprint, one more for each later one."""
    num_rounds: dict[str, int] = field(default_factory=dict)
    """clip_id → its rounds so far."""
    units: dict[str, list[str]] = field(default_factory=dict)
    """clip_id → units of its latest round."""


def _read_past(run: RunFolder) -> _Past:
    past = _Past()
    for number in run.plan_numbers():
        found: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for row in (
            run.read_plan(number).select(["clip_id", "fingerprint", "frame_start", "frame_stop", "unit_id"]).to_pylist()
        ):
            piece = (row["frame_start"], row["frame_stop"], row["unit_id"])
            found.setdefault((row["clip_id"], row["fingerprint"]), []).append(piece)
        past.pieces.update(found)
        for key, pieces in found.items():
            past.units[key[0]] = list(dict.fromkeys(unit_id for _, _, unit_id in pieces))
            if key not in past.rounds:
                past.rounds[key] = past.num_rounds.get(key[0], 0)
                past.num_rounds[key[0]] = past.rounds[key] + 1
    return past


def _dead_pieces(run: RunFolder) -> set[tuple[str, str, int]]:
    """Return (unit_id, clip_id, frame_start) of the newest plan's pieces whose unit says that they failed."""
    if not run.plan_numbers():
        return set()
    letters = read_dead_letters(run.path).select(["unit_id", "clip_id", "frame_start"]).to_pylist()
    return {(letter["unit_id"], letter["clip_id"], letter["frame_start"]) for letter in letters}


def _cut(rows: list[_Row], unsplit: dict[int, float], target_s: float, halo: int | None) -> list[_Row]:
    """Cut the new clips that cost more than a unit should into equal frame ranges."""
    cut: list[_Row] = []
    for position, row in enumerate(rows):
        num_frames = row.frame_stop - row.frame_start
        parts = 1
        if position in unsplit and halo is not None:
            longest = max(1, num_frames // max(1, FRAMES_PER_HALO * halo))  # more parts would mostly work on halos
            parts = min(math.ceil(unsplit[position] / target_s), longest, num_frames)
        if parts <= 1:
            cut.append(row)
            continue
        edges = [row.frame_start + num_frames * part // parts for part in range(parts + 1)]
        for start, stop in itertools.pairwise(edges):
            share = row.cost_s * (stop - start) / num_frames
            cut.append(replace(row, frame_start=start, frame_stop=stop, cost_s=share))
    return cut


def _group(rows: list[_Row], target_s: float) -> None:
    """Put the pieces that have no unit into units of about `target_s`, in order, and name the units by content."""
    group: list[_Row] = []
    cost_s = 0.0
    for row in [row for row in rows if not row.unit_id]:
        if group and (len(group) >= PIECES_PER_UNIT or cost_s + row.cost_s > target_s):
            _name(group)
            group, cost_s = [], 0.0
        group.append(row)
        cost_s += row.cost_s
    _name(group)


def _name(group: list[_Row]) -> None:
    facts = [(row.fingerprint, row.frame_start, row.frame_stop, row.before) for row in group]
    unit_id = digest_of(repr(facts).encode())
    for row in group:
        row.unit_id = unit_id


def describe(plan: RunPlan) -> dict[str, Any]:
    """Return the plan's counts, as `run.json` and `rayvos plan` show them."""
    todo = plan.todo
    frames_todo = sum(piece.frame_stop - piece.frame_start for unit in todo for piece in unit.pieces)
    return {
        "clips": plan.num_clips,
        "frames": plan.num_frames,
        "units": len(plan.units),
        "units_todo": len(todo),
        "frames_todo": frames_todo,
        "cost_s_todo": sum(unit.cost_s for unit in todo),
    }
