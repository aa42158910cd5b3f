"""Contact sheets: some frames of a clip, the boxes that were given on the left, the masks made of them on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rayvos.errors import InputError
from rayvos.review.overlays import ObjectLabel, draw_boxes, fit_scale, overlay_image, resize_image

__all__ = [
    "SheetFrame",
    "contact_sheet",
    "encode_jpeg",
    "evenly_spaced",
    "panel_sheet",
    "scale_box",
    "scale_label",
]

GROUND = (17, 20, 26)
INK = (232, 234, 238)
FAINT_INK = (150, 156, 168)
JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True, eq=False)
class SheetFrame:
    """One row of a contact sheet, in pixels of its image."""

    frame: int
    image: NDArray[np.uint8]
    """RGB (height, width, 3)."""
    boxes: Mapping[int, Sequence[float]]
    """Given boxes by object id, xyxy pixel edges."""
    labels: Sequence[ObjectLabel]
    """What was made of them."""


def evenly_spaced(num_frames: int, num_wanted: int) -> list[int]:
    """Return up to `num_wanted` different positions of 0…num_frames-1: the middles of equal parts."""
    count = min(num_frames, num_wanted)
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


def scale_box(box: Sequence[float], scale_x: float, scale_y: float) -> tuple[float, float, float, float]:
    """Return an xyxy box in the pixels of a picture resized by the two factors."""
    return box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y


def scale_label(label: ObjectLabel, height: int, width: int, *, from_height: int, from_width: int) -> ObjectLabel:
    """Return a label for the picture resized to (height, width); a mask's pixel is on where half of it is covered."""
    if (height, width) == (from_height, from_width):
        return label
    mask = label.mask
    if mask is not None:
        covered = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        mask = np.asarray(covered >= 0.5)
    box = label.box
    if box is not None:
        box = scale_box(box, width / from_width, height / from_height)
    return ObjectLabel(label.object_id, mask, box, label.score)


def contact_sheet(
    rows: Sequence[SheetFrame],
    *,
    title: str,
    max_side: int = 480,
    headings: tuple[str, str] = ("boxes in", "masks out"),
) -> NDArray[np.uint8]:
    """Return one picture: a row per frame, its boxes on the left and its masks on the right.

    Args:
        rows: the frames, all of one size, in order.
        title: written on top; shortened where it does not fit.
        max_side: longer side of each panel in pixels.
        headings: over the left and the right column.

    Raises:
        InputError: there is no row.
    """
    if not rows:
        raise InputError(f"contact sheet {title!r}: expected at least one frame, found none; label the clip first")
    from_height, from_width = rows[0].image.shape[:2]
    scale = fit_scale(from_height, from_width, max_side)
    height, width = max(1, round(from_height * scale)), max(1, round(from_width * scale))
    panels = [(f"frame {row.frame}", _left_panel(row, height, width), _right_panel(row, height, width)) for row in rows]
    return panel_sheet(panels, title=title, headings=headings)


def panel_sheet(
    rows: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]], *, title: str, headings: tuple[str, str]
) -> NDArray[np.uint8]:
    """Return one picture of rows of two panels.

    Args:
        rows: at least one: (text in the left panel, left, right), all panels RGB and of one size.
        title: written on top; shortened where it does not fit.
        headings: over the left and the right column.
    """
    height, width = rows[0][1].shape[:2]
    gap = max(4, width // 60)
    type_px = max(11, width // 30)
    head = type_px * 4
    sheet = np.empty((head + len(rows) * (height + gap), 2 * width + 3 * gap, 3), np.uint8)
    sheet[:] = GROUND
    for number, (_, left, right) in enumerate(rows):
        top = head + number * (height + gap)
        sheet[top : top + height, gap : gap + width] = left
        sheet[top : top + height, 2 * gap + width : 2 * (gap + width)] = right
    return _write_texts(sheet, title, headings, [text for text, _, _ in rows], gap, type_px, (head, height, width))


def _left_panel(row: SheetFrame, height: int, width: int) -> NDArray[np.uint8]:
    from_height, from_width = row.image.shape[:2]
    boxes = {key: scale_box(box, width / from_width, height / from_height) for key, box in row.boxes.items()}
    return draw_boxes(resize_image(row.image, height, width), boxes)


def _right_panel(row: SheetFrame, height: int, width: int) -> NDArray[np.uint8]:
    from_height, from_width = row.image.shape[:2]
    labels = [scale_label(label, height, width, from_height=from_height, from_width=from_width) for label in row.labels]
    return overlay_image(resize_image(row.image, height, width), labels)


def _write_texts(
    sheet: NDArray[np.uint8],
    title: str,
    headings: tuple[str, str],
    texts: Sequence[str],
    gap: int,
    type_px: int,
    panel: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Write title, column headings and the rows' texts; `panel` is (head, height, width)."""
    head, height, width = panel
    picture = Image.fromarray(sheet)
    draw = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(round(type_px * 1.15)), ImageFont.load_default(type_px)
    room = sheet.shape[1] - 2 * gap
    while len(title) > 1 and draw.textlength(title, font=large) > room:
        title = f"{title[:-2]}…"
    draw.text((gap, type_px * 0.5), title, font=large, fill=INK)
    for column, heading in enumerate(headings):
        draw.text((gap + column * (width + gap), type_px * 2.35), heading, font=small, fill=FAINT_INK)
    for number, text in enumerate(texts):
        bottom = head + number * (height + gap) + height - type_px * 0.5
        place = (gap + type_px * 0.5, bottom)
        draw.text(place, text, font=small, fill=INK, anchor="ls", stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def encode_jpeg(image: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """Return an RGB picture as JPEG; the same picture gives the same bytes."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok, "OpenCV encodes every RGB picture"
    return bytes(data)
