"""Moving a picture or mask along a flow field."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["warp_back"]


def warp_back(image: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `image` as seen from the frame the flow starts at.

    Args:
        image: (height, width) or (height, width, channels) float32, on the frame the flow leads to.
        flow: (height, width, 2) float32, pixels (x, y): where each pixel of the first frame is on the other one.

    Returns:
        float32 of the image's shape, sampled bilinearly; 0 where the flow leads out of the frame.
    """
    height, width = flow.shape[:2]
    grid_x, grid_y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    place_x, place_y = grid_x + flow[..., 0], grid_y + flow[..., 1]
    return np.asarray(
        cv2.remap(image, place_x, place_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0), np.float32
    )
