"""What a report says of a run's labels, gathered in one pass over them with bounded memory.

Scores go into a histogram of fixed bins; of labels and clips only the worst are kept, in heaps. Masks that people
gave are counted and otherwise left out: their score says nothing of the engine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["SCORE_BINS", "ClipStatistics", "RunStatistics", "WorstLabel"]

SCORE_BINS = 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClipStatistics:
    """One clip's labels in numbers."""

    clip_id: str
    num_frames: int
    num_objects: int
    num_masks: int
    """Present labels of the engine."""
    num_absent: int
    num_human: int
    mean_score: float | None
    """Over the engine's masks; None where there is none."""
    lowest_score: float | None
    num_low: int
    """Masks with a score below the report's threshold."""


@dataclass(frozen=True, slots=True)
class WorstLabel:
    """The worst-scored mask of one object."""

    clip_id: str
    object_id: int
    frame: int
    score: float
    rle: bytes
    round: int = 0
    """In which it was made."""


@dataclass(slots=True)
class RunStatistics:
    """Counts over all labels seen so far; `add` takes them clip by clip."""

    low_score: float = 0.5
    """Masks with a lower score are counted as low."""
    num_worst: int = 48
    """Worst labels that are kept."""
    num_clips_kept: int = 100
    """Worst clips that are kept."""
    num_clips: int = 0
    num_frames: int = 0
    num_masks: int = 0
    num_absent: int = 0
    num_human: int = 0
    num_low: int = 0
    num_empty: int = 0
    """Masks without a pixel, of objects that are said to be present."""
    score_sum: float = 0.0
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    """Masks by score, in `SCORE_BINS` equal parts of [0, 1]."""
    quality: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By term: how many masks have it, and the sum of its values."""
    _labels: list[tuple[float, int, WorstLabel]] = field(default_factory=list)
    _clips: list[tuple[float, int, ClipStatistics]] = field(default_factory=list)

    @property
    def mean_score(self) -> float | None:
        """Mean over the engine's masks; None where there is none."""
        return self.score_sum / self.num_masks if self.num_masks else None

    def quality_means(self) -> dict[str, float]:
        """Return the mean of each term of the score, by name."""
        return {name: total / count for name, (count, total) in sorted(self.quality.items()) if count}

    def worst_labels(self) -> list[WorstLabel]:
        """Return the worst mask of each of the worst objects, worst first."""
        return [label for _, _, label in sorted(self._labels, key=lambda entry: (-entry[0], -entry[1]))]

    def worst_clips(self) -> list[ClipStatistics]:
        """Return the clips with the lowest mean score, worst first; those without any mask come last."""
        return [clip for _, _, clip in sorted(self._clips, key=lambda entry: (-entry[0], -entry[1]))]

    def add(self, clip_id: str, table: pa.Table) -> None:
        """Count one clip's labels (`tables.LABELS`)."""
        present = table.column("present")
        human = pc.fill_null(pc.equal(table.column("provenance"), "human"), False)
        masks = table.filter(pc.and_(present, pc.invert(human)))
        scores = np.nan_to_num(np.asarray(pc.fill_null(masks.column("score"), 0.0), np.float64))
        clip = ClipStatistics(
            clip_id,
            num_frames=len(table.column("frame").unique()),
            num_objects=len(table.column("object_id").unique()),
            num_masks=masks.num_rows,
            num_absent=table.num_rows - (pc.sum(present).as_py() or 0),
            num_human=pc.sum(pc.and_(human, present)).as_py() or 0,
            mean_score=float(scores.mean()) if scores.size else None,
            lowest_score=float(scores.min()) if scores.size else None,
            num_low=int((scores < self.low_score).sum()),
        )
        self.num_clips += 1
        self.num_frames += clip.num_frames
        self.num_masks += clip.num_masks
        self.num_absent += clip.num_absent
        self.num_human += clip.num_human
        self.num_low += clip.num_low
        self.num_empty += int((np.asarray(pc.fill_null(masks.column("area"), 0)) == 0).sum())
        self.score_sum += float(scores.sum())
        self.histogram += np.histogram(scores, SCORE_BINS, (0.0, 1.0))[0]
        self._add_quality(masks)
        _keep(
            self._clips, 2.0 if clip.mean_score is None else clip.mean_score, self.num_clips, clip, self.num_clips_kept
        )
        for label in _worst_of_each_object(clip_id, masks, scores):
            _keep(self._labels, label.score, self.num_clips * 1_000_000 + label.object_id, label, self.num_worst)

    def _add_quality(self, masks: pa.Table) -> None:
        column = masks.column("quality").combine_chunks()
        maps = column if isinstance(column, pa.Array) else column.chunk(0)
        terms = pa.table({"name": maps.keys, "value": pc.cast(maps.items, pa.float64())})
        sums = terms.group_by("name").aggregate([("value", "count"), ("value", "sum")])
        for row in sums.to_pylist():
            count, total = self.quality.get(row["name"], (0, 0.0))
            self.quality[row["name"]] = count + row["value_count"], total + (row["value_sum"] or 0.0)


def _keep(heap: list[tuple[float, int, T]], value: float, order: int, item: T, limit: int) -> None:
    """Keep the `limit` items with the lowest value; of equal ones those with the lower order."""
    if limit < 1:
        return
    entry = (-value, -order, item)
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    elif entry[:2] > heap[0][:2]:
        heapq.heapreplace(heap, entry)


def _worst_of_each_object(clip_id: str, masks: pa.Table, scores: NDArray[np.float64]) -> Iterator[WorstLabel]:
    """Yield one label per object, so that one long bad track does not fill the page."""
    seen: set[int] = set()
    object_ids = masks.column("object_id").to_numpy()
    frames, rles, rounds = masks.column("frame"), masks.column("rle"), masks.column("round")
    for row in np.argsort(scores, kind="stable").tolist():
        object_id = int(object_ids[row])
        if object_id not in seen:
            seen.add(object_id)
            round_ = rounds[row].as_py() or 0
            yield WorstLabel(clip_id, object_id, frames[row].as_py(), float(scores[row]), rles[row].as_py(), round_)
