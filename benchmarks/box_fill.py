"""An engine that costs next to nothing, or a fixed time, so that a benchmark sees the pipeline around it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rayvos.annotations.records import Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label

__all__ = ["ENGINE", "BoxFillEngine"]

ENGINE = "benchmarks.box_fill:BoxFillEngine"


class BoxFillEngine:
    """The mask is the box.

    Args:
        seconds_per_frame: what it tells the planner.
        delay_s: what it sleeps for on each frame; no core is busy meanwhile.
        log: folder in which each process notes when it was at work, a line of two times per call; empty: none.
    """

    name = "box_fill"
    weights = ""

    def __init__(self, *, seconds_per_frame: float = 0.1, delay_s: float = 0.0, log: str = "") -> None:
        self.seconds_per_frame = seconds_per_frame
        self.delay_s = delay_s
        self.log = log

    def options(self) -> Mapping[str, Any]:
        """Return nothing: there is nothing to choose."""
        return {}

    def needs(self) -> EngineNeeds:
        """Return the cost of a tiny frame."""
        return EngineNeeds(halo=0, seconds_per_frame=self.seconds_per_frame, seconds_per_label=0.01)

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield the filled boxes."""
        started = time.time()
        boxes = {(box.frame, box.object_id): box for box in clip.boxes if box.visible}
        for frame, image in images.read(frames):
            time.sleep(self.delay_s)
            for object_id in clip.object_ids():
                box = boxes.get((frame, object_id))
                if box is None:
                    yield Label(frame, object_id, None)
                    continue
                mask = np.zeros(image.shape[:2], np.bool_)
                mask[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
                yield Label(frame, object_id, mask, 1.0, {"box_agreement": 1.0})
        if self.log:
            with (Path(self.log) / f"{os.getpid()}.txt").open("a") as file:
                file.write(f"{started} {time.time()}\n")
