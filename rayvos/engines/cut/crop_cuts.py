"""The cuts of one object's crop: GrabCut on its colours and on its motion, and how well each fits the box.

The crop of an object is scaled down to a working grid; on it one cut is made of the colours, and for each partner
frame towards which something moves, one of lightness and motion and one of colour shifted by motion. Motion is the
flow that the surroundings of the box do not explain. The engine `cut` lets these cuts vote; the engine `guided` shows
them to its network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.motion import residual_flow, sample_window
from rayvos.masks.boxes import IntBox, Margin, box_iou, crop_around, mask_to_box

__all__ = [
    "SMALLEST_BOX",
    "Crop",
    "box_fit",
    "crop_residuals",
    "cut_pictures",
    "cut_votes",
    "ellipse",
    "flow_window",
    "grab_cut",
    "is_cuttable",
    "outside_box",
    "place_crop",
]

VOTE_POWER = 3  # specification of the baseline: vote weight = box agreement to this power
ELLIPSE_VOTE = 0.2  # of a cut that fits its box perfectly; 0.15 to 0.3 measured equal, 1 loses 3 points
SMALLEST_BOX = 8  # pixels a side; below, colour models have no samples to speak of
MIN_MARGIN_PX = 8
MIN_MOTION = 0.2  # pixels of the flow grid: a residual whose 95th percentile is below is noise of the estimator
COLOR_SHIFT = 40.0  # specification of the baseline: levels of a and b that the strongest motion shifts

Flows = Mapping[int, NDArray[np.float32]]
"""Offset of the partner frame → flow to it, on the flow grid of the whole frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """Where one object's crop lies in the frame and on the working grid."""

    pixels: IntBox
    """The box, whole pixels of the frame."""
    area: IntBox
    """The crop, pixels of the frame."""
    inner: IntBox
    """The box on the working grid."""
    size: tuple[int, int]
    """(height, width) of the working grid."""

    @property
    def step(self) -> tuple[float, float]:
        """Frame pixels per pixel of the working grid, (x, y)."""
        return (self.area[2] - self.area[0]) / self.size[1], (self.area[3] - self.area[1]) / self.size[0]


def place_crop(pixels: IntBox, margin: float, max_side: int, height: int, width: int) -> Crop:
    """Return the crop of a box.

    Args:
        pixels: the box, whole pixels of the frame.
        margin: context around it, as a share of its longer side.
        max_side: longest side of the working grid.
        height: of the frame.
        width: of the frame.
    """
    area = crop_around(pixels, Margin("rel", margin, MIN_MARGIN_PX), height, width)
    crop_height, crop_width = area[3] - area[1], area[2] - area[0]
    shrink = min(1.0, max_side / max(crop_height, crop_width))
    rows, columns = max(1, round(crop_height * shrink)), max(1, round(crop_width * shrink))
    x0, x1 = (round((side - area[0]) * columns / crop_width) for side in (pixels[0], pixels[2]))
    y0, y1 = (round((side - area[1]) * rows / crop_height) for side in (pixels[1], pixels[3]))
    x0, y0 = min(x0, columns - 1), min(y0, rows - 1)
    return Crop(pixels, area, (x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), (rows, columns))


def outside_box(crop: Crop) -> NDArray[np.bool_]:
    """Return the working grid's pixels outside the box."""
    outside = np.ones(crop.size, np.bool_)
    outside[crop.inner[1] : crop.inner[3], crop.inner[0] : crop.inner[2]] = False
    return outside


def is_cuttable(crop: Crop, outside: NDArray[np.bool_]) -> bool:
    """Tell whether box and surroundings have the pixels that colour models need."""
    x0, y0, x1, y1 = crop.pixels
    left, top, right, bottom = crop.inner
    sides_suffice = min(x1 - x0, y1 - y0) >= SMALLEST_BOX and min(right - left, bottom - top) >= 2
    return sides_suffice and int(np.count_nonzero(outside)) >= SMALLEST_BOX


def flow_window(flow: NDArray[np.float32], crop: Crop, scale: float) -> NDArray[np.float32]:
    """Return the flow on the crop's working grid, still in pixels of the flow grid.

    Args:
        flow: of the whole frame.
        crop: whose grid.
        scale: pixels of the flow grid per pixel of the frame.
    """
    step_x, step_y = crop.step
    return sample_window(
        flow, (crop.area[0] * scale, crop.area[1] * scale), (step_x * scale, step_y * scale), crop.size
    )


