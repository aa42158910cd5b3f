"""Connected parts of a mask."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["drop_specks"]


def drop_specks(mask: NDArray[np.bool_], *, smallest_share: float = 0.1) -> NDArray[np.bool_]:
    """Return the mask without floating specks.

    A part (8-connected) stays if it has at least `smallest_share` of the pixels of the largest part: limbs that an
    occluder cuts off stay, crumbs go. A mask that is not empty stays so.

    Args:
        mask: (height, width), bool.
        smallest_share: in [0, 1]; 1 keeps only the largest part (and its equals).
    """
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    if count <= 2:  # background and one part
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    kept = areas >= max(1, smallest_share * areas.max())
    result: NDArray[np.bool_] = kept[parts]
    return result
