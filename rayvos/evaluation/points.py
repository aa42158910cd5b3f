"""Masks against points: how many verified points they get right, and the Point-VOS protocols around them.

Sources: Point-VOS paper, section 4 and appendix B (which frames of PV-Oops are scored); Video Localized Narratives,
`eval_utils.py` (the location question).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.label_frames import frame_names
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip, Point
from rayvos.errors import FormatError, FrameMissingError, InputError
from rayvos.evaluation.scoring import group_clips
from rayvos.evaluation.sources import ClipMasks, MaskSource
from rayvos.evaluation.tasks import TaskMap, run_here

__all__ = ["ClipPoints", "LocationScore", "PointAccuracy", "choose_scored_frames", "count_points", "score_location"]

MIN_REFERENCE_POSITIVES = 7  # PV-Oops: the reference frame is the first with so many positive points
MIN_LATER_POSITIVES, MIN_LATER_NEGATIVES = 3, 1
NUM_SCORED_FRAMES = 3
LOCATION_SHARE = 0.5  # of the trace inside the box, and of the box inside the square


@dataclass(frozen=True, slots=True)
class ClipPoints:
    """How one object's masks agree with its points."""

    clip_id: str
    object_id: int
    positives: int
    positives_inside: int
    negatives: int
    negatives_outside: int


@dataclass(frozen=True, slots=True)
class PointAccuracy:
    """The result over all objects."""

    objects: tuple[ClipPoints, ...]

    @property
    def positive_accuracy(self) -> float:
        """Share of the positive points inside their object's mask; NaN without any."""
        return _share(sum(item.positives_inside for item in self.objects), sum(item.positives for item in self.objects))

    @property
    def negative_accuracy(self) -> float:
        """Share of the negative points outside of it; NaN without any."""
        return _share(
            sum(item.negatives_outside for item in self.objects), sum(item.negatives for item in self.objects)
        )

    @property
    def accuracy(self) -> float:
        """Share of all points that are on the right side."""
        right = sum(item.positives_inside + item.negatives_outside for item in self.objects)
        return _share(right, sum(item.positives + item.negatives for item in self.objects))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


class _PointCounter:
    """Counts the points of clips; the manifest is opened once per process and never pickled."""

    def __init__(self, manifest: str, rows: Mapping[str, int], prediction: MaskSource) -> None:
        self._path = manifest
        self._rows = rows
        self._prediction = prediction
        self._file: ManifestFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __call__(self, clip_ids: Sequence[str]) -> list[list[ClipPoints]]:
        if self._file is None:
            self._file = ManifestFile(self._path)
        rows = sorted(self._rows[clip_id] for clip_id in clip_ids)
        clips = {clip.clip_id: clip for _, clip in self._file.read_rows(rows)}
        return [_count_clip(clips[masks.clip_id], masks) for masks in self._prediction.open_clips(clip_ids)]


def _count_clip(clip: Clip, masks: ClipMasks) -> list[ClipPoints]:
    names = {name: number for number, name in enumerate(masks.names or ())}
    positions = {position: number for number, position in enumerate(masks.positions or ())}
    clip_names = frame_names(clip)
    counts: dict[int, list[int]] = {}
    by_frame: dict[int, list[Point]] = {}
    for point in clip.points:
        if point.label != "ambiguous":
            by_frame.setdefault(point.frame, []).append(point)
    for frame, points in sorted(by_frame.items()):
        number = names.get(clip_names[frame]) if masks.names is not None else positions.get(frame)
        if number is None:
            raise FrameMissingError(
                f"{masks.place(-1)}: no mask for frame {clip_names[frame]!r} of clip {clip.clip_id!r}, which has "
                "points; label every frame that has points"
            )
        drawn = masks.read(number)
        if drawn.size != (clip.height, clip.width):
            raise FormatError(
                f"{masks.place(number)}: expected {clip.height}x{clip.width} as in the manifest, found "
                f"{drawn.size[0]}x{drawn.size[1]}"
            )
        for point in points:
            x, y = math.floor(point.x), math.floor(point.y)
            if not (0 <= x < clip.width and 0 <= y < clip.height):
                raise FormatError(
                    f"clip {clip.clip_id!r} frame {frame}: point ({point.x}, {point.y}) is outside the frame"
                )
            inside = bool(drawn.cut(point.object_id, (slice(y, y + 1), slice(x, x + 1)))[0, 0])
            found = counts.setdefault(point.object_id, [0, 0, 0, 0])
            first = 0 if point.label == "positive" else 2
            found[first] += 1
            found[first + 1] += inside == (point.label == "positive")
    return [ClipPoints(clip.clip_id, object_id, *found) for object_id, found in sorted(counts.items())]


