"""Boxes, and the crops around them that a segmenter looks at.

Boxes are float32 `xyxy` pixel edges, half-open: the whole frame is `0, 0, width, height`. A crop is a box with a
margin, clipped to the frame; pasting back what was predicted on the resized crop is its exact inverse.
Source of the crop rules: Box2Seg and its code base, section 2 of its encoding (order: round, paint, margin, clip).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = [
    "CLIP_GROWTH",
    "Margin",
    "box_iou",
    "clip_box",
    "crop_around",
    "jitter_box",
    "loosen_box",
    "mask_to_box",
    "near_box",
    "paint_guidance",
    "paste_probability",
    "round_box",
    "xywh_to_xyxy",
    "xyxy_to_xywh",
]

CLIP_GROWTH = 0.1  # Box2Seg specification: a mask may leave its box by this share of the box's width and height
JITTER_CLIP = 2.5  # Box2Seg code base: deviations are clipped to 2.5 sigma

Box = NDArray[np.float32]
IntBox = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Margin:
    """How much of its surroundings a crop shows on each side."""

    mode: str = "abs"
    """`abs`: `value` pixels; `rel`: `value` times the box's longer side, at least `min_px`."""
    value: float = 50.0
    min_px: int = 0

    @classmethod
    def parse(cls, text: str) -> Margin:
        """Return the margin that `abs:50` or `rel:0.2,min16` names.

        Raises:
            ShapeError: the text has another form.
        """
        found = re.fullmatch(r"(abs|rel):(\d+(?:\.\d+)?)(?:,min(\d+))?", text.strip())
        if not found:
            raise ShapeError(f"margin {text!r}: expected abs:PIXELS or rel:SHARE,minPIXELS, as abs:50 or rel:0.2,min16")
        return cls(found[1], float(found[2]), int(found[3] or 0))

    def pixels(self, longer_side: int) -> int:
        """Return the margin on every side of a box whose longer side has `longer_side` pixels."""
        if self.mode == "abs":
            return int(self.value)
        return max(int(np.rint(self.value * longer_side)), self.min_px)


def mask_to_box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the tight box of a mask (height, width), or None where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def xywh_to_xyxy(box: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return `x0, y0, x0 + w, y0 + h` of boxes (..., 4) given as `x0, y0, w, h`."""
    return np.concatenate([box[..., :2], box[..., :2] + box[..., 2:]], axis=-1)


def xyxy_to_xywh(box: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return `x0, y0, w, h` of boxes (..., 4) given as `x0, y0, x1, y1`."""
    return np.concatenate([box[..., :2], box[..., 2:] - box[..., :2]], axis=-1)


def clip_box(box: Box, height: int, width: int) -> Box:
    """Return the part of boxes (..., 4) inside the frame; outside of it they have no area."""
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(box, 0, limits).astype(np.float32)


def box_iou(a: Box, b: Box) -> NDArray[np.float64]:
    """Return the IoU of each pair of boxes: (n, 4) and (m, 4) to (n, m), in [0, 1]; 0 where both have no area."""
    a64, b64 = np.asarray(a, np.float64).reshape(-1, 1, 4), np.asarray(b, np.float64).reshape(1, -1, 4)
    low, high = np.maximum(a64[..., :2], b64[..., :2]), np.minimum(a64[..., 2:], b64[..., 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = np.prod(a64[..., 2:] - a64[..., :2], axis=-1) + np.prod(b64[..., 2:] - b64[..., :2], axis=-1)
    union = areas - overlap
    iou: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou


def round_box(box: Box, height: int, width: int) -> IntBox | None:
    """Return the whole pixels of a box: clipped to the frame, rounded half to even, at least one pixel each way.

    Returns:
        `x0, y0, x1, y1`, half-open; None where the box lies wholly outside the frame.
    """
    if box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height:
        return None
    x0, y0, x1, y1 = (int(side) for side in np.rint(clip_box(box, height, width).astype(np.float64)))
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def crop_around(pixels: IntBox, margin: Margin, height: int, width: int) -> IntBox:
    """Return the crop of a rounded box: the box with its margin, clipped to the frame."""
    x0, y0, x1, y1 = pixels
    around = margin.pixels(max(x1 - x0, y1 - y0))
    return max(0, x0 - around), max(0, y0 - around), min(width, x1 + around), min(height, y1 + around)


def paint_guidance(pixels: IntBox, crop: IntBox, size: int) -> NDArray[np.bool_]:
    """Return the filled box as the resized crop shows it: (size, size), sampled by nearest from full resolution."""
    x0, y0, x1, y1 = crop
    columns = x0 + np.arange(size) * (x1 - x0) // size
    rows = y0 + np.arange(size) * (y1 - y0) // size
    inside_x = (columns >= pixels[0]) & (columns < pixels[2])
    inside_y = (rows >= pixels[1]) & (rows < pixels[3])
    return inside_y[:, None] & inside_x[None, :]


def near_box(pixels: IntBox, crop: IntBox) -> NDArray[np.bool_]:
    """Return the pixels of a crop, (height, width), that lie in a box or at most `CLIP_GROWTH` outside it."""
    x0, y0, x1, y1 = pixels
    grow_x, grow_y = round(CLIP_GROWTH * (x1 - x0)), round(CLIP_GROWTH * (y1 - y0))
    columns, rows = np.arange(crop[0], crop[2]), np.arange(crop[1], crop[3])
    inside_x = (columns >= x0 - grow_x) & (columns < x1 + grow_x)
    inside_y = (rows >= y0 - grow_y) & (rows < y1 + grow_y)
    near: NDArray[np.bool_] = inside_y[:, None] & inside_x[None, :]
    return near


def paste_probability(probability: NDArray[np.float32], crop: IntBox, height: int, width: int) -> NDArray[np.float32]:
    """Return a crop's probability (size, size) in the frame (height, width): resized bilinearly, zero outside."""
    x0, y0, x1, y1 = crop
    frame = np.zeros((height, width), np.float32)
    frame[y0:y1, x0:x1] = cv2.resize(probability, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return frame


def jitter_box(box: Box, sigma: float, height: int, width: int, generator: np.random.Generator) -> Box:
    """Return a box whose sides moved independently, as a hurried person draws it.

    Args:
        box: (4,) `xyxy`.
        sigma: standard deviation as a share of the box's width (x sides) and height (y sides).
        height: of the frame, to which the result is clipped.
        width: of the frame.
        generator: source of the four draws.
    """
    shift = sigma * np.clip(generator.standard_normal(4), -JITTER_CLIP, JITTER_CLIP)
    span_x, span_y = box[2] - box[0], box[3] - box[1]
    moved = box + shift * np.array([span_x, span_y, span_x, span_y])
    # With a large sigma opposite sides may cross; the box between them is what was meant.
    ordered = np.concatenate([np.minimum(moved[:2], moved[2:]), np.maximum(moved[:2], moved[2:])])
    return clip_box(ordered.astype(np.float32), height, width)


def loosen_box(box: Box, share: float, height: int, width: int) -> Box:
    """Return a box all of whose sides moved outwards, as a cautious person draws it.

    Args:
        box: (4,) `xyxy`.
        share: of the box's width (x sides) and height (y sides).
        height: of the frame, to which the result is clipped.
        width: of the frame.
    """
    span_x, span_y = box[2] - box[0], box[3] - box[1]
    moved = box + share * np.array([-span_x, -span_y, span_x, span_y])
    return clip_box(moved.astype(np.float32), height, width)
