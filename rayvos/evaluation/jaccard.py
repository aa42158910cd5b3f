"""Region similarity J: the intersection over union of two masks.

Source: DAVIS evaluators, `db_eval_iou`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = ["check_pair", "jaccard"]


def jaccard(truth: NDArray[np.bool_], mask: NDArray[np.bool_], void: NDArray[np.bool_] | None = None) -> float:
    """Return |truth ∧ mask| / |truth ∨ mask| over the pixels that are not void.

    Args:
        truth: (height, width), True on the object.
        mask: as `truth`.
        void: as `truth`, True where nobody knows; those pixels do not count.

    Returns:
        IoU in [0, 1]; 1 where the union is empty.

    Raises:
        ShapeError: the shapes differ, or are not 2-D.
    """
    truth, mask = check_pair(truth, mask, void)
    union = np.count_nonzero(truth | mask)
    return np.count_nonzero(truth & mask) / union if union else 1.0


def check_pair(
    truth: NDArray[np.bool_], mask: NDArray[np.bool_], void: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return both masks with void made background.

    Raises:
        ShapeError: the shapes differ, or are not 2-D.
    """
    shapes = {array.shape for array in (truth, mask, void) if array is not None}
    if len(shapes) != 1 or truth.ndim != 2:
        found = ", ".join(str(array.shape) for array in (truth, mask, void) if array is not None)
        raise ShapeError(f"masks: expected one (height, width), found {found}; do not resize, label at the true size")
    truth, mask = truth.astype(np.bool_, copy=False), mask.astype(np.bool_, copy=False)
    if void is None:
        return truth, mask
    known = ~void.astype(np.bool_, copy=False)
    return truth & known, mask & known
