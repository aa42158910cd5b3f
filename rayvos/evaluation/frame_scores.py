"""J and F of the objects of one frame: of given ids, or of every pair of a prediction and an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayvos.evaluation.boundary_f import Window, window_of
from rayvos.evaluation.mask_frames import MaskFrame, RleFrame, common_window
from rayvos.evaluation.outlines import outline

__all__ = ["JaccardF", "jaccard_of_object", "score_objects", "score_pairs"]


class JaccardF(NamedTuple):
    """Both measures of one object on one frame."""

    j: float
    """Region similarity in [0, 1]."""
    f: float
    """Boundary measure in [0, 1]."""


PERFECT = JaccardF(1.0, 1.0)


def score_objects(truth: MaskFrame, mask: MaskFrame, object_ids: Sequence[int], radius: int) -> list[JaccardF]:
    """Return J and F of each object; an id that is not drawn is an empty mask.

    Args:
        truth: the true frame.
        mask: the predicted one, of the same size.
        object_ids: which objects, by the id they have in both.
        radius: of the boundary match, see `boundary_radius`.
    """
    window = common_window(truth, mask)
    if window is None:
        return [PERFECT] * len(object_ids)
    return [_score_object(truth, mask, object_id, window, radius) for object_id in object_ids]


def _score_object(truth: MaskFrame, mask: MaskFrame, object_id: int, window: Window, radius: int) -> JaccardF:
    rle = truth.rle(object_id)
    if rle is not None and rle == mask.rle(object_id):
        return PERFECT
    pair = truth.cut(object_id, window), mask.cut(object_id, window)
    inner = window_of(pair[0] | pair[1])
    if inner is None:
        return PERFECT
    outlines = outline(np.stack([pair[0][inner], pair[1][inner]]), radius)
    return PERFECT if outlines.same(0, 1) else JaccardF(outlines.jaccard(0, 1), outlines.boundary_f(0, 1))


def jaccard_of_object(truth: MaskFrame, mask: MaskFrame, object_id: int) -> float:
    """Return J alone: on runs, without decoding, where both frames are RLE."""
    if isinstance(truth, RleFrame) and isinstance(mask, RleFrame):
        return truth.jaccard(object_id, mask)
    window = common_window(truth, mask)
    if window is None:
        return 1.0
    pair = truth.cut(object_id, window), mask.cut(object_id, window)
    union = np.count_nonzero(pair[0] | pair[1])
    return np.count_nonzero(pair[0] & pair[1]) / union if union else 1.0


def score_pairs(truth: MaskFrame, mask: MaskFrame, num_truths: int, num_masks: int, radius: int) -> NDArray[np.float64]:
    """Return J and F of every predicted object against every true one; true void counts for neither.

    Returns:
        (num_masks + 1, num_truths, 2): ids 1…num_masks against ids 1…num_truths; the last row is an empty mask's.
    """
    window = common_window(truth, mask)
    scores = np.ones((num_masks + 1, num_truths, 2))
    if window is None:
        return scores
    layers = [truth.cut(object_id, window) for object_id in range(1, num_truths + 1)]
    layers += [mask.cut(object_id, window) for object_id in range(1, num_masks + 1)]
    layers.append(np.zeros_like(layers[0]))
    stack = np.stack(layers)
    void = truth.void(window)
    if void is not None:
        stack &= ~void
    outlines = outline(stack, radius)
    for column in range(num_truths):
        for row in range(num_masks + 1):
            position = num_truths + row
            scores[row, column] = outlines.jaccard(column, position), outlines.boundary_f(column, position)
    return scores
