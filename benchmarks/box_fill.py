"""An engine that costs next to nothing, so that a benchmark sees the pipeline around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rayvos.annotations.records import Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label

__all__ = ["BoxFillEngine"]


class BoxFillEngine:
    """The mask is the box."""

    name = "box_fill"
    weights = ""

    def options(self) -> Mapping[str, Any]:
        """Return nothing: there is nothing to choose."""
        return {}

    def needs(self) -> EngineNeeds:
        """Return the cost of a tiny frame."""
        return EngineNeeds(halo=0, seconds_per_frame=0.1, seconds_per_label=0.01)

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield the filled boxes."""
        boxes = {(box.frame, box.object_id): box for box in clip.boxes if box.visible}
        for frame, image in images.read(frames):
            for object_id in clip.object_ids():
                box = boxes.get((frame, object_id))
                if box is None:
                    yield Label(frame, object_id, None)
                    continue
                mask = np.zeros(image.shape[:2], np.bool_)
                mask[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
                yield Label(frame, object_id, mask, 1.0, {"box_agreement": 1.0})