def count_points(
    manifest: str,
    prediction: MaskSource,
    *,
    clip_ids: Sequence[str] | None = None,
    run: TaskMap = run_here,
    on_clips: Callable[[int], None] | None = None,
) -> PointAccuracy:
    """Count the points of a manifest that lie on the right side of the masks.

    A point at (x, y) stands for the pixel that holds it; ambiguous points do not count.

    Args:
        manifest: path or URL of a manifest whose clips carry points.
        prediction: masks of those clips.
        clip_ids: which clips; None is all that carry points.
        run: where clips are worked on.
        on_clips: called with the number of clips that are newly done.

    Raises:
        InputError: there are no points, or a clip, frame or size does not fit; naming it.
    """
    rows: dict[str, int] = {}
    for row, clip in enumerate(ManifestFile(manifest)):
        if (clip_ids is None and clip.points) or (clip_ids is not None and clip.clip_id in clip_ids):
            rows[clip.clip_id] = row
    missing = [clip_id for clip_id in rows if clip_id not in prediction.num_frames]
    if not rows or missing:
        found = f"no masks for clip {missing[0]!r}" if missing else "no clip with points"
        raise InputError(f"{prediction.path}: {found} of {manifest}; label the clips whose points are to be checked")
    order = list(rows)
    tasks = group_clips(order, prediction.num_frames, prediction.clips_per_task)
    objects: dict[str, list[ClipPoints]] = {}
    for position, results in run(_PointCounter(manifest, rows, prediction), tasks):
        objects.update(zip(tasks[position], results, strict=True))
        if on_clips is not None:
            on_clips(len(results))
    return PointAccuracy(tuple(item for clip_id in order for item in objects[clip_id]))


@dataclass(frozen=True, slots=True)
class ScoredFrames:
    """Which frames of a clip the PV-Oops benchmark uses."""

    reference: int
    """The frame whose points start the method; frames before it are removed."""
    frames: tuple[int, ...]
    """The frames with dense masks."""


def choose_scored_frames(points: Mapping[int, tuple[int, int]], trace_frame: int) -> ScoredFrames | str:
    """Choose reference and scored frames of a clip as PV-Oops does.

    Args:
        points: (positive, negative) verified points by frame.
        trace_frame: the frame that the mouse trace was drawn on; always one of the scored frames.

    Returns:
        The frames, or why the clip is dropped.
    """
    frames = sorted(points)
    reference = next((frame for frame in frames if points[frame][0] >= MIN_REFERENCE_POSITIVES), None)
    if reference is None:
        return f"no frame with {MIN_REFERENCE_POSITIVES} fg"
    later = [frame for frame in frames if frame > reference]
    usable = (points[frame] for frame in later)
    if not any(fg >= MIN_LATER_POSITIVES and bg >= MIN_LATER_NEGATIVES for fg, bg in usable):
        return f"no later frame with {MIN_LATER_POSITIVES} fg and {MIN_LATER_NEGATIVES} bg"
    if trace_frame <= reference:
        return "trace frame not after the reference"
    count = min(NUM_SCORED_FRAMES, len(later))
    steps = [math.floor(k * (len(later) - 1) / (count - 1) + 0.5) for k in range(count)] if count > 1 else [0]
    chosen = [later[step] for step in steps]
    if trace_frame not in chosen:
        closest = min(range(count), key=lambda k: (abs(chosen[k] - trace_frame), k))
        chosen[closest] = trace_frame
    return ScoredFrames(reference, tuple(sorted(chosen)))


@dataclass(frozen=True, slots=True)
class LocationScore:
    """How a mask answers the question of where an object is, by the trace that a person drew over it."""

    recall: float
    """Share of the trace's pixels inside the mask's tight box."""
    precision: float
    """Share of the box inside the square fitted to the trace."""

    @property
    def correct(self) -> bool:
        """Both reach one half."""
        return self.recall >= LOCATION_SHARE and self.precision >= LOCATION_SHARE


def score_location(
    mask: NDArray[np.bool_], trace: NDArray[np.bool_], square: tuple[float, float, float, float]
) -> LocationScore:
    """Score a mask by a trace, as the older question of Video Localized Narratives does.

    Args:
        mask: (height, width), the prediction; an empty one has neither recall nor precision.
        trace: (height, width), the pixels of the trace.
        square: xyxy pixel edges of the square fitted to the trace, rounded to whole pixels here.

    Raises:
        FormatError: the trace has no pixel.
    """
    if not trace.any():
        raise FormatError("location: expected a trace with pixels, found none")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return LocationScore(0.0, 0.0)
    box = np.zeros_like(mask, dtype=np.bool_)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    inside = np.zeros_like(box)
    x0, y0, x1, y1 = (max(0, round(side)) for side in square)
    inside[y0:y1, x0:x1] = True
    recall = np.count_nonzero(box & trace) / np.count_nonzero(trace)
    return LocationScore(recall, np.count_nonzero(box & inside) / np.count_nonzero(box))
