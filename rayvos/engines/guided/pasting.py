"""From a probability on a crop's grid to a mask in the frame."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.cut.crop_cuts import Crop, ellipse
from rayvos.masks.boxes import near_box
from rayvos.masks.components import drop_specks
from rayvos.masks.edges import enlarge_along_edges

__all__ = ["THRESHOLD", "paste_mask"]

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
        clip_to_box: nothing lies outside `near_box`, and something in the box: where nothing was found, the ellipse.
    """
    x0, y0, x1, y1 = crop.area
    if edges:
        full = enlarge_along_edges(probability, image[y0:y1, x0:x1])
    else:
        full = np.asarray(cv2.resize(probability, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR), np.float32)
    inside: NDArray[np.bool_] = np.asarray(full >= THRESHOLD, np.bool_)
    if clip_to_box:
        inside &= near_box(crop.pixels, crop.area)
        if not inside.any():
            left, top, right, bottom = crop.pixels
            inside = ellipse((left - x0, top - y0, right - x0, bottom - y0), full.shape)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[y0:y1, x0:x1] = drop_specks(inside)
    return mask
