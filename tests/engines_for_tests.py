"""A cheap engine for tests of the pipeline, and clips that do to their worker what real clips sometimes do.

Workers import it by `tests.engines_for_tests:BoxFillEngine`. A clip of pictures whose folder holds a file `.trouble`
makes trouble; the file says which, and the configuration of the run stays that of a quiet one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rayvos.annotations.records import Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label, ObjectProbability
from rayvos.masks.rle import rle_to_mask

ENGINE = "tests.engines_for_tests:BoxFillEngine"
PROPAGATOR = "tests.engines_for_tests:ShiftEngine"


class PlannedEngine:
    """Only planned with: states costs, labels nothing."""

    name = "planned"
    weights = ""

    def __init__(
        self, halo: int | None = 1, seconds_per_label: float = 0.5, seconds_per_crop: float = 0, **options: Any
    ) -> None:
        self._needs = EngineNeeds(halo, 0.0, seconds_per_label, seconds_per_crop=seconds_per_crop)
        self._options = options

    def options(self) -> Mapping[str, Any]:
        return self._options

    def needs(self) -> EngineNeeds:
        return self._needs

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        raise AssertionError("planning labels nothing")


class BoxFillEngine:
    """The object is what is brighter than `threshold` inside its box; looks one frame to each side."""

    name = "boxfill"
    weights = ""

    def __init__(
        self, *, threshold: int = 60, seconds_per_frame: float = 0.1, delay_s: float = 0.0, num_cpus: float = 1.0
    ) -> None:
        self.threshold = threshold
        self.seconds_per_frame = seconds_per_frame
        self.delay_s = delay_s
        self.num_cpus = num_cpus

    def options(self) -> Mapping[str, Any]:
        return {"threshold": self.threshold}

    def needs(self) -> EngineNeeds:
        return EngineNeeds(
            halo=1,
            seconds_per_frame=self.seconds_per_frame,
            seconds_per_label=0.0,
            num_cpus=self.num_cpus,
            separate_objects=True,
        )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        make_trouble(Path(clip.source.uri) / ".trouble")
        boxes = {object_id: clip.boxes_of(object_id) for object_id in clip.object_ids()}
        context = range(max(0, frames.start - 1), min(clip.num_frames, frames.stop + 1))
        for frame, image in images.read(context):
            if frame not in frames:
                continue
            time.sleep(self.delay_s)
            bright = image.max(axis=2) > self.threshold
            for object_id, of_object in boxes.items():
                box = of_object.get(frame)
                if box is None or not box.visible:
                    yield Label(frame, object_id, None)
                    continue
                inside = np.zeros(bright.shape, bool)
                inside[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
                mask = bright & inside
                fill = float(mask.sum() / max(1, inside.sum()))
                yield Label(frame, object_id, mask, fill, {"fill": fill})


class DyingEngine(BoxFillEngine):
    """Ends every process that loads it but the first one, the driver, which leaves its id in a file."""

    def __init__(self, *, driver: str) -> None:
        super().__init__()
        with contextlib.suppress(FileExistsError), Path(driver).open("x") as file:
            file.write(str(os.getpid()))
        if Path(driver).read_text() != str(os.getpid()):
            os._exit(1)


class ShiftEngine(BoxFillEngine):
    """Also gives probabilities: an object's first mask, softened, moved one pixel to the right with every frame."""

    name = "shift"

    def probabilities(self, clip: Clip, images: FrameReader, frames: Sequence[int]) -> Iterator[ObjectProbability]:
        make_trouble(Path(clip.source.uri) / ".trouble")
        for frame, _ in images.read(frames):
            time.sleep(self.delay_s)
            for object_id in clip.object_ids():
                given = next(mask for mask in clip.masks if mask.object_id == object_id and mask.rle is not None)
                mask = rle_to_mask(given.rle, clip.height, clip.width).astype(np.float32)
                moved = np.roll(cv2.GaussianBlur(mask, (0, 0), 3), frame - given.frame, axis=1)
                yield ObjectProbability(frame, object_id, np.clip(moved, 0, 1))


def took_pass(folder: Path) -> bool:
    """Use up one of the files `pass-…`, whoever else wants one; False where none is left."""
    for found in sorted(folder.glob("pass-*")):
        with contextlib.suppress(FileNotFoundError):
            found.unlink()
            return True
    return False


def make_trouble(order: Path) -> None:
    """Do what the file says; `once` in it removes the file first."""
    if not order.exists():
        return
    trouble = order.read_text().split()
    if "once" in trouble:
        order.unlink()
    if "raise" in trouble:
        raise ZeroDivisionError("the clip made the engine fail")
    if "kill" in trouble:
        os.kill(os.getpid(), signal.SIGKILL)
    if "segfault" in trouble:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in trouble:
        sys.exit(3)
    if "hang" in trouble:
        time.sleep(3600)
    while "pass" in trouble and order.exists() and not took_pass(order.parent.parent):
        time.sleep(0.05)
    if "hog" in trouble:
        hog = []
        while True:
            hog.append(np.ones(8 << 20, np.uint8))
    if "creep" in trouble:
        creep: list[bytes] = []
        while True:
            creep.append(bytes(1000))
