"""Regions of a label map that nobody should learn from.

A mask that is not good enough is removed, and its box, which is known to hold the object somewhere, becomes the
ignore value: no loss is computed there. Outside its box the object cannot be, so there it leaves background.
Source: Box2Seg, filtering of bad pseudo-labels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError
from rayvos.masks.boxes import round_box

__all__ = ["IGNORE", "fill_rejected"]

IGNORE = 255  # DAVIS, YouTube-VOS and PASCAL VOC: void


def fill_rejected(
    label_map: NDArray[np.uint8],
    boxes: Mapping[int, NDArray[np.float32]],
    rejected: Collection[int],
    *,
    keep_accepted: bool = True,
) -> NDArray[np.uint8]:
    """Return a label map in which the boxes of rejected objects are the ignore value.

    Args:
        label_map: uint8 (height, width), object ids 1…254, 0 background; pixels that are `IGNORE` stay so.
        boxes: object id → (4,) `xyxy` pixel edges, for the rejected objects at least.
        rejected: ids of the objects whose masks go.
        keep_accepted: accepted objects stay visible inside a rejected box (the paper does not say); False: the box
            hides them.

    Raises:
        ShapeError: the label map is not uint8 (height, width), or a rejected object has no box.
    """
    if label_map.ndim != 2 or label_map.dtype != np.uint8:
        raise ShapeError(
            f"label map: expected uint8 (height, width), found {label_map.dtype} {label_map.shape}; "
            f"{IGNORE} can only mark what to ignore where it is no object"
        )
    missing = sorted(set(rejected) - set(boxes))
    if missing:
        raise ShapeError(f"rejected objects {missing}: expected a box for each, found none; give their boxes")
    height, width = label_map.shape
    gone = np.isin(label_map, list(rejected))
    accepted = ~gone & (label_map != 0)
    result = np.where(gone, 0, label_map).astype(np.uint8)
    for object_id in rejected:
        pixels = round_box(boxes[object_id], height, width)
        if pixels is None:
            continue
        inside = (slice(pixels[1], pixels[3]), slice(pixels[0], pixels[2]))
        fill = ~accepted[inside] if keep_accepted else np.ones_like(accepted[inside])
        result[inside][fill] = IGNORE
    return result
