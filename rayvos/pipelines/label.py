"""The labelling job: what `rayvos label` does to each clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayvos.annotations.label_rows import stamp_labels
from rayvos.annotations.prompts import Prompts, select_prompts
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import Piece
from rayvos.annotations.unit_rows import ResultTable, sort_rows
from rayvos.engines.base import Engine, EngineNeeds, FrameReader
from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import EngineChoice
from rayvos.engines.timing import StageSeconds
from rayvos.pipelines.fingerprints import job_fingerprint, object_fingerprints
from rayvos.pipelines.job import Job

__all__ = ["LabelChoice", "LabelJob", "Labelling"]


@dataclass(frozen=True, slots=True)
class LabelJob(Job):
    """All that a labelling job is told."""

    prompts: Prompts = "all"

    def work(self) -> LabelChoice:
        """Return what is done to each clip."""
        return LabelChoice(self.engine, self.prompts)


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """Which engine labels, on which prompts."""

    engine: EngineChoice
    prompts: Prompts = "all"

    def load(self) -> Labelling:
        """Load the engine."""
        return Labelling(self.engine.load(), self.prompts)


class Labelling:
    """Labels clips; a `rayvos.pipelines.work.Work`."""

    table: ResultTable = "labels"

    def __init__(self, engine: Engine, prompts: Prompts = "all") -> None:
        self._engine = engine
        self._prompts: Prompts = prompts
        needs = engine.needs()
        self._halo, self._separate = needs.halo, needs.separate_objects
        self._job = job_fingerprint(self.configuration())

    def configuration(self) -> dict[str, Any]:
        """Return engine, options, weights and prompts: what all labels of a run have in common."""
        engine = self._engine
        facts = {
            "engine": engine.name,
            "options": dict(engine.options()),
            "weights": engine.weights,
            "prompts": self._prompts,
        }
        return dict(json.loads(json.dumps(facts, sort_keys=True, default=str)))

    def needs(self) -> EngineNeeds:
        """Return the engine's needs."""
        return self._engine.needs()

    def prepare(self, clip: Clip) -> Clip:
        """Return the clip with the prompts that the job uses."""
        return select_prompts(clip, self._prompts)

    def first_frames(self, clip: Clip, frames: range) -> Sequence[int]:
        """Return the frames with as much context as the engine looks at."""
        halo = clip.num_frames if self._halo is None else self._halo
        return range(max(0, frames.start - halo), min(frames.stop + halo, clip.num_frames))

    def rows_of(
        self, clip: Clip, images: FrameReader, piece: Piece, unit_id: str, seconds: StageSeconds, earlier: pa.Table
    ) -> pa.Table:
        """Return the labels of a piece; those of objects that no correction touched are the earlier ones."""
        frames = range(piece.frame_start, piece.frame_stop)
        prints = object_fingerprints(self.prepare(clip), self._job) if self._separate else {}
        kept = _kept_rows(earlier, prints, frames)
        left = [object_id for object_id in clip.object_ids() if object_id not in kept]
        tables = [stamp_labels(rows, fingerprint=piece.fingerprint, unit_id=unit_id) for rows in kept.values()]
        if left or not kept:
            labels = label_clip(
                self._engine, clip.with_objects(left) if kept else clip,
                frames=frames, images=images, prompts=self._prompts, seconds=seconds,
            )  # fmt: skip
            tables.append(
                stamp_labels(
                    labels, fingerprint=piece.fingerprint, unit_id=unit_id, round_=piece.round,
                    object_fingerprints=prints,
                )
            )  # fmt: skip
        return sort_rows(pa.concat_tables(tables), self.table) if kept else tables[0]

    def count(self, rows: pa.Table) -> Mapping[str, int]:
        """Count labels, and those of them that have a mask."""
        return {"labels": rows.num_rows, "masks": pc.sum(rows.column("present")).as_py() or 0}


def _kept_rows(earlier: pa.Table, prints: Mapping[int, str], frames: range) -> dict[int, pa.Table]:
    """Return, by object id, the earlier rows on these frames of objects of which nothing changed.

    Args:
        earlier: rows of the clip.
        prints: by object id, the fingerprint that its rows shall have.
        frames: all of which an object's rows must cover.
    """
    if not earlier.num_rows:
        return {}
    frame = earlier.column("frame")
    rows = earlier.filter(pc.and_(pc.greater_equal(frame, frames.start), pc.less(frame, frames.stop)))
    kept: dict[int, pa.Table] = {}
    for object_id, wanted in prints.items():
        same = pc.equal(rows.column("object_fingerprint"), wanted)
        found = rows.filter(pc.and_(pc.equal(rows.column("object_id"), object_id), pc.fill_null(same, False)))
        if found.column("frame").to_pylist() == list(frames):
            kept[object_id] = found
    return kept