def crop_residuals(
    crop: Crop, outside: NDArray[np.bool_], flows: Flows, scale: float
) -> dict[int, NDArray[np.float32]]:
    """Return the motion that the surroundings do not explain, by partner: (height, width, 2) in [-1, 1].

    Each is scaled by its 95th percentile; partners towards which nothing moves are left out.
    """
    residuals = {}
    for offset, flow in flows.items():
        residual = residual_flow(flow_window(flow, crop, scale), outside)
        strongest = float(np.percentile(np.hypot(residual[..., 0], residual[..., 1]), 95))
        if strongest >= MIN_MOTION:
            residuals[offset] = np.clip(residual / np.float32(strongest), -1, 1)
    return residuals


def cut_pictures(
    image: NDArray[np.uint8], crop: Crop, residuals: Mapping[int, NDArray[np.float32]]
) -> list[NDArray[np.uint8]]:
    """Return the three-channel pictures to cut: colour, then two for each partner: with motion, and mixed."""
    x0, y0, x1, y1 = crop.area
    small = cv2.resize(image[y0:y1, x0:x1], crop.size[::-1], interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    pictures = [np.asarray(lab, np.uint8)]
    lightness, a, b = (channel.astype(np.float32) for channel in cv2.split(lab))
    for residual in residuals.values():
        x, y = residual[..., 0], residual[..., 1]
        motion = np.dstack([lightness / 2, 128 + 127 * x, 128 + 127 * y])
        mixed = np.dstack([lightness, a + COLOR_SHIFT * x, b + COLOR_SHIFT * y])
        pictures += [np.clip(np.rint(picture), 0, 255).astype(np.uint8) for picture in (motion, mixed)]
    return pictures


def grab_cut(picture: NDArray[np.uint8], inner: IntBox, iterations: int) -> NDArray[np.bool_]:
    """Return what GrabCut keeps of the box; all outside it is background."""
    x0, y0, x1, y1 = inner
    classes = np.full(picture.shape[:2], cv2.GC_BGD, np.uint8)
    classes[y0:y1, x0:x1] = cv2.GC_PR_FGD
    cv2.setRNGSeed(0)  # of this thread; the colour models start from k-means
    models = np.zeros((1, 65)), np.zeros((1, 65))  # 5 Gaussians of 13 numbers each
    cv2.grabCut(picture, classes, (0, 0, 0, 0), *models, iterations, cv2.GC_INIT_WITH_MASK)
    return np.asarray((classes == cv2.GC_FGD) | (classes == cv2.GC_PR_FGD), np.bool_)


def box_fit(mask: NDArray[np.bool_], inner: IntBox) -> float:
    """Return the IoU of the mask's tight box with the given box; 0 where the mask is empty."""
    tight = mask_to_box(mask)
    return 0.0 if tight is None else float(box_iou(tight, np.array(inner, np.float32))[0, 0])


def ellipse(inner: IntBox, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the ellipse inscribed in a box, by pixel centres; it holds at least one pixel."""
    y, x = np.ogrid[: size[0], : size[1]]
    across = (x + 0.5 - (inner[0] + inner[2]) / 2) / ((inner[2] - inner[0]) / 2)
    down = (y + 0.5 - (inner[1] + inner[3]) / 2) / ((inner[3] - inner[1]) / 2)
    return np.asarray(across**2 + down**2 <= 1, np.bool_)


def cut_votes(
    masks: list[NDArray[np.bool_]], fits: NDArray[np.float64], inner: IntBox
) -> tuple[NDArray[np.float32], float]:
    """Return the vote of cuts and of the ellipse in [0, 1], and the share of it that is the cuts'.

    Args:
        masks: of the cuts, on the working grid.
        fits: their box fits.
        inner: the box on the working grid.
    """
    weights = fits**VOTE_POWER
    votes = sum(weight * mask for weight, mask in zip(weights, masks, strict=True))
    votes = votes + ELLIPSE_VOTE * ellipse(inner, masks[0].shape)
    total = weights.sum() + ELLIPSE_VOTE
    return (votes / total).astype(np.float32), float(weights.sum() / total)
