"""Soft masks and other planes at another size."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_plane"]


def resize_plane(plane: NDArray[Any], height: int, width: int) -> NDArray[np.float32]:
    """Return a plane at another size: means of areas where both sides shrink, else bilinear.

    Args:
        plane: (h, w) or (h, w, channels), of a type that OpenCV resizes.
        height: of the result in pixels.
        width: of the result in pixels.
    """
    shrinks = plane.shape[0] > height and plane.shape[1] > width
    kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, (width, height), interpolation=kind), np.float32)
