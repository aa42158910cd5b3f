"""Enlarges a soft mask so that its edges lie on those of the picture: the guided filter, computed on the small grid.

Around each cell of the grid the mask is taken for a linear function of the three colours; the functions are enlarged,
which is smooth, and applied to the picture, which is sharp.

Source: He, Sun and Tang, "Guided Image Filtering" (2010), equations 14 to 17 with colours as the guide; He and Sun,
"Fast Guided Filter" (2015): coefficients of the small picture, enlarged.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.masks.resizing import resize_plane

__all__ = ["enlarge_along_edges"]

RADIUS = 2  # cells of the grid: as far as a network on that grid is wrong about an edge
FLATTEST = 1e-3  # variance of colours, in [0, 1], below which a place counts as flat and is only smoothed


def enlarge_along_edges(probability: NDArray[np.float32], picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probability at the picture's size.

    Args:
        probability: float32 (height, width) in [0, 1], on a grid that covers the picture.
        picture: RGB uint8 (height, width, 3), of any size.

    Returns:
        float32 of the picture's height and width, in [0, 1]; where the picture has one colour, smoothed and resized.
    """
    height, width = picture.shape[:2]
    colours = picture.astype(np.float32) / 255
    slopes, offset = _linear_functions(probability, resize_plane(colours, *probability.shape))
    enlarged = np.einsum("hwc,hwc->hw", resize_plane(slopes, height, width), colours)
    enlarged += resize_plane(offset, height, width)
    return np.asarray(np.clip(enlarged, 0, 1), np.float32)


def _linear_functions(
    values: NDArray[np.float32], colours: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return slopes (height, width, 3) and offset (height, width) of `values` as functions of the colours."""
    mean_colours, mean_values = _mean_around(colours), _mean_around(values)
    covariance = _mean_around(colours * values[..., None]) - mean_colours * mean_values[..., None]
    spread = np.empty((*values.shape, 3, 3), np.float32)
    for one in range(3):
        products = _mean_around(colours * colours[..., one : one + 1])
        spread[..., one, :] = products - mean_colours * mean_colours[..., one : one + 1]
    spread += FLATTEST * np.eye(3, dtype=np.float32)
    slopes = np.linalg.solve(spread, covariance[..., None])[..., 0]
    offset = np.asarray(mean_values - np.einsum("hwc,hwc->hw", slopes, mean_colours), np.float32)
    return _mean_around(slopes), _mean_around(offset)


def _mean_around(plane: NDArray[Any]) -> NDArray[np.float32]:
    side = 2 * RADIUS + 1
    return np.asarray(cv2.blur(plane, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)
