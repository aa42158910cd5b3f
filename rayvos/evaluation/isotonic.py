"""Fits the curve from scores to IoUs on labels whose truth is known, and says how well it carries over.

Isotonic regression is the best rising step function in the sense of least squares. Its steps become points (mean
score, IoU) with straight lines between them, so that different scores keep different places in a ranking: a step
function would make whole score ranges equal, and "worst first" a matter of chance.
Source: Box2Seg specification, section 6 (calibration by isotonic regression). Differs: lines between the steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from rayvos.engines.score_calibration import ScoreCalibration
from rayvos.errors import ShapeError
from rayvos.evaluation.calibration import Calibration, calibration_from_pairs
from rayvos.evaluation.pseudo_labels import LabelQuality

__all__ = ["CalibrationFit", "fit_calibration", "fit_curve"]


@dataclass(frozen=True, slots=True)
class CalibrationFit:
    """A fitted calibration and what it is worth."""

    calibration: ScoreCalibration
    held_out: Calibration | None
    """Each clip's scores mapped by the curve of all other clips; None with a single clip."""


def fit_calibration(quality: LabelQuality, *, engine: str, weights: str, bad_iou: float = 0.7) -> CalibrationFit:
    """Fit a calibration to the labels of a run; masks that people gave and masks without a score do not count.

    Args:
        quality: the labels compared with the truth.
        engine: name of the engine that made them.
        weights: digest of its weights.
        bad_iou: masks below are the ones to find, for `held_out`.

    Raises:
        ShapeError: no mask carries a score.
    """
    rows = [clip.rows[~clip.rows["human"] & ~np.isnan(clip.rows["score"])] for clip in quality.clips]
    rows = [found for found in rows if found.size]
    if not rows:
        raise ShapeError("calibration: no label carries a score; only rayvos labels do, PNG masks do not")
    scores, ious = np.concatenate([r["score"] for r in rows]), np.concatenate([r["iou"] for r in rows])
    knots, levels = fit_curve(scores, ious)
    calibration = ScoreCalibration(
        engine=engine, weights=weights, scores=tuple(knots.tolist()), ious=tuple(levels.tolist()),
        num_masks=int(scores.size),
    )  # fmt: skip
    if len(rows) < 2:
        return CalibrationFit(calibration, None)
    mapped = []
    for left_out, clip in enumerate(rows):
        others = [found for position, found in enumerate(rows) if position != left_out]
        curve = fit_curve(np.concatenate([r["score"] for r in others]), np.concatenate([r["iou"] for r in others]))
        mapped.append(np.interp(clip["score"], *curve))
    return CalibrationFit(calibration, calibration_from_pairs(np.concatenate(mapped), ious, bad_iou=bad_iou))


def fit_curve(
    scores: NDArray[np.float64], ious: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points of the curve: the origin, then mean score and IoU of each step of the isotonic regression.

    A score of 0 says that nothing was found, whatever the lowest score of the masks at hand was.

    Args:
        scores: (num_masks,), in [0, 1], in any order.
        ious: (num_masks,), in [0, 1].

    Returns:
        (num_points,) ascending scores and (num_points,) rising IoUs.

    Raises:
        ShapeError: the lengths differ, there is no mask, or a number is not in [0, 1].
    """
    calibration_from_pairs(scores, ious)  # its checks
    values, where, counts = np.unique(scores, return_inverse=True, return_counts=True)
    means = np.bincount(where, weights=ious) / counts  # equal scores get one IoU
    found = isotonic_regression(means, weights=counts)
    edges = found.blocks[:-1]
    totals = np.add.reduceat(counts.astype(np.float64), edges)
    knots = np.add.reduceat(values * counts, edges) / totals
    levels = np.clip(np.add.reduceat(found.x * counts, edges) / totals, 0.0, 1.0)
    knots, levels = np.clip(knots, 0.0, 1.0), np.maximum.accumulate(levels)
    if knots[0] > 0:
        knots, levels = np.append(0.0, knots), np.append(0.0, levels)
    return knots, levels
