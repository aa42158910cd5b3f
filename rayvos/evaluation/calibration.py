"""Does the score predict the IoU? Measured where the truth is known.

Three answers: a reliability curve (mean IoU of the labels of each score range), Spearman's rank correlation (does a
higher score mean a better mask), and the AUROC of finding bad masks (does the score tell IoU < 0.7 from the rest).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rayvos.errors import ShapeError
from rayvos.evaluation.pseudo_labels import LabelQuality

__all__ = ["BAD_IOU", "Calibration", "ReliabilityBin", "calibration_from_masks", "calibration_from_pairs"]

BAD_IOU = 0.7  # masks below are to be found: Box2Seg's stricter recall threshold


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The labels of one score range."""

    low: float
    high: float
    num_masks: int
    mean_score: float
    mean_iou: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well scores predict IoUs."""

    num_masks: int
    num_bad: int
    """Masks with an IoU below `bad_iou`."""
    bad_iou: float
    spearman: float
    """Rank correlation of score and IoU in [-1, 1]; NaN where either is constant."""
    auroc: float
    """Chance that a bad mask has a lower score than a good one (half for equal); NaN without bad or good masks."""
    expected_error: float
    """Mean over masks of |mean score - mean IoU| of their score range: 0 for a perfectly calibrated score."""
    mean_absolute_error: float
    """Mean |score - IoU|."""
    bins: tuple[ReliabilityBin, ...]
    """The reliability curve, ranges of equal width without masks left out."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; NaN becomes null."""
        found = asdict(self)
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in found.items()}


def calibration_from_pairs(
    scores: Sequence[float] | NDArray[np.float64],
    ious: Sequence[float] | NDArray[np.float64],
    *,
    bad_iou: float = BAD_IOU,
    num_bins: int = 10,
) -> Calibration:
    """Measure how well scores predict IoUs.

    Args:
        scores: (num_masks,), in [0, 1].
        ious: (num_masks,), in [0, 1].
        bad_iou: masks below are the ones to find.
        num_bins: score ranges of the reliability curve.

    Raises:
        ShapeError: the lengths differ, there is no mask, or a number is not in [0, 1].
    """
    score, iou = np.asarray(scores, np.float64), np.asarray(ious, np.float64)
    if score.shape != iou.shape or score.ndim != 1 or score.size == 0:
        raise ShapeError(f"calibration: expected as many scores as IoUs, found {score.shape} and {iou.shape}")
    for name, values in (("score", score), ("IoU", iou)):
        if not ((values >= 0) & (values <= 1)).all():  # false for NaN, too
            raise ShapeError(f"calibration: expected every {name} in [0, 1], found {values.min()}…{values.max()}")
    bins = _bins(score, iou, num_bins)
    bad = iou < bad_iou
    return Calibration(
        num_masks=int(score.size),
        num_bad=int(bad.sum()),
        bad_iou=bad_iou,
        spearman=_correlation(rankdata(score), rankdata(iou)),
        auroc=_auroc(score, bad),
        expected_error=sum(item.num_masks * abs(item.mean_score - item.mean_iou) for item in bins) / score.size,
        mean_absolute_error=float(np.abs(score - iou).mean()),
        bins=bins,
    )


def calibration_from_masks(quality: LabelQuality, *, bad_iou: float = BAD_IOU, num_bins: int = 10) -> Calibration:
    """Measure calibration on the labels of a run; masks that a person gave and masks without a score do not count.

    A mask that is predicted where the object is absent counts with IoU 0: the score should have told.

    Raises:
        ShapeError: no mask carries a score.
    """
    rows = np.concatenate([clip.rows for clip in quality.clips])
    rows = rows[~rows["human"] & ~np.isnan(rows["score"])]
    if rows.size == 0:
        raise ShapeError("calibration: no label carries a score; only rayvos labels do, PNG masks do not")
    return calibration_from_pairs(rows["score"], rows["iou"], bad_iou=bad_iou, num_bins=num_bins)


def _bins(score: NDArray[np.float64], iou: NDArray[np.float64], num_bins: int) -> tuple[ReliabilityBin, ...]:
    position = np.minimum((score * num_bins).astype(np.int64), num_bins - 1)
    found = []
    for number in np.unique(position).tolist():
        inside = position == number
        low, high = number / num_bins, (number + 1) / num_bins
        found.append(
            ReliabilityBin(low, high, int(inside.sum()), float(score[inside].mean()), float(iou[inside].mean()))
        )
    return tuple(found)


def _correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    first, second = first - first.mean(), second - second.mean()
    spread = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread else math.nan


def _auroc(score: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    num_bad, num_good = int(bad.sum()), int((~bad).sum())
    if num_bad == 0 or num_good == 0:
        return math.nan
    # Mann-Whitney: how often a good mask ranks above a bad one; mean ranks count equal scores as one half.
    rank_sum = float(rankdata(score)[~bad].sum())
    return (rank_sum - num_good * (num_good + 1) / 2) / (num_bad * num_good)
