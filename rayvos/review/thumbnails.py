"""Small pictures of single labels: the given box on the left, the mask made of it on the right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.label_frames import Sides, given_boxes
from rayvos.annotations.records import Clip
from rayvos.errors import RayvosError
from rayvos.masks.rle import rle_box, rle_to_mask
from rayvos.review.contact_sheet import encode_jpeg, scale_label
from rayvos.review.overlays import ObjectLabel, draw_boxes, overlay_image, resize_image
from rayvos.review.run_statistics import WorstLabel
from rayvos.video.source import open_clip

__all__ = ["Thumbnail", "label_thumbnails", "view_around"]

PANEL = (180, 240)  # height, width: two side by side fit four times into a wide window
SURROUNDINGS = 0.5  # of the object's size on each side: enough to see what a mask missed
LEAST_SIDE = 48  # pixels; smaller objects would be blown up beyond recognition
QUALITY = 78


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture of one label, or the reason why there is none."""

    label: WorstLabel
    jpeg: bytes | None
    reason: str = ""


def label_thumbnails(
    labels: Sequence[WorstLabel], clips: Mapping[str, Clip], *, on_label: Callable[[], None] = lambda: None
) -> dict[WorstLabel, Thumbnail]:
    """Return a thumbnail of each label; a frame or mask that cannot be read gives its reason instead.

    Each clip is opened once, and only the frames that are shown are read.

    Args:
        labels: what to show.
        clips: the labels' clips by id.
        on_label: called after each thumbnail.
    """
    by_clip: dict[str, list[WorstLabel]] = {}
    for label in labels:
        by_clip.setdefault(label.clip_id, []).append(label)
    found: dict[WorstLabel, Thumbnail] = {}
    for clip_id, of_clip in by_clip.items():
        try:
            for thumbnail in _thumbnails_of_clip(clips[clip_id], of_clip):
                found[thumbnail.label] = thumbnail
                on_label()
        except RayvosError as error:  # a report on labels whose frames are gone is still a report
            for label in of_clip:
                if label not in found:
                    found[label] = Thumbnail(label, None, f"{error} [{error.code}]")
                    on_label()
    return found


def _thumbnails_of_clip(clip: Clip, labels: Sequence[WorstLabel]) -> Iterator[Thumbnail]:
    boxes = given_boxes(clip)
    wanted: dict[int, list[WorstLabel]] = {}
    for label in labels:
        wanted.setdefault(label.frame, []).append(label)
    with open_clip(clip) as reader:
        for frame, image in reader.read(sorted(wanted)):
            for label in wanted[frame]:
                box = boxes.get(frame, {}).get(label.object_id)
                sides = None if box is None else (box.x0, box.y0, box.x1, box.y1)
                yield Thumbnail(label, encode_jpeg(_draw(image, label, sides), QUALITY))


def _draw(image: NDArray[np.uint8], label: WorstLabel, box: Sides | None) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    mask = rle_to_mask(label.rle, height, width)
    tight = rle_box(label.rle, height, width)
    views = [sides for sides in (box, None if tight is None else tuple(tight.tolist())) if sides is not None]
    x0, y0, x1, y1 = view_around(views, height, width)
    view = np.ascontiguousarray(image[y0:y1, x0:x1])
    moved = None if box is None else (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
    scale = min(PANEL[0] / (y1 - y0), PANEL[1] / (x1 - x0))
    rows, columns = max(1, round((y1 - y0) * scale)), max(1, round((x1 - x0) * scale))
    shown = scale_label(
        ObjectLabel(label.object_id, np.ascontiguousarray(mask[y0:y1, x0:x1]), moved),
        rows, columns, from_height=y1 - y0, from_width=x1 - x0,
    )  # fmt: skip
    small = resize_image(view, rows, columns)
    left = draw_boxes(small, {} if shown.box is None else {label.object_id: shown.box}, tags=False)
    right = overlay_image(small, [ObjectLabel(label.object_id, shown.mask)], tags=False)
    gap = np.full((rows, 4, 3), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def view_around(boxes: Sequence[Sequence[float]], height: int, width: int) -> tuple[int, int, int, int]:
    """Return the part of a frame, xyxy in whole pixels, that shows boxes with some surroundings in a panel's shape.

    Args:
        boxes: xyxy pixel edges; none shows the whole frame.
        height: of the frame.
        width: of the frame.
    """
    if not boxes:
        return 0, 0, width, height
    sides = np.array(boxes, np.float64)
    x0, y0 = sides[:, :2].min(axis=0)
    x1, y1 = sides[:, 2:].max(axis=0)
    wide, high = (max(side * (1 + 2 * SURROUNDINGS), LEAST_SIDE) for side in (x1 - x0, y1 - y0))
    aspect = PANEL[1] / PANEL[0]
    wide, high = max(wide, high * aspect), max(high, wide / aspect)
    left, right = _span((x0 + x1) / 2, wide, width)
    top, bottom = _span((y0 + y1) / 2, high, height)
    return left, top, right, bottom


def _span(middle: float, length: float, limit: int) -> tuple[int, int]:
    """Return a range of `length` around `middle`, moved and cut to lie inside 0…limit."""
    size = max(1, min(limit, round(length)))
    start = int(np.clip(round(middle - size / 2), 0, limit - size))
    return start, start + size
