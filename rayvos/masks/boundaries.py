"""The one-pixel boundary of a mask, by the rule of the DAVIS evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = ["boundary_map"]


def boundary_map(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the boundary of a mask, (height, width) bool both.

    A pixel is boundary where it differs from its right, lower or lower-right neighbour. The last row compares with
    the right neighbour only, the last column with the lower one only, the corner pixel with none. The rule is not
    symmetric under flips, and a mask that fills the whole frame has no boundary: that is the official rule.

    Source: DAVIS evaluation, `seg2bmap`.

    Raises:
        ShapeError: the mask is not 2-D.
    """
    if mask.ndim != 2:
        raise ShapeError(f"mask: expected (height, width), found shape {mask.shape}")
    mask = mask.astype(np.bool_, copy=False)
    right = mask[:, :-1] ^ mask[:, 1:]
    below = mask[:-1] ^ mask[1:]
    boundary = np.zeros(mask.shape, np.bool_)
    boundary[:, :-1] |= right
    boundary[:-1] |= below
    boundary[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return boundary
