"""From a probability on a crop's grid to a mask in the frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.cut.crop_cuts import Crop, ellipse
from rayvos.masks.components import drop_specks
from rayvos.masks.edges import enlarge_along_edges

__all__ = ["THRESHOLD", "paste_mask"]

CLIP_GROWTH = 0.1  # Box2Seg specification: the mask may leave its box by this share of its width and height
THRESHOLD = 0.5


def paste_mask(
    probability: NDArray[np.float32], crop: Crop, image: NDArray[np.uint8], *, edges: bool, clip_to_box: bool
) -> NDArray[np.bool_]:
    """Return the mask in the frame: enlarged to the crop, cut off near the box, without specks.

    Args:
        probability: on the grid of the network, in [0, 1].
        crop: where that lies.
        image: RGB (height, width, 3).
        edges: let the mask's edges follow those of the picture.
        clip_to_box: nothing lies further than `CLIP_GROWTH` outside the box, and something in it: where nothing was
            found, the ellipse.
    """
    x0, y0, x1, y1 = crop.area
    if edges:
        full = enlarge_along_edges(probability, image[y0:y1, x0:x1])
    else:
        full = np.asarray(cv2.resize(probability, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR), np.float32)
    inside: NDArray[np.bool_] = np.asarray(full >= THRESHOLD, np.bool_)
    if clip_to_box:
        inside &= _near_box(crop)
        if not inside.any():
            left, top, right, bottom = crop.pixels
            inside = ellipse((left - x0, top - y0, right - x0, bottom - y0), full.shape)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = drop_specks(inside)
    return mask


def _near_box(crop: Crop) -> NDArray[np.bool_]:
    """Return the crop's pixels that lie in the box or at most `CLIP_GROWTH` outside it."""
    x0, y0, x1, y1 = crop.pixels
    grow_x, grow_y = round(CLIP_GROWTH * (x1 - x0)), round(CLIP_GROWTH * (y1 - y0))
    columns, rows = np.arange(crop.area[0], crop.area[2]), np.arange(crop.area[1], crop.area[3])
    across = (columns >= x0 - grow_x) & (columns < x1 + grow_x)
    down = (rows >= y0 - grow_y) & (rows < y1 + grow_y)
    near: NDArray[np.bool_] = down[:, None] & across[None, :]
    return near
