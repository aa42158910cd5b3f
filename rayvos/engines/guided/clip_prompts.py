"""What a clip's annotations say of its objects, frame by frame, as prompts of the guided segmenter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rayvos.annotations.records import Box, Clip, Point, Trace
from rayvos.engines.guided.guidance import Prompt
from rayvos.masks.rle import rle_to_mask

__all__ = ["ClipPrompts"]


class ClipPrompts:
    """The prompts of a clip by frame: boxes, positive and negative points, and traces of the same frame together.

    A mask prompt counts only where nothing else says where the object is: it is what the labels are compared with
    where a data set gives both. Where a box says that an object is absent, it has no prompt. Masks are decoded when
    they are asked for, so that a long clip of masks takes little memory.
    """

    def __init__(self, clip: Clip) -> None:
        self._height, self._width = clip.height, clip.width
        self._boxes: dict[tuple[int, int], Box] = {}
        self._traces: dict[tuple[int, int], list[Trace]] = {}
        self._points: dict[tuple[int, int], list[Point]] = {}
        self._masks: dict[tuple[int, int], bytes] = {}
        for box in clip.boxes:
            self._boxes[box.frame, box.object_id] = box
        for trace in clip.traces:
            self._traces.setdefault((trace.frame, trace.object_id), []).append(trace)
        for point in clip.points:
            if point.label != "ambiguous":
                self._points.setdefault((point.frame, point.object_id), []).append(point)
        pointed = {key for key, points in self._points.items() if any(p.label == "positive" for p in points)}
        said = {key for key, box in self._boxes.items() if box.visible} | set(self._traces) | pointed
        absent = {key for key, box in self._boxes.items() if not box.visible}
        for mask in clip.masks:
            key = mask.frame, mask.object_id
            if mask.rle is not None and key not in said:
                self._masks[key] = mask.rle
        self._objects: dict[int, list[int]] = {}
        for frame, object_id in sorted((said | set(self._masks)) - absent):
            self._objects.setdefault(frame, []).append(object_id)

    @property
    def frames(self) -> frozenset[int]:
        """The frames that have a prompt."""
        return frozenset(self._objects)

    def frames_of(self, object_id: int) -> list[int]:
        """Return the frames on which an object has a prompt, ascending."""
        return [frame for frame, objects in self._objects.items() if object_id in objects]

    def on(self, frame: int) -> Mapping[int, Prompt]:
        """Return the prompts of a frame by object, ascending; a mask without a pixel is none."""
        prompts = {}
        for object_id in self._objects.get(frame, []):
            prompt = self._prompt((frame, object_id))
            if prompt is not None:
                prompts[object_id] = prompt
        return prompts

    def _prompt(self, key: tuple[int, int]) -> Prompt | None:
        box = self._boxes.get(key)
        points = self._points.get(key, [])
        previous = None
        if key in self._masks:
            previous = rle_to_mask(self._masks[key], self._height, self._width).astype(np.float32)
            if not previous.any():
                return None
        return Prompt(
            box=None if box is None else np.array([box.x0, box.y0, box.x1, box.y1], np.float32),
            positives=np.array([(p.x, p.y) for p in points if p.label == "positive"], np.float64).reshape(-1, 2),
            negatives=np.array([(p.x, p.y) for p in points if p.label == "negative"], np.float64).reshape(-1, 2),
            trace=tuple(
                np.stack([np.array(trace.x, np.float64), np.array(trace.y, np.float64)], axis=1)
                for trace in self._traces.get(key, [])
            ),
            previous=previous,
        )
