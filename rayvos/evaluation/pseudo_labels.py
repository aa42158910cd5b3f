"""Quality of pseudo-labels against true masks, frame by frame where the object is present.

Source: Box2Seg paper, Table 2: mean IoU and recall at an IoU of 50 and 70 percent, only over frames in which the
object is present (a VOS benchmark would count an empty mask of an absent object as 1). Also by class, by size, and by
the time to the nearest mask that a person gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import InputError
from rayvos.evaluation.frame_scores import jaccard_of_object
from rayvos.evaluation.mask_frames import MaskFrame, RleFrame
from rayvos.evaluation.protocols import check_ids
from rayvos.evaluation.scoring import matches, score_clips
from rayvos.evaluation.sources import FrameMatch, MaskSource
from rayvos.evaluation.tasks import TaskMap, run_here

__all__ = ["MASK_ROW", "LabelQuality", "MaskRows", "QualityRow", "measure_masks", "quality_table"]

MASK_ROW = np.dtype(
    [
        ("object_id", "i4"),
        ("frame", "i4"),  # number among the annotated frames of the clip
        ("iou", "f8"),
        ("true_area", "i8"),  # 0: the object is absent, and a mask is predicted nevertheless
        ("score", "f8"),  # predicted IoU; NaN where the labels carry none
        ("human", "?"),  # a person gave this mask
        ("distance", "i4"),  # frames to the nearest mask of this object that a person gave; -1: there is none
    ]
)
SIZES = (("small", 0, 32**2), ("medium", 32**2, 96**2), ("large", 96**2, np.inf))  # pixels, as COCO splits objects
DISTANCES = ((1, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, np.inf))  # frames


@dataclass(frozen=True, slots=True, eq=False)
class MaskRows:
    """The masks of one clip."""

    clip_id: str
    rows: NDArray[np.void]
    """`MASK_ROW`, ordered by frame and object: present objects, and masks where the object is absent."""


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One line of the table."""

    group: str
    """`all`, `pseudo`, `human`, `class`, `size` or `distance`."""
    name: str
    num_masks: int
    mean_iou: float
    recall_50: float
    """Share of the masks with an IoU of at least 0.5."""
    recall_70: float


@dataclass(frozen=True, slots=True, eq=False)
class LabelQuality:
    """The result."""

    table: tuple[QualityRow, ...]
    masks_where_absent: int
    """Masks that are predicted where the truth has none; they enter no line of the table."""
    clips: tuple[MaskRows, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _MaskMeter:
    truth: MaskSource
    prediction: MaskSource
    binary: bool

    def __call__(self, clip_ids: Sequence[str]) -> list[MaskRows]:
        found = matches(self.truth, self.prediction, clip_ids)
        return [measure_clip(match, binary=self.binary) for match in found]


def measure_clip(match: FrameMatch, *, binary: bool = False) -> MaskRows:
    """Return the IoU, and what is known, of every mask of a clip; see `measure_masks`.

    Raises:
        IdError: the prediction has an id that the truth never has.
        InputError: a frame is missing or cannot be used; naming it.
    """
    rows: list[tuple[object, ...]] = []
    known: set[int] = set()
    found: dict[int, int] = {}
    human: dict[int, list[int]] = {}
    for number in range(len(match.numbers)):
        truth, mask = match.read(number)
        truth, mask = (truth.merged(), mask.merged()) if binary else (truth.without_void(), mask)
        present = set(truth.object_ids())
        known |= present
        for object_id in mask.object_ids():
            found.setdefault(object_id, number)
        by_person = mask.human if isinstance(mask, RleFrame) else frozenset()
        scores = mask.scores if isinstance(mask, RleFrame) else {}
        for object_id in by_person:
            human.setdefault(object_id, []).append(number)
        for object_id in sorted(present | set(mask.object_ids())):
            area = _area(truth, object_id) if object_id in present else 0
            iou = jaccard_of_object(truth, mask, object_id)
            score = scores.get(object_id, np.nan)
            rows.append((object_id, number, iou, area, score, object_id in by_person, -1))
    check_ids(match, found, known)
    table = np.array(rows, MASK_ROW)
    for object_id, anchors in human.items():
        chosen = table["object_id"] == object_id
        gaps = np.abs(table["frame"][chosen, None] - np.array(anchors)[None])
        table["distance"][chosen] = gaps.min(axis=1)
    return MaskRows(match.truth.clip_id, table)


def _area(frame: MaskFrame, object_id: int) -> int:
    window = frame.window()
    return 0 if window is None else int(np.count_nonzero(frame.cut(object_id, window)))


def measure_masks(
    truth: MaskSource,
    prediction: MaskSource,
    *,
    clip_ids: Sequence[str] | None = None,
    categories: Mapping[tuple[str, int], str] | None = None,
    binary: bool = False,
    run: TaskMap = run_here,
    on_clips: Callable[[int], None] | None = None,
) -> LabelQuality:
    """Compare the labels of a run with true masks.

    Args:
        truth: true masks; frames without truth are not compared.
        prediction: labels with the truth's ids; only label tables know scores and which masks a person gave.
        clip_ids: which clips; None is all that the truth has.
        categories: class of each object, by clip and object id.
        binary: whatever is drawn, of any id, is one object in both: truth in the manner of DAVIS 2016.
        run: where clips are compared.
        on_clips: called with the number of clips that are newly done.

    Raises:
        InputError: what was given cannot be compared; naming the file.
    """
    worker = _MaskMeter(truth, prediction, binary)
    clips = score_clips(worker, truth, prediction, clip_ids, run=run, on_clips=on_clips)
    rows = np.concatenate([clip.rows for clip in clips])
    present = rows["true_area"] > 0
    if not present.any():
        raise InputError(f"{truth.path}: no object is present on any of {len(clips)} clips; is this the right truth?")
    classes = [
        (categories or {}).get((clip.clip_id, object_id), "")
        for clip in clips
        for object_id in clip.rows["object_id"].tolist()
    ]
    return LabelQuality(quality_table(rows, classes), int((~present).sum()), tuple(clips))


def quality_table(rows: NDArray[np.void], classes: Sequence[str]) -> tuple[QualityRow, ...]:
    """Return the lines of the table for masks.

    Args:
        rows: (num_masks,), `MASK_ROW`; those with `true_area` 0 are left out.
        classes: class of each mask; empty where unknown.
    """
    present = rows["true_area"] > 0
    human = rows["human"]
    table = [_line("all", "all masks", rows[present])]
    if human.any():
        table.append(_line("pseudo", "without a person's masks", rows[present & ~human]))
        table.append(_line("human", "a person's masks", rows[present & human]))
    names = np.array(classes, dtype=np.str_)
    table += [_line("class", str(name), rows[present & (names == name)]) for name in np.unique(names[present]) if name]
    for name, low, high in SIZES:
        inside = (rows["true_area"] >= low) & (rows["true_area"] < high)
        table.append(_line("size", name, rows[present & inside]))
    for first, last in DISTANCES:
        inside = (rows["distance"] >= first) & (rows["distance"] <= last)
        name = f"{first}…{last:.0f} frames" if np.isfinite(last) else f"{first} frames and more"
        table.append(_line("distance", name, rows[present & inside]))
    return tuple(line for line in table if line.num_masks)


def _line(group: str, name: str, rows: NDArray[np.void]) -> QualityRow:
    ious = rows["iou"]
    if ious.size == 0:
        return QualityRow(group, name, 0, np.nan, np.nan, np.nan)
    return QualityRow(
        group, name, int(ious.size), float(ious.mean()), float((ious >= 0.5).mean()), float((ious >= 0.7).mean())
    )
