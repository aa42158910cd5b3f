"""What is drawn on one frame: a label map, or one RLE per object; both answer the same questions.

A label map gives each pixel to one object. Label tables and COCO-like files keep overlaps, so their masks stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import FrameSizeError
from rayvos.evaluation.boundary_f import Window, window_of
from rayvos.masks.rle import rle_area, rle_box, rle_iou, rle_to_mask, rle_union

__all__ = ["LabelMapFrame", "MaskFrame", "RleFrame", "check_sizes", "common_window"]

Ids = NDArray[np.uint8] | NDArray[np.uint16]


class MaskFrame(Protocol):
    """The objects drawn on one frame."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def object_ids(self) -> tuple[int, ...]:
        """Return the ids that have pixels here, ascending; void is one of them where it has not been removed."""
        ...

    def max_id(self) -> int:
        """Return the highest id that has pixels here; 0 where nothing is drawn."""
        ...

    def window(self) -> Window | None:
        """Return rows and columns around all that is drawn and one more on each side; None where nothing is."""
        ...

    def cut(self, object_id: int, window: Window) -> NDArray[np.bool_]:
        """Return the mask of one object inside a window; all False where it is not drawn."""
        ...

    def rle(self, object_id: int) -> bytes | None:
        """Return the stored RLE of an object where there is one; equal bytes are equal masks."""
        ...

    def merged(self) -> MaskFrame:
        """Return the frame with everything that is drawn, void included, as object 1."""
        ...

    def without_void(self) -> MaskFrame:
        """Return the frame with void made background."""
        ...

    def void(self, window: Window) -> NDArray[np.bool_] | None:
        """Return the void pixels inside a window; None where the form knows no void or there is none."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LabelMapFrame:
    """A label map: pixel values are object ids, 0 background."""

    ids: Ids
    """(height, width)."""
    void_id: int = 255
    """The value that means 'unknown'."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    def object_ids(self) -> tuple[int, ...]:
        """Return the ids that have pixels here, ascending."""
        highest = self.max_id()
        # A comparison takes a fortieth of the time of counting all values, so few ids are looked up one by one.
        if highest <= 32:
            return tuple(object_id for object_id in range(1, highest + 1) if (self.ids == object_id).any())
        return tuple(int(object_id) for object_id in np.flatnonzero(np.bincount(self.ids.ravel())) if object_id)

    def max_id(self) -> int:
        """Return the highest id that has pixels here; 0 where nothing is drawn."""
        return int(self.ids.max(initial=0))

    def window(self) -> Window | None:
        """Return rows and columns around all that is drawn and one more on each side; None where nothing is."""
        drawn = self.ids.view(np.bool_) if self.ids.dtype == np.uint8 else self.ids != 0
        return window_of(drawn)

    def cut(self, object_id: int, window: Window) -> NDArray[np.bool_]:
        """Return the mask of one object inside a window; all False where it is not drawn."""
        if object_id > np.iinfo(self.ids.dtype).max:
            return np.zeros(self.ids[window].shape, np.bool_)
        return np.asarray(self.ids[window] == object_id)

    def rle(self, object_id: int) -> bytes | None:
        """Return None: a label map stores no RLE."""
        return None

    def merged(self) -> LabelMapFrame:
        """Return the frame with everything that is drawn, void included, as object 1."""
        return LabelMapFrame((self.ids != 0).view(np.uint8), self.void_id)

    def without_void(self) -> LabelMapFrame:
        """Return the frame with void made background."""
        if self.max_id() < self.void_id:
            return self
        ids = self.ids.copy()
        ids[ids == self.void_id] = 0
        return LabelMapFrame(ids, self.void_id)

    def void(self, window: Window) -> NDArray[np.bool_] | None:
        """Return the void pixels inside a window; None where there is none."""
        return self.cut(self.void_id, window) if self.max_id() >= self.void_id else None


