"""Quality over time and over effort: J and F along a video, and IoU quantiles against the share of annotated frames.

Sources: YouTube-VOS S2S paper, Fig. 3 (J over the length of videos); MaskTrack paper, section 5.4 and Fig. 7
(quantiles of the frames' IoU, and the baseline that copies the nearest annotation).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rayvos.errors import ShapeError, UsageError
from rayvos.evaluation.mask_frames import MaskFrame
from rayvos.evaluation.results import ObjectScores
from rayvos.evaluation.sources import ClipMasks, MaskSource
from rayvos.evaluation.statistics import mean_of_numbers

__all__ = ["QUANTILES", "CopyNearest", "FrameQuality", "LengthBin", "anchors_every", "frame_quality", "over_length"]

QUANTILES = (5, 10, 20, 30, 70, 80, 90, 95)  # percent, MaskTrack paper, Fig. 7


@dataclass(frozen=True, slots=True)
class LengthBin:
    """One stretch of the videos."""

    start: float
    """Where it begins, as a share of the video's length."""
    stop: float
    num_objects: int
    """Objects with scored frames inside."""
    j: float
    """Mean over those objects of their mean J inside; NaN without any."""
    f: float


def over_length(objects: Sequence[ObjectScores], num_bins: int = 10) -> list[LengthBin]:
    """Return J and F by position in the video: 0 is the first annotated frame of the clip, 1 the last.

    Each object counts the same in a bin, however many frames it has there, as in the benchmark's means.

    Raises:
        UsageError: fewer than one bin.
    """
    if num_bins < 1:
        raise UsageError(f"bins: expected at least 1, found {num_bins}")
    means: list[list[tuple[float, float]]] = [[] for _ in range(num_bins)]
    for scores in objects:
        shares = np.array(scores.positions) / max(1, scores.clip_frames - 1)
        bins = np.minimum((shares * num_bins).astype(np.int64), num_bins - 1)
        j, f = np.array(scores.j), np.array(scores.f)
        for number in np.unique(bins):
            inside = bins == number
            means[number].append((float(j[inside].mean()), float(f[inside].mean())))
    return [
        LengthBin(
            number / num_bins,
            (number + 1) / num_bins,
            len(found),
            mean_of_numbers([j for j, _ in found]),
            mean_of_numbers([f for _, f in found]),
        )
        for number, found in enumerate(means)
    ]


@dataclass(frozen=True, slots=True)
class FrameQuality:
    """IoU of frames: how good they are on average, and how bad the bad ones are."""

    mean_iou: float
    """Mean over the frames of a clip, then over clips."""
    quantiles: dict[int, float]
    """By percent: so many percent of all scored frames are at most this good."""
    num_frames: int


def frame_quality(objects: Sequence[ObjectScores]) -> FrameQuality:
    """Return the mean IoU and the quantiles of the scored frames of all clips (pooled, linear between frames).

    Raises:
        ShapeError: there are no objects.
    """
    if not objects:
        raise ShapeError("frame quality: expected scored objects, found none")
    by_clip: dict[str, list[float]] = {}
    for scores in objects:
        by_clip.setdefault(scores.clip_id, []).extend(scores.j)
    pooled = np.concatenate([np.array(values) for values in by_clip.values()])
    quantiles = np.percentile(pooled, QUANTILES, method="linear").tolist()
    mean = mean_of_numbers([mean_of_numbers(values) for values in by_clip.values()])
    return FrameQuality(mean, dict(zip(QUANTILES, quantiles, strict=True)), int(pooled.size))


def anchors_every(every: int | None, num_frames: int) -> range:
    """Return the annotated frames of a budget: 0, k, 2k …; None: the first frame only.

    Raises:
        UsageError: `every` is below 1.
    """
    if every is not None and every < 1:
        raise UsageError(f"every: expected a whole number from 1, found {every}")
    return range(0, num_frames, num_frames if every is None else every)


class CopyNearest:
    """The baseline: each frame gets the truth of the nearest annotated frame, the earlier one of two.

    Args:
        truth: what is copied.
        every: which frames are annotated, see `anchors_every`.
    """

    def __init__(self, truth: MaskSource, every: int | None) -> None:
        anchors_every(every, 1)
        self.path = truth.path
        self.num_frames = truth.num_frames
        self.clips_per_task = truth.clips_per_task
        self._truth = truth
        self._every = every

    def open_clips(self, clip_ids: Sequence[str]) -> Iterator[_CopiedClip]:
        """Yield the clips."""
        for clip in self._truth.open_clips(clip_ids):
            yield _CopiedClip(clip, self._every)


class _CopiedClip:
    def __init__(self, clip: ClipMasks, every: int | None) -> None:
        self.clip_id = clip.clip_id
        self.names = clip.names
        self.positions = clip.positions
        self._clip = clip
        self._anchors = np.array(anchors_every(every, len(clip.names or clip.positions or ())))

    def read(self, number: int) -> MaskFrame:
        return self._clip.read(int(self._anchors[np.abs(self._anchors - number).argmin()]))

    def place(self, number: int) -> str:
        return self._clip.place(number)
