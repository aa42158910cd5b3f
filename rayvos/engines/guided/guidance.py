"""What the guided segmenter looks at: the planes of one crop, computed alike for training and for labelling.

A prompt says where an object is: a box, points, a trace, or a mask that is about right. Its region is the box, or
what the other kinds let expect of one; the region with a margin is the crop. On the crop lie the picture, what the
person drew, how much the colours are those of the region, and the cuts and motions of `rayvos.engines.cut.crop_cuts`.
Planes are int8, 127 standing for 1, so that training samples are small; a plane that does not apply is zero.

Array layouts: C planes in the order of `rayvos.models.guided.PLANES`, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.cut.crop_cuts import (
    Crop,
    box_fit,
    crop_residuals,
    cut_pictures,
    cut_votes,
    ellipse,
    grab_cut,
    is_cuttable,
    outside_box,
    place_crop,
)
from rayvos.errors import InputError
from rayvos.masks.boxes import IntBox, mask_to_box, round_box
from rayvos.masks.resizing import resize_plane
from rayvos.masks.traces import render_trace, trace_square
from rayvos.models.guided import PLANES

__all__ = ["CUT_SIDE", "OFFSETS", "UNIT", "Guidance", "Prompt", "guidance_planes", "paste_crop", "prompt_region"]

UNIT = 127  # int8 value of 1
OFFSETS = (-1, 1, -4, 4)  # partners of the engine `cut`; planes near_before, near_after, far_before, far_after
CUT_SIDE = (
    128  # longest side of the grid that is cut, as in the engine `cut`; 64 takes a quarter of its time, but loses
)
ITERATIONS = 2
MARGIN = 0.25  # of a box's longer side
ESTIMATED_MARGIN = 0.5  # of a region's that is only expected
LIKELIHOOD_SIDE = 128  # longest side of the grid of the colour likelihood, about
BINS = 12  # of each Lab channel
REGION_BLUR = 0.06  # of the crop's side
DISC_RADIUS = 0.025  # of the crop's side: 3 px at 128
POINTS_GROWTH = 0.3  # ten points in an object span about three quarters of it
LONE_POINT = 0.3  # of the frame's short side: what one point alone lets expect
PREVIOUS_GROWTH = 0.05


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prompt:
    """What a person, or an earlier step, said of one object on one frame."""

    box: NDArray[np.float32] | None = None
    """(4,) xyxy edges."""
    positives: NDArray[np.float64] | None = None
    """(N, 2) points (x, y) on the object, at pixel centres."""
    negatives: NDArray[np.float64] | None = None
    """(N, 2) points beside it."""
    trace: tuple[NDArray[np.float64], ...] = ()
    """Polylines (N, 2) on the object, as `render_trace` takes them."""
    previous: NDArray[np.float32] | None = None
    """(height, width) of the frame, a mask or probability in [0, 1] that is about right."""


@dataclass(frozen=True, slots=True, eq=False)
class Guidance:
    """The planes of one crop, and where it lies."""

    planes: NDArray[np.int8]
    """(C, size, size)."""
    crop: Crop
    boxed: bool
    """Whether the region was given as a box."""
    fit: float
    """Mean box fit of the cuts; 0 where there are none."""


def prompt_region(prompt: Prompt, height: int, width: int) -> IntBox | None:
    """Return the whole pixels in which the object is expected; None where they lie outside the frame.

    Raises:
        InputError: the prompt says nothing of where the object is.
    """
    if prompt.box is not None:
        return round_box(prompt.box, height, width)
    if prompt.previous is not None and (tight := mask_to_box(prompt.previous >= 0.5)) is not None:
        return round_box(_grown(tight, PREVIOUS_GROWTH), height, width)
    if prompt.trace:
        drawn = render_trace(prompt.trace, height, width)
        if not drawn.any():
            return None
        x, y, side = trace_square(drawn)
        around = mask_to_box(drawn)
        assert around is not None, "it has pixels"
        square = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)
        return round_box(_union(square, around), height, width)
    if prompt.positives is not None and len(prompt.positives):
        low, high = prompt.positives.min(axis=0), prompt.positives.max(axis=0) + 1
        spread = np.array([*low, *high], np.float32)
        if len(prompt.positives) < 3:
            reach = LONE_POINT * min(height, width) / 2
            return round_box(spread + np.array([-reach, -reach, reach, reach], np.float32), height, width)
        return round_box(_grown(spread, POINTS_GROWTH), height, width)
    raise InputError("prompt: expected a box, positive points, a trace or a mask with pixels, found none of them")


def _grown(box: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    grow = share * max(float(box[2] - box[0]), float(box[3] - box[1]))
    return box + np.array([-grow, -grow, grow, grow], np.float32)


def _union(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def guidance_planes(
    image: NDArray[np.uint8],
    prompt: Prompt,
    flows: Mapping[int, NDArray[np.float32]],
    scale: float,
    size: int,
    *,
    cut_side: int = CUT_SIDE,
) -> Guidance | None:
    """Return the planes of a prompt, or None where its region lies outside the frame.

    Args:
        image: RGB (height, width, 3).
        prompt: of one object.
        flows: offset of `OFFSETS` → flow to that frame (`rayvos.engines.motion.dense_flow`); absent ones are not there.
        scale: pixels of the flow grid per pixel of the frame.
        size: height and width of the planes.
        cut_side: longest side of the grid on which cuts are made and motion is looked at.

    Raises:
        InputError: the prompt says nothing of where the object is.
    """
    height, width = image.shape[:2]
    region = prompt_region(prompt, height, width)
    if region is None:
        return None
    boxed = prompt.box is not None
    crop = place_crop(region, MARGIN if boxed else ESTIMATED_MARGIN, cut_side, height, width)
    planes: dict[str, NDArray[np.float32]] = {}
    _draw_picture(planes, image, crop, size)
    _draw_prompt(planes, prompt, crop, size)
    outside = outside_box(crop)
    residuals = crop_residuals(crop, outside, flows, scale)
    _draw_motion(planes, residuals, size)
    fit = 0.0
    if is_cuttable(crop, outside):
        fit = _draw_cuts(planes, image, crop, residuals, size)
        planes["color_likelihood"] = resize_plane(_color_likelihood(image, crop), size, size)
    else:
        planes["vote"] = resize_plane(ellipse(crop.inner, crop.size).astype(np.float32), size, size)
    stack = np.zeros((len(PLANES), size, size), np.int8)
    for position, name in enumerate(PLANES):
        if name in planes:
            stack[position] = np.rint(np.clip(planes[name], -1, 1) * UNIT)
    return Guidance(stack, crop, boxed, fit)


def _draw_picture(planes: dict[str, NDArray[np.float32]], image: NDArray[np.uint8], crop: Crop, size: int) -> None:
    x0, y0, x1, y1 = crop.area
    shown = resize_plane(image[y0:y1, x0:x1], size, size) / 127.5 - 1
    planes["red"], planes["green"], planes["blue"] = shown[..., 0], shown[..., 1], shown[..., 2]


def _draw_prompt(planes: dict[str, NDArray[np.float32]], prompt: Prompt, crop: Crop, size: int) -> None:
    """Draw box, region, points, trace and previous mask."""
    x0, y0, x1, y1 = crop.area
    step = np.array([(x1 - x0) / size, (y1 - y0) / size])
    edges = (np.arange(size) + 0.5)[:, None] * step + (x0, y0)
    left, top, right, bottom = crop.pixels
    across = (edges[:, 0] >= left) & (edges[:, 0] < right)
    down = (edges[:, 1] >= top) & (edges[:, 1] < bottom)
    region = (down[:, None] & across[None]).astype(np.float32)
    if prompt.box is not None:
        planes["box"] = region
    planes["region"] = np.asarray(cv2.GaussianBlur(region, (0, 0), REGION_BLUR * size), np.float32)
    for name, points in (("positives", prompt.positives), ("negatives", prompt.negatives)):
        if points is not None and len(points):
            centres = (points + 0.5 - (x0, y0)) / step - 0.5
            planes[name] = render_trace(
                [centre[None] for centre in centres], size, size, radius_px=DISC_RADIUS * size
            ).astype(np.float32)
    if prompt.trace:
        parts = [(part + 0.5 - (x0, y0)) / step - 0.5 for part in prompt.trace]
        planes["trace"] = render_trace(parts, size, size, radius_px=DISC_RADIUS * size / 2).astype(np.float32)
    if prompt.previous is not None:
        planes["previous"] = resize_plane(prompt.previous[y0:y1, x0:x1].astype(np.float32), size, size)


def _draw_motion(
    planes: dict[str, NDArray[np.float32]], residuals: Mapping[int, NDArray[np.float32]], size: int
) -> None:
    for offset, name in zip(OFFSETS, ("near_before", "near_after", "far_before", "far_after"), strict=True):
        if offset in residuals:
            planes[f"{name}_x"] = resize_plane(residuals[offset][..., 0], size, size)
            planes[f"{name}_y"] = resize_plane(residuals[offset][..., 1], size, size)


def _draw_cuts(
    planes: dict[str, NDArray[np.float32]],
    image: NDArray[np.uint8],
    crop: Crop,
    residuals: Mapping[int, NDArray[np.float32]],
    size: int,
) -> float:
    """Draw the cuts, each as bright as it fits the region, and their vote; return their mean fit."""
    masks = [grab_cut(picture, crop.inner, ITERATIONS) for picture in cut_pictures(image, crop, residuals)]
    fits = np.array([box_fit(mask, crop.inner) for mask in masks])
    vote, _ = cut_votes(masks, fits, crop.inner)
    lit = [np.float32(fit) * mask for fit, mask in zip(fits, masks, strict=True)]
    planes["color_cut"] = resize_plane(lit[0], size, size)
    if residuals:
        planes["motion_cuts"] = resize_plane(np.mean(lit[1::2], axis=0), size, size)
        planes["mixed_cuts"] = resize_plane(np.mean(lit[2::2], axis=0), size, size)
    planes["vote"] = resize_plane(vote, size, size)
    return float(fits.mean())


def _color_likelihood(image: NDArray[np.uint8], crop: Crop) -> NDArray[np.float32]:
    """Return how much each pixel's colour is the region's and not its surroundings': (height, width) in [-1, 1].

    The log ratio of smoothed Lab histograms, clipped to a factor of 50 each way. Source: specification of the
    default model, section 5.
    """
    x0, y0, x1, y1 = crop.area
    fine = max(1, round(LIKELIHOOD_SIDE / max(crop.size)))
    size = (fine * crop.size[1], fine * crop.size[0])
    shown = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(shown, cv2.COLOR_RGB2LAB).astype(np.float32)
    low, high = lab.min(axis=(0, 1)), lab.max(axis=(0, 1))
    cells = np.minimum((lab - low) / np.maximum(high - low, 1) * BINS, BINS - 1).astype(np.int32)
    cells_flat = (cells[..., 0] * BINS + cells[..., 1]) * BINS + cells[..., 2]
    inside = np.zeros(size[::-1], np.bool_)
    left, top, right, bottom = (fine * side for side in crop.inner)
    inside[top:bottom, left:right] = True
    ratio = np.log(_histogram(cells_flat[inside]) / _histogram(cells_flat[~inside])) / 4
    likelihood: NDArray[np.float32] = np.clip(ratio, -1, 1).astype(np.float32)[cells_flat]
    return likelihood


def _histogram(cells: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the smoothed share of every colour cell."""
    counts = np.bincount(cells, minlength=BINS**3).astype(np.float64).reshape(BINS, BINS, BINS)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if other == axis else (0, 0) for other in range(3)])
        before, here, after = (np.take(padded, range(i, BINS + i), axis) for i in range(3))
        counts = before / 4 + here / 2 + after / 4
    weights = counts.ravel() + 1e-3
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def paste_crop(values: NDArray[np.float32], crop: Crop, height: int, width: int) -> NDArray[np.float32]:
    """Return what was found on a crop (size, size) in the frame (height, width): resized bilinearly, 0 outside."""
    x0, y0, x1, y1 = crop.area
    frame = np.zeros((height, width), np.float32)
    frame[y0:y1, x0:x1] = cv2.resize(values, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return frame
