"""Pictures of labels: masks in colour over the frame, with outline, box, object id and score.

An object keeps its colour over all frames and runs, since the colour is a function of its id alone. Line widths and
type grow with the picture, so that a thumbnail and a 4K frame look alike.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rayvos.errors import ShapeError

__all__ = ["ObjectLabel", "draw_boxes", "fit_scale", "object_color", "overlay_image", "resize_image", "text_tag"]

BoxSides = Sequence[float]

# Neighbours in id differ most; all stay readable on grass, sky and asphalt. Later ids step round the colour circle.
_FIRST_COLORS = (
    (54, 162, 255),
    (255, 82, 82),
    (255, 197, 41),
    (82, 217, 121),
    (199, 110, 255),
    (255, 138, 51),
    (38, 214, 208),
    (255, 105, 180),
    (178, 214, 51),
    (112, 128, 255),
)
_GOLDEN_TURN = 0.618033988749895  # successive hues never come close to each other
FILL_OPACITY = 0.48
RIM_OPACITY = 0.45
BOX_WIDTH = 2  # thinner lines lose their colour in video, which halves its resolution


@dataclass(frozen=True, slots=True, eq=False)
class ObjectLabel:
    """What is drawn of one object on one frame."""

    object_id: int
    mask: NDArray[np.bool_] | None = None
    """(height, width) of the picture, True on the object; None draws no mask."""
    box: BoxSides | None = None
    """xyxy pixel edges of the picture; None draws no box."""
    score: float | None = None
    """Predicted IoU in [0, 1], written beside the id."""


@lru_cache(maxsize=1024)
def object_color(object_id: int) -> tuple[int, int, int]:
    """Return an object's RGB colour; the same id has the same colour everywhere."""
    position = object_id - 1
    if 0 <= position < len(_FIRST_COLORS):
        return _FIRST_COLORS[position]
    hue = (position * _GOLDEN_TURN) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.62 + 0.16 * (position % 3), 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def fit_scale(height: int, width: int, max_side: int | None) -> float:
    """Return the factor (at most 1) that brings the longer side to `max_side` pixels; 1 where it is None."""
    return 1.0 if max_side is None else min(1.0, max_side / max(height, width))


