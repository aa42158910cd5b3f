"""Frames in memory for tests of engines, clips of boxes on them, and labels as something that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Box, Clip, ClipSource, ObjectInfo
from rayvos.engines.base import Label
from rayvos.errors import DecodeError

__all__ = ["Images", "box_clip", "content", "noise_images"]


class Images:
    """A frame reader on (frame, height, width, 3) uint8; one of the frames may be broken."""

    def __init__(self, images: NDArray[np.uint8], broken: int | None = None) -> None:
        self.images, self.broken = images, broken
        self.num_frames, self.height, self.width = images.shape[:3]
        self.asked: list[int] = []
        """The frames that were asked for, in that order."""

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        assert list(frames) == sorted(set(frames)), "readers take ascending frames"
        for frame in frames:
            if frame == self.broken:
                raise DecodeError(f"clip 'c' frame {frame}: expected a picture, found noise; replace it")
            self.asked.append(frame)
            yield frame, self.images[frame].copy()

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def noise_images(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return smooth noise (frame, height, width, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (num_frames, height // 5, width // 5, 3), dtype=np.uint8)
    return np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in noise])


def box_clip(
    boxes: Iterable[Box], num_frames: int, height: int, width: int, object_ids: Iterable[int] | None = None
) -> Clip:
    """Return a clip of boxes; its objects are those that have some, or the given ones."""
    boxes = tuple(boxes)
    ids = sorted({box.object_id for box in boxes}) if object_ids is None else object_ids
    objects = tuple(ObjectInfo(object_id) for object_id in ids)
    return Clip("c", ClipSource("images", "memory"), height, width, num_frames, objects=objects, boxes=boxes)


def content(labels: Iterable[Label]) -> list[tuple[Any, ...]]:
    """Return all that labels say."""
    return [
        (
            label.frame,
            label.object_id,
            None if label.mask is None else label.mask.tobytes(),
            label.score,
            tuple(label.quality.items()),
        )
        for label in labels
    ]
