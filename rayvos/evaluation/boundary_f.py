"""Boundary measure F: how well the boundary of a mask follows the true one.

Source: DAVIS evaluators, `f_measure` (the disk is the one of davis2017-evaluation).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.evaluation.jaccard import check_pair
from rayvos.evaluation.outlines import BOUND_TH, boundary_radius, outline

__all__ = ["Window", "boundary_f", "window_of"]

Window = tuple[slice, slice]


def boundary_f(
    truth: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    void: NDArray[np.bool_] | None = None,
    *,
    bound_th: float = BOUND_TH,
) -> float:
    """Return the harmonic mean of precision and recall of the boundary pixels.

    Precision is the share of the mask's boundary pixels that have a true one within the radius, recall the share of
    the true ones that have one of the mask. Void pixels are made background in both masks first.

    Args:
        truth: (height, width), True on the object; the whole image, since its edge has no boundary.
        mask: as `truth`.
        void: as `truth`, True where nobody knows.
        bound_th: below 1 the radius as a share of the image diagonal, from 1 on in pixels.

    Returns:
        F in [0, 1]; 1 where neither mask has a boundary, be it empty or the full image.

    Raises:
        ShapeError: the shapes differ, or are not 2-D.
    """
    truth, mask = check_pair(truth, mask, void)
    radius = boundary_radius(truth.shape[0], truth.shape[1], bound_th)
    return outline(np.stack([truth, mask]), radius).boundary_f(0, 1)


def window_of(drawn: NDArray[np.bool_]) -> Window | None:
    """Return the rows and columns around what is drawn, with one more on each side where the image has one.

    The margin keeps the boundary rule of the image: only the image's own last row and column have no neighbour.

    Returns:
        Slices of rows and columns; None where nothing is drawn.
    """
    x, y, width, height = cv2.boundingRect(drawn.view(np.uint8))
    if width == 0:
        return None
    return slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
