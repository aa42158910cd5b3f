"""What STA sees of a frame around a box, and the way of its logits back into the frame.

A crop has four times the box's extent (the geometric mean of its sides) and the aspect ratio of the network's input;
it is moved into the frame where it can be, and where the frame is too small it sticks out evenly, edge pixels
repeated. Its place is computed in float32 in the authors' order, because a limited crop is rounded right after.
Source: STA, evaluation code. Differs: each axis is scaled by its own factor (the authors swap the two), the offset of
a decimated crop is kept when boxes and logits are placed, and negative starts are clipped, not wrapped.

Boxes of this module are `x, y, width, height`, as the authors round and truncate each of the four by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

__all__ = [
    "OUTSIDE", "Crop", "cut_crop", "cut_edges_repeated", "label_map", "moved_inside", "paint_box", "paste_logits",
    "place_crop",
]  # fmt: skip

OUTSIDE = -100.0  # the authors' logit where an object cannot be
PROBABILITY_EPSILON = 1e-7  # STA, merging of objects

XYWH = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Crop:
    """Where a crop lies in its frame."""

    top: int
    left: int
    bottom: int
    right: int
    """Of the decimated frame, half-open; may stick out of it."""
    decimation: int
    """Every so many pixels of the frame are one of the decimated frame."""
    offset: tuple[int, int]
    """(y, x) of the first pixel that is kept."""
    size: tuple[int, int]
    """(height, width) of the network's input."""

    @property
    def scale(self) -> tuple[float, float]:
        """Input pixels per pixel of the frame, (y, x)."""
        return (
            self.size[0] / (self.decimation * (self.bottom - self.top)),
            self.size[1] / (self.decimation * (self.right - self.left)),
        )

    @property
    def area(self) -> tuple[int, int, int, int]:
        """`y0, x0, y1, x1` of the crop in pixels of the frame."""
        step, (y, x) = self.decimation, self.offset
        return self.top * step + y, self.left * step + x, self.bottom * step + y, self.right * step + x

    def inside(self, box: XYWH) -> XYWH:
        """Return a box of the frame in pixels of the network's input."""
        (scale_y, scale_x), (y0, x0) = self.scale, self.area[:2]
        x, y, width, height = box
        return np.array([(x - x0) * scale_x, (y - y0) * scale_y, width * scale_x, height * scale_y])


