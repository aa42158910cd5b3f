"""Contact sheets of candidates: what was given of an object on the left, the points to ask about on the right."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayvos.annotations.records import Clip
from rayvos.engines.candidates.key_prompts import key_frames, key_prompts
from rayvos.masks.rle import rle_to_mask
from rayvos.review.contact_sheet import evenly_spaced, panel_sheet, scale_label
from rayvos.review.overlays import ObjectLabel, fit_scale, object_color, overlay_image, resize_image
from rayvos.video.source import open_clip

__all__ = ["candidate_sheet"]

KIND_COLORS = {"foreground": (82, 217, 121), "ambiguous": (255, 197, 41), "background": (255, 82, 82)}
MOST_OBJECTS = 20  # of one sheet; with more it would be taller than a JPEG may be
RADIUS = 1 / 60  # of the panel's width


def candidate_sheet(clip: Clip, candidates: pa.Table, *, num_frames: int = 4, max_side: int = 480) -> NDArray[np.uint8]:
    """Return a sheet with rows for each object: its key frame, then evenly spaced frames that carry candidates.

    On the left stands what was given on the frame: masks, boxes, traces, points. On the right are the candidates,
    rings around their pixels: green where the object is likely, yellow where it is uncertain, red where it is not.

    Args:
        clip: the clip, with its prompts.
        candidates: its rows of `tables.CANDIDATES`, at least one.
        num_frames: frames of each object besides its key frame.
        max_side: longer side of each panel in pixels.

    Raises:
        InputError: a frame cannot be read.
    """
    by_place: dict[int, dict[int, list[dict[str, int | str]]]] = {}
    for row in candidates.to_pylist():
        by_place.setdefault(row["object_id"], {}).setdefault(row["frame"], []).append(row)
    starts = _start_frames(clip)
    rows = []
    for object_id, frames in sorted(by_place.items())[:MOST_OBJECTS]:
        carrying = sorted(frames)
        chosen = {carrying[position] for position in evenly_spaced(len(carrying), num_frames)}
        if object_id in starts:
            rows.append((object_id, starts[object_id]))
        rows += [(object_id, frame) for frame in sorted(chosen)]
    with open_clip(clip) as reader:
        pictures = dict(reader.read(sorted({frame for _, frame in rows})))
    scale = fit_scale(clip.height, clip.width, max_side)
    size = max(1, round(clip.height * scale)), max(1, round(clip.width * scale))
    panels = []
    for object_id, frame in rows:
        image = resize_image(pictures[frame], *size)
        right = _draw_candidates(image, by_place[object_id].get(frame, []), size[1] / clip.width)
        panels.append((f"object {object_id}, frame {frame}", _draw_given(image, clip, object_id, frame), right))
    title = f"{clip.clip_id} · {candidates.num_rows} candidates of {len(by_place)} objects"
    return panel_sheet(panels, title=title, headings=("given", "candidates: likely, uncertain, unlikely"))


def _start_frames(clip: Clip) -> Mapping[int, int]:
    """Return the first frame with what each object's candidates start from."""
    used = key_prompts(clip)
    masked = {mask.object_id: mask.frame for mask in reversed(used.masks) if mask.rle is not None}
    return masked | key_frames(used)


def _draw_given(image: NDArray[np.uint8], clip: Clip, object_id: int, frame: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    masks = [m for m in clip.masks if (m.object_id, m.frame) == (object_id, frame) and m.rle is not None]
    boxes = [b for b in clip.boxes if (b.object_id, b.frame) == (object_id, frame) and b.visible]
    label = ObjectLabel(
        object_id,
        rle_to_mask(masks[0].rle, clip.height, clip.width) if masks and masks[0].rle is not None else None,
        (boxes[0].x0, boxes[0].y0, boxes[0].x1, boxes[0].y1) if boxes else None,
    )
    drawn = overlay_image(
        image, [scale_label(label, height, width, from_height=clip.height, from_width=clip.width)], tags=False
    )
    scale = np.array([width / clip.width, height / clip.height])
    for trace in clip.traces:
        if (trace.object_id, trace.frame) == (object_id, frame):
            line = np.rint((np.stack([trace.x, trace.y], axis=1) + 0.5) * scale - 0.5).astype(np.int32)
            for color, thickness in (((0, 0, 0), 4), (object_color(object_id), 2)):
                cv2.polylines(drawn, [line[:, None]], False, color, thickness, cv2.LINE_AA)
    for point in clip.points:
        if (point.object_id, point.frame) == (object_id, frame):
            kind = {"positive": "foreground", "negative": "background"}.get(point.label, "ambiguous")
            _draw_ring(drawn, point.x, point.y, scale[0], KIND_COLORS[kind])
    return drawn


def _draw_candidates(image: NDArray[np.uint8], rows: list[dict[str, int | str]], scale: float) -> NDArray[np.uint8]:
    drawn = image.copy()
    for row in rows:
        _draw_ring(drawn, float(row["x"]), float(row["y"]), scale, KIND_COLORS[str(row["kind"])])
    return drawn


def _draw_ring(image: NDArray[np.uint8], x: float, y: float, scale: float, color: tuple[int, int, int]) -> None:
    """Draw a ring that leaves its middle free."""
    centre = round((x + 0.5) * scale - 0.5), round((y + 0.5) * scale - 0.5)
    radius = max(3, round(RADIUS * image.shape[1]))
    cv2.circle(image, centre, radius, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.circle(image, centre, radius, color, 2, cv2.LINE_AA)
