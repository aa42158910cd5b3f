"""Agreement of a mask with the box its object was given: one term of the label score.

A person draws a box so that it touches the object on all four sides. The tight box of a good pseudo-mask is therefore
(almost) the given box; a mask that leaks or loses a limb moves at least one side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError
from rayvos.masks.boxes import box_iou, clip_box, mask_to_box

__all__ = ["box_agreement"]


def box_agreement(mask: NDArray[np.bool_], box: NDArray[np.float32]) -> float:
    """Return the IoU of `box` with the tight box around `mask`.

    Args:
        mask: (height, width), True on the object.
        box: (4,), `xyxy`, pixel edges: the whole frame is `0, 0, width, height`. May stick out of the frame.

    Returns:
        IoU in [0, 1]. 0 where the mask is empty or the box lies outside the frame.

    Raises:
        ShapeError: `mask` is not 2-D, or `box` is not four ordered numbers.
    """
    if mask.ndim != 2:
        raise ShapeError(f"mask: expected (height, width), found shape {mask.shape}; pass one object at a time")
    if box.shape != (4,) or not (box[2] >= box[0] and box[3] >= box[1]):
        raise ShapeError(f"box: expected x0 <= x1 and y0 <= y1, found {box.tolist()}; is it xywh? see `xywh_to_xyxy`")
    tight = mask_to_box(mask)
    if tight is None:
        return 0.0
    # Trackers draw past the frame's edge, where no mask can follow: only the visible part counts.
    return float(box_iou(clip_box(box, *mask.shape), tight)[0, 0])