def place_crop(box: XYWH, frame_size: tuple[int, int], size: tuple[int, int], context: float) -> Crop:
    """Return the crop for a box.

    Args:
        box: `x, y, width, height` in pixels of the frame; may lie anywhere and be larger than the frame.
        frame_size: (height, width) of the frame.
        size: (height, width) of the network's input.
        context: extent of the crop in extents of the box.
    """
    x, y, width, height = box.astype(np.float32)
    centre = np.array([y + (height - 1) / 2, x + (width - 1) / 2], np.float32)
    extent = np.sqrt(np.prod(np.array([height, width], np.float32) * np.float32(context)))
    wanted = extent / np.sqrt(np.float32(size[0] * size[1])) * np.array(size, np.float32)
    shrink = np.maximum(np.float32(1), (wanted / np.array(frame_size, np.float32)).min())
    wanted = np.trunc(wanted / shrink)
    step = max(1, int(float((wanted / np.array(size, np.float32)).min()) - 0.1))
    first = np.trunc(centre).astype(np.int64) % step if step > 1 else np.zeros(2, np.int64)
    pixel = (np.trunc(centre).astype(np.int64) - first) // step
    count = np.maximum(np.rint(wanted / step), 2).astype(np.int64)
    low = pixel - (count - 1) // 2
    high = pixel + count // 2 + 1
    # What the decimated frame holds: first, first + step, …
    limits = -((first - np.array(frame_size)) // step)
    for axis in range(2):
        low[axis], high[axis] = moved_inside(int(low[axis]), int(high[axis]), int(limits[axis]))
    offset = (int(first[0]), int(first[1]))
    return Crop(int(low[0]), int(low[1]), int(high[0]), int(high[1]), step, offset, size)


def moved_inside(low: int, high: int, limit: int) -> tuple[int, int]:
    """Return the interval moved inside 0…limit, or evenly around it."""
    shift = max(0, -low) - max(0, high - limit)
    low, high = low + shift, high + shift
    around = (max(0, -low) + max(0, high - limit)) // 2
    return (-around, high - low - around) if around > 0 else (low, high)


def cut_crop(image: NDArray[np.uint8], crop: Crop) -> NDArray[np.uint8]:
    """Return the crop's own pixels: RGB uint8 (height, width, 3), decimated, edges repeated, not resized."""
    step, (first_y, first_x) = crop.decimation, crop.offset
    return cut_edges_repeated(image[first_y::step, first_x::step], crop.top, crop.bottom, crop.left, crop.right)


def cut_edges_repeated(image: NDArray[np.uint8], top: int, bottom: int, left: int, right: int) -> NDArray[np.uint8]:
    """Return rows `top` to `bottom` - 1 and columns `left` to `right` - 1, its edges repeated where it has no pixels.

    Args:
        image: uint8 (height, width) or (height, width, 3).
        top: first row, may be negative.
        bottom: row behind the last one, may be outside.
        left: first column.
        right: column behind the last one.
    """
    rows, above, below = _inside(top, bottom, image.shape[0])
    columns, before, behind = _inside(left, right, image.shape[1])
    inside = np.ascontiguousarray(image[rows, columns])
    if not any((above, below, before, behind)):
        return inside
    return cv2.copyMakeBorder(inside, above, below, before, behind, cv2.BORDER_REPLICATE).astype(np.uint8, copy=False)


def _inside(start: int, stop: int, length: int) -> tuple[slice, int, int]:
    """Return the part of an interval inside 0…length, one pixel at least, and how much is missing on both sides."""
    low, high = min(max(start, 0), length - 1), max(min(stop, length), 1)
    # An interval that lies outside as a whole has nothing but the edge: `stop - start` times.
    missing = stop - start - (high - low)
    before = min(max(low - start, 0), missing)
    return slice(low, high), before, missing - before


def paint_box(box: XYWH, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the box painted True: (height, width); empty where nothing of it is inside.

    Each number is cut to a whole one by itself, and negative ones move one up, as the network was trained.
    """
    x, y, width, height = (int(int(value) + 0.5) for value in box)
    painted = np.zeros(size, np.bool_)
    painted[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = True
    return painted


def paste_logits(
    logits: NDArray[np.float32], crop: Crop, box: XYWH, frame_size: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return the logits inside the box, in the frame's own pixels; everywhere else they are `OUTSIDE`.

    Args:
        logits: (height, width) of the network's input.
        crop: where they belong.
        box: `x, y, width, height` in pixels of the frame; rounded half to even, each number by itself.
        frame_size: (height, width) of the frame.

    Returns:
        logits of the box's part inside the frame, and the (y, x) where they start; no rows or no columns where the
        box lies outside.
    """
    x, y, width, height = (int(value) for value in np.rint(box))
    y0, x0 = min(max(0, y), frame_size[0]), min(max(0, x), frame_size[1])
    y1, x1 = min(max(y0, y + height), frame_size[0]), min(max(x0, x + width), frame_size[1])
    part = np.full((y1 - y0, x1 - x0), OUTSIDE, np.float32)
    resized, (top, left) = _resize_to_frame(logits, crop)
    low_y, high_y = max(y0, top), min(y1, top + resized.shape[0])
    low_x, high_x = max(x0, left), min(x1, left + resized.shape[1])
    if low_y < high_y and low_x < high_x:
        part[low_y - y0 : high_y - y0, low_x - x0 : high_x - x0] = resized[
            low_y - top : high_y - top, low_x - left : high_x - left
        ]
    return part, (y0, x0)


def _resize_to_frame(logits: NDArray[np.float32], crop: Crop) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return logits in the frame's resolution and the (y, x) where they start."""
    y0, x0, y1, x1 = (np.float32(side) for side in crop.area)
    height, width = crop.size
    scale = float(np.sqrt((y1 - y0) / np.float32(height) * ((x1 - x0) / np.float32(width))))
    maps = torch.from_numpy(logits)[None, None]
    resized = F.interpolate(maps, scale_factor=scale, mode="bilinear", align_corners=False)[0, 0].numpy()
    top = int((y0 + y1 - 1) / 2 - 0.5 * resized.shape[0])
    left = int((x0 + x1 - 1) / 2 - 0.5 * resized.shape[1])
    return resized, (top, left)


def label_map(
    parts: Sequence[tuple[NDArray[np.float32], tuple[int, int]]], frame_size: tuple[int, int]
) -> NDArray[np.uint16]:
    """Merge the objects of a frame: each pixel goes to the most probable of background and objects.

    Args:
        parts: logits of each object as `paste_logits` gives them.
        frame_size: (height, width) of the frame.

    Returns:
        (height, width): 0 on the background, position in `parts` plus 1 on an object.
    """
    labels = np.zeros(frame_size, np.uint16)
    filled = [(part, start) for part, start in parts if part.size]
    if not filled:
        return labels
    if len(parts) == 1:
        (part, (top, left)) = filled[0]
        labels[top : top + part.shape[0], left : left + part.shape[1]] = part > 0
        return labels
    y0, x0 = (min(start[axis] for _, start in filled) for axis in range(2))
    y1, x1 = (max(start[axis] + part.shape[axis] for part, start in filled) for axis in range(2))
    logits = np.full((len(parts), y1 - y0, x1 - x0), OUTSIDE, np.float32)
    for position, (part, (top, left)) in enumerate(parts):
        if part.size:
            logits[position, top - y0 : top - y0 + part.shape[0], left - x0 : left - x0 + part.shape[1]] = part
    with np.errstate(over="ignore"):  # exp(100) is infinite in float32, and 1 / infinity the right answer
        probability = 1 / (1 + np.exp(-logits))
    nobody = np.clip((1 - probability).prod(0), PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    background = np.log(nobody / (1 - nobody))
    best = logits.argmax(0)
    # A softmax keeps the order of its arguments: the largest logit wins.
    wins = np.take_along_axis(logits, best[None], 0)[0] > background
    labels[y0:y1, x0:x1] = np.where(wins, best + 1, 0)
    return labels
