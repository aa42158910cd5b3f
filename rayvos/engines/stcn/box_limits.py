"""Where objects may lie on a frame, by the boxes that people drew of them.

A propagated mask that leaves its object's box is wrong there, and worse, it is remembered: the next frames repeat it.
So what lies further outside a box than boxes are drawn carelessly is cut off before it enters the memory.

Layouts: K objects, H W pixels at the working size, padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayvos.annotations.records import Box, Clip
from rayvos.engines.stcn.propagation import pad_to_stride
from rayvos.masks.boxes import CLIP_GROWTH

__all__ = ["BoxLimits"]


class BoxLimits:
    """Gives the limits of a frame's objects."""

    def __init__(self, clip: Clip, object_ids: Sequence[int], size: tuple[int, int], device: torch.device) -> None:
        """Look at a clip's boxes.

        Args:
            clip: with boxes, or without.
            object_ids: of the objects, by position.
            size: the working size.
            device: where the limits are needed.
        """
        self._size, self._device, self._num_objects = size, device, len(object_ids)
        self._scale = (size[0] / clip.height, size[1] / clip.width)
        positions = {object_id: position for position, object_id in enumerate(object_ids)}
        self._boxes: dict[int, dict[int, Box]] = {}
        for box in clip.boxes:
            if box.object_id in positions:
                self._boxes.setdefault(box.frame, {})[positions[box.object_id]] = box

    def on(self, frame: int) -> Tensor | None:
        """Return 1 where an object may lie and 0 elsewhere, float32 (K, H, W); None where no object has a box.

        An object without a box on this frame may lie anywhere, one that is said to be invisible nowhere.
        """
        boxes = self._boxes.get(frame)
        if not boxes:
            return None
        limits = torch.ones(self._num_objects, *self._size)
        for position, box in boxes.items():
            limits[position] = self._inside(box) if box.visible else 0
        return pad_to_stride(limits)[0].to(self._device)

    def _inside(self, box: Box) -> Tensor:
        sides = []
        for low, high, scale, length in (
            (box.y0, box.y1, self._scale[0], self._size[0]),
            (box.x0, box.x1, self._scale[1], self._size[1]),
        ):
            grow = CLIP_GROWTH * (high - low)
            places = (torch.arange(length) + 0.5) / scale
            sides.append((places >= low - grow) & (places < high + grow))
        return (sides[0][:, None] & sides[1]).float()
