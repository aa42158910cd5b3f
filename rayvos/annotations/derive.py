"""Prompts that follow from other prompts: the tight box of each mask."""

from __future__ import annotations

import dataclasses

from rayvos.annotations.records import Box, Clip
from rayvos.masks.rle import rle_box

__all__ = ["boxes_from_masks"]


def boxes_from_masks(clip: Clip) -> Clip:
    """Return the clip with a box per mask in place of its boxes.

    The box is tight: `min, max + 1` of the mask's pixels. A mask that says absent, and an empty one, give a box with
    `visible=False`.

    Raises:
        FormatError: a mask is damaged or of another size than the clip.
    """
    boxes = []
    for mask in clip.masks:
        tight = None if mask.rle is None else rle_box(mask.rle, clip.height, clip.width)
        x0, y0, x1, y1 = (0.0, 0.0, 0.0, 0.0) if tight is None else map(float, tight)
        boxes.append(Box(mask.object_id, mask.frame, x0, y0, x1, y1, visible=tight is not None))
    return dataclasses.replace(clip, boxes=tuple(boxes))
