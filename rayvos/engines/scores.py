"""Quality without ground truth: terms an engine knows of its own label, and the IoU they predict.

Measured with the engine `cut` on the seven real clips (306 labels) and on eight generated ones (231 labels), rank
correlation (Spearman) with the true IoU over all labels: box agreement 0.34 and 0.29, margin 0.32 and 0.46, temporal
agreement 0.52 and 0.66, the engine's score 0.53 and 0.74, and 0.43 and 0.71 where no neighbour frame has a box.
Within a single real clip it is weak, 0.26 on average: it tells hard clips and objects from easy ones, hardly the bad
frames of one object from its good ones. The mean error is 0.10 and 0.12, the mean of the score 0.03 and 0.01 low.
It trusts the box: on every fourth real frame alone (no neighbours) it is 0.50 for exact boxes, 0.42 where their sides
are moved by 5 % of the box, and worth nothing (-0.18) at 15 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = ["mean_margin", "overlap", "predicted_iou"]

# Near frames' masks agree along the flow where an object was really found; no other term says as much (see above).
TEMPORAL_SHARE = 0.75


def mean_margin(probability: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Return the mean of |2p - 1| inside the box: 1 where every pixel is decided, 0 where none is.

    Args:
        probability: (height, width), in [0, 1].
        inside: (height, width), True in the box.

    Raises:
        ShapeError: the shapes differ, or nothing is inside.
    """
    if probability.shape != inside.shape or not inside.any():
        raise ShapeError(f"inside: expected a part of {probability.shape}, found {inside.sum()} of {inside.shape}")
    return float(np.abs(2 * probability[inside].astype(np.float64) - 1).mean())


def overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the IoU of two masks whose pixels may belong to them in part; 0 where both are empty.

    Args:
        first: (height, width), in [0, 1]; a mask that was moved or scaled.
        second: as `first`.
    """
    union = float(np.maximum(first, second).sum(dtype=np.float64))
    return float(np.minimum(first, second).sum(dtype=np.float64)) / union if union else 0.0


def predicted_iou(box_agreement: float, certainty: float, temporal_agreement: float | None = None) -> float:
    """Return the score of a label: its predicted IoU.

    A mask cannot be right where its tight box is not the given one, so box agreement multiplies; of the rest, three
    quarters are temporal agreement and one quarter is certainty.

    Args:
        box_agreement: IoU of the mask's tight box with the given box.
        certainty: mean margin inside the box, or what an engine without probabilities has in its place.
        temporal_agreement: IoU with the masks of neighbouring frames moved along the flow; None where there are none.

    Returns:
        A number in [0, 1] for terms in [0, 1]; it grows with each of them.
    """
    if temporal_agreement is None:
        return box_agreement * certainty
    return box_agreement * (TEMPORAL_SHARE * temporal_agreement + (1 - TEMPORAL_SHARE) * certainty)
