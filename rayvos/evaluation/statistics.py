"""Mean, recall and decay of a list of per-frame values, as DAVIS reports them.

Source: the statistics of the DAVIS 2016 and 2017 evaluators. Differs: the official bin edges are cast to uint8 and
overflow from 256 frames on, where the decay becomes NaN; here the decay is right for every length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayvos.errors import ShapeError

__all__ = ["RECALL_ABOVE", "Statistics", "summarize"]

RECALL_ABOVE = 0.5  # DAVIS: a frame counts as found when its value is strictly above


@dataclass(frozen=True, slots=True)
class Statistics:
    """What DAVIS reports of one object's values over its evaluated frames."""

    mean: float
    """Mean over the frames whose value is a number; NaN where there is none."""
    recall: float
    """Share of the frames with a value strictly above 0.5, in [0, 1]."""
    decay: float
    """Mean of the first quarter minus mean of the last: 0.1 means that the end is 10 points worse."""


def summarize(values: Sequence[float]) -> Statistics:
    """Return mean, recall and decay of the values of one object.

    Args:
        values: one per evaluated frame, in the order of time. NaN is left out of the means and lowers the recall.

    Raises:
        ShapeError: there are no values.
    """
    if len(values) == 0:
        raise ShapeError("statistics: expected a value for at least one frame, found none; the clip is too short")
    array = np.asarray(values, dtype=np.float64)
    # 1e-10 makes halves round up; right edges are inclusive, so that neighbouring quarters share a frame (DAVIS).
    edges = np.round(np.linspace(1, len(array), 5) + 1e-10).astype(np.int64) - 1
    first, last = array[edges[0] : edges[1] + 1], array[edges[3] : edges[4] + 1]
    return Statistics(
        mean=mean_of_numbers(array),
        recall=float(np.mean(array > RECALL_ABOVE)),
        decay=mean_of_numbers(first) - mean_of_numbers(last),
    )


def mean_of_numbers(values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Return the mean of the values that are numbers; NaN where there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else math.nan