def resize_image(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return the picture resized for viewing: averaged when it shrinks, smoothed when it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def overlay_image(image: NDArray[np.uint8], labels: Sequence[ObjectLabel], *, tags: bool = True) -> NDArray[np.uint8]:
    """Return a copy of the picture with its labels drawn over it.

    Args:
        image: RGB (height, width, 3).
        labels: the objects in the order they are painted: of two that share a pixel, the later one is on top.
        tags: write ids and scores beside the objects.

    Raises:
        ShapeError: the picture is not RGB uint8, or a mask has another size.
    """
    _check_image(image)
    canvas = image.copy()
    for label in labels:
        if label.mask is not None:
            _paint_mask(canvas, label.mask, object_color(label.object_id))
    for label in labels:
        if label.mask is not None:
            _draw_outline(canvas, label.mask, object_color(label.object_id))
    return _draw_boxes_and_tags(canvas, labels, tags=tags)


def draw_boxes(image: NDArray[np.uint8], boxes: Mapping[int, BoxSides], *, tags: bool = True) -> NDArray[np.uint8]:
    """Return a copy of the picture with boxes by object id: the prompts as a person gave them.

    Args:
        image: RGB (height, width, 3).
        boxes: xyxy pixel edges by object id; they may stick out of the picture.
        tags: write the ids beside the boxes.

    Raises:
        ShapeError: the picture is not RGB uint8.
    """
    _check_image(image)
    labels = [ObjectLabel(object_id, box=box) for object_id, box in boxes.items()]
    return _draw_boxes_and_tags(image.copy(), labels, tags=tags)


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(f"image: expected RGB uint8 (height, width, 3), found {image.dtype} {image.shape}")


def _line_px(image: NDArray[np.uint8]) -> float:
    """Return the basic line width: 1 at 480p and below, 4.5 at 4K."""
    return max(1.0, float(min(image.shape[:2])) / 480)


def _paint_mask(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    if mask.shape != canvas.shape[:2]:
        raise ShapeError(f"mask: expected the picture's {canvas.shape[:2]}, found {mask.shape}")
    inside = canvas[mask].astype(np.float32)
    canvas[mask] = np.rint(inside * (1 - FILL_OPACITY) + np.array(color, np.float32) * FILL_OPACITY).astype(np.uint8)


def _draw_outline(canvas: NDArray[np.uint8], mask: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    """Draw the contour in a light tint over a soft dark rim, so that it shows on any ground."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    line = _line_px(canvas)
    rim = canvas.copy()
    cv2.drawContours(rim, contours, -1, (0, 0, 0), round(line + 2), cv2.LINE_AA)
    cv2.addWeighted(rim, RIM_OPACITY, canvas, 1 - RIM_OPACITY, 0, dst=canvas)
    tint = tuple(round(part * 0.75 + 255 * 0.25) for part in color)
    cv2.drawContours(canvas, contours, -1, tint, max(1, round(line)), cv2.LINE_AA)


def _draw_boxes_and_tags(canvas: NDArray[np.uint8], labels: Sequence[ObjectLabel], *, tags: bool) -> NDArray[np.uint8]:
    height, width = canvas.shape[:2]
    line = max(1, round(_line_px(canvas) * BOX_WIDTH))
    boxes = [(label, _corners(label.box, height, width)) for label in labels if label.box is not None]
    if boxes:
        rim = canvas.copy()
        for _, (x0, y0, x1, y1) in boxes:
            cv2.rectangle(rim, (x0, y0), (x1, y1), (0, 0, 0), line + 2, cv2.LINE_8)
        cv2.addWeighted(rim, RIM_OPACITY, canvas, 1 - RIM_OPACITY, 0, dst=canvas)
    for label, (x0, y0, x1, y1) in boxes:
        cv2.rectangle(canvas, (x0, y0), (x1, y1), object_color(label.object_id), line, cv2.LINE_8)
    if tags:
        taken: list[tuple[int, int, int, int]] = []
        for label in labels:
            place = _tag_place(label)
            if place is not None:
                _draw_tag(canvas, label, place, taken)
    return canvas


def _corners(box: BoxSides, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the corner pixels of a box inside the picture; half-open edges end on the last pixel they cover."""
    x0, y0 = (int(np.clip(round(side), 0, limit - 1)) for side, limit in zip(box[:2], (width, height), strict=True))
    x1, y1 = (int(np.clip(round(side) - 1, 0, limit - 1)) for side, limit in zip(box[2:], (width, height), strict=True))
    return x0, y0, max(x0, x1), max(y0, y1)


def _tag_place(label: ObjectLabel) -> tuple[int, int] | None:
    """Return the top left corner of what is drawn of the object, None where nothing is."""
    if label.box is not None:
        return round(label.box[0]), round(label.box[1])
    if label.mask is None or not label.mask.any():
        return None
    return int(np.flatnonzero(label.mask.any(axis=0))[0]), int(np.flatnonzero(label.mask.any(axis=1))[0])


def _draw_tag(
    canvas: NDArray[np.uint8], label: ObjectLabel, place: tuple[int, int], taken: list[tuple[int, int, int, int]]
) -> None:
    text = str(label.object_id) if label.score is None else f"{label.object_id}  {label.score:.2f}"
    shape = text_tag(text, max(11, round(min(canvas.shape[:2]) / 36)))
    height, width = min(shape.shape[0], canvas.shape[0]), min(shape.shape[1], canvas.shape[1])
    x = int(np.clip(place[0], 0, canvas.shape[1] - width))
    y = int(np.clip(place[1] - height, 0, canvas.shape[0] - height))
    for _ in range(8):  # step down past tags that are there already; a crowd may overlap in the end
        if not any(x < x1 and x0 < x + width and y < y1 and y0 < y + height for x0, y0, x1, y1 in taken):
            break
        y = min(y + height + 1, canvas.shape[0] - height)
    taken.append((x, y, x + width, y + height))
    color = np.array(object_color(label.object_id), np.float32)
    ink = np.float32(20.0 if color @ np.array([0.299, 0.587, 0.114], np.float32) > 130 else 255.0)  # luma, BT.601
    plate, letters = shape[:height, :width, :1], shape[:height, :width, 1:]
    region = canvas[y : y + height, x : x + width].astype(np.float32)
    region += (color - region) * plate
    region += (ink - region) * letters
    canvas[y : y + height, x : x + width] = np.rint(region).astype(np.uint8)


@lru_cache(maxsize=4096)
def text_tag(text: str, size_px: int) -> NDArray[np.float32]:
    """Return a rounded plate with text: (height, width, 2), coverage in [0, 1] of the plate and of its letters."""
    font = ImageFont.load_default(size_px)
    left, top, right, bottom = font.getbbox(text)
    line_height = sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else bottom - top
    pad = max(2, size_px // 4)
    size = (round(right - left) + 2 * pad, round(line_height) + pad // 2)
    plate, letters = Image.new("L", size, 0), Image.new("L", size, 0)
    ImageDraw.Draw(plate).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=pad, fill=235)
    ImageDraw.Draw(letters).text((pad - left, pad // 4), text, font=font, fill=255)
    return np.stack([np.asarray(plate, np.float32), np.asarray(letters, np.float32)], axis=2) / np.float32(255)