@dataclass(frozen=True, slots=True, eq=False)
class RleFrame:
    """Masks of objects that may overlap, as COCO compressed RLE."""

    size: tuple[int, int]
    """Height and width in pixels."""
    rles: Mapping[int, bytes]
    """By object id; absent objects have no entry."""
    scores: Mapping[int, float] = field(default_factory=dict)
    """Predicted IoU by object id, where the source has one."""
    human: frozenset[int] = frozenset()
    """Objects whose mask is one that a person gave."""

    def object_ids(self) -> tuple[int, ...]:
        """Return the ids that have pixels here, ascending."""
        return tuple(sorted(key for key, rle in self.rles.items() if rle_box(rle, *self.size) is not None))

    def max_id(self) -> int:
        """Return the highest id that has pixels here; 0 where nothing is drawn."""
        return max(self.object_ids(), default=0)

    def window(self) -> Window | None:
        """Return rows and columns around all that is drawn and one more on each side; None where nothing is."""
        found = [rle_box(rle, *self.size) for rle in self.rles.values()]
        boxes = [box for box in found if box is not None]
        if not boxes:
            return None
        x0, y0 = (int(side) for side in np.min(boxes, axis=0)[:2])
        x1, y1 = (int(side) for side in np.max(boxes, axis=0)[2:])
        return slice(max(y0 - 1, 0), y1 + 1), slice(max(x0 - 1, 0), x1 + 1)

    def cut(self, object_id: int, window: Window) -> NDArray[np.bool_]:
        """Return the mask of one object inside a window; all False where it is not drawn."""
        rle = self.rles.get(object_id)
        if rle is None:
            rows, columns = (len(range(*part.indices(side))) for part, side in zip(window, self.size, strict=True))
            return np.zeros((rows, columns), np.bool_)
        return rle_to_mask(rle, *self.size)[window]

    def rle(self, object_id: int) -> bytes | None:
        """Return the stored RLE of an object."""
        return self.rles.get(object_id)

    def merged(self) -> RleFrame:
        """Return the frame with everything that is drawn as object 1; its score is the lowest of the parts'."""
        if not self.rles:
            return RleFrame(self.size, {})
        scores = {1: min(self.scores.values())} if self.scores else {}
        by_person = frozenset({1}) if set(self.rles) <= self.human else frozenset[int]()
        return RleFrame(self.size, {1: rle_union(list(self.rles.values()), *self.size)}, scores, by_person)

    def without_void(self) -> RleFrame:
        """Return the frame itself: RLE knows no void."""
        return self

    def void(self, window: Window) -> NDArray[np.bool_] | None:
        """Return None: RLE knows no void."""
        return None

    def jaccard(self, object_id: int, other: RleFrame) -> float:
        """Return the IoU of an object's masks on two frames, without decoding; 1 where both are empty."""
        mine, theirs = self.rles.get(object_id), other.rles.get(object_id)
        if mine is None or theirs is None:
            left = mine or theirs
            return float(left is None or rle_area(left, *self.size) == 0)
        return float(rle_iou([mine], [theirs], *self.size)[0, 0])


def check_sizes(truth: MaskFrame, mask: MaskFrame, truth_place: str, mask_place: str) -> None:
    """Check that two frames have one size.

    Raises:
        FrameSizeError: they have not; naming both files.
    """
    if truth.size != mask.size:
        raise FrameSizeError(
            f"{mask_place}: expected {truth.size[0]}x{truth.size[1]} as in {truth_place}, found "
            f"{mask.size[0]}x{mask.size[1]}; write results at the size of the truth"
        )


def common_window(first: MaskFrame, second: MaskFrame) -> Window | None:
    """Return rows and columns that hold the windows of both frames; None where nothing is drawn on either."""
    windows = [window for window in (first.window(), second.window()) if window is not None]
    if not windows:
        return None
    rows, columns = zip(*windows, strict=True)
    return (
        slice(min(part.start for part in rows), max(part.stop for part in rows)),
        slice(min(part.start for part in columns), max(part.stop for part in columns)),
    )
