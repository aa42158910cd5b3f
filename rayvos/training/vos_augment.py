"""Three frames of a clip as training shows them: one crop for all, a slight warp and light of each frame's own.

Label maps, masks and points go through the very same mapping: points stay exact to the rounding of floats.
Source: STCN, training: random resized crop (scale 0.36 to 1), mirror, colour jitter 0.1/0.03/0.03, grey in 5 % of the
clips; per frame rotation up to 15 degrees and shear up to 10, jitter 0.01; static pictures up to 20 degrees and scale
0.9 to 1.1, bent in a third of the cases.
Differs: the bending field is smooth noise instead of a thin-plate spline, and moves pictures and label maps only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.training.augment import jitter_colours
from rayvos.training.vos_clips import FrameView, PointSet

__all__ = ["ClipLook", "Warp", "draw_clip_look", "show_frame"]

Rng = np.random.Generator
FILL = (124, 116, 104)  # ImageNet mean colour
ASPECTS = (3 / 4, 4 / 3)  # torchvision's random resized crop, which the official code uses
BEND_SHARE, BEND_PX = 1 / 3, 0.02  # of static pictures; displacement as a share of the side


@dataclass(frozen=True, slots=True, kw_only=True)
class Warp:
    """How far each frame is turned and sheared."""

    degrees: float = 15.0
    shear: float = 10.0
    scale: float = 0.0
    """Largest change of size, as a share."""
    bends: bool = False


STATIC = Warp(degrees=20.0, scale=0.1, bends=True)
"""Of still pictures, whose three frames are one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLook:
    """What all frames of a sample share."""

    crop: NDArray[np.float64]
    """(3, 3) from the frame to the sample, pixel edges."""
    size: int
    grey: bool
    light: int
    """Seed of the colour jitter that all frames get alike."""


def draw_clip_look(rng: Rng, height: int, width: int, size: int, *, least_scale: float = 0.36) -> ClipLook:
    """Draw a crop, mirrored or not, and a light for frames of (height, width); the sample is (size, size)."""
    area = rng.uniform(least_scale, 1) * height * width
    aspect = np.exp(rng.uniform(*np.log(ASPECTS)))
    crop_width, crop_height = min(width, np.sqrt(area * aspect)), min(height, np.sqrt(area / aspect))
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    crop = np.diag([size / crop_width, size / crop_height, 1.0]) @ _shift(-left, -top)
    if rng.uniform() < 0.5:
        crop = _shift(size, 0) @ np.diag([-1.0, 1, 1]) @ crop
    return ClipLook(crop=crop, size=size, grey=rng.uniform() < 0.05, light=int(rng.integers(1 << 31)))


def show_frame(rng: Rng, view: FrameView, look: ClipLook, warp: Warp) -> FrameView:
    """Return a frame as the sample shows it; points that leave it are gone."""
    height, width = view.labels.shape
    around = _shift(width / 2, height / 2)
    total = look.crop @ around @ _own_warp(rng, warp) @ np.linalg.inv(around)
    indexed = (_shift(-0.5, -0.5) @ total @ _shift(0.5, 0.5))[:2]  # OpenCV counts from the centre of pixels
    target = (look.size, look.size)
    image = np.asarray(cv2.warpAffine(view.image, indexed, target, flags=cv2.INTER_LINEAR, borderValue=FILL), np.uint8)
    labels = np.asarray(cv2.warpAffine(view.labels, indexed, target, flags=cv2.INTER_NEAREST), np.uint8)
    if warp.bends and rng.uniform() < BEND_SHARE:
        image, labels = _bend(rng, image, labels)
    if look.grey:
        image = np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[..., None], 3, axis=2)
    image = jitter_colours(image, 0.1, np.random.default_rng(look.light))
    return FrameView(jitter_colours(image, 0.01, rng), labels, _moved(view.points, total, look.size))


def _shift(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def _own_warp(rng: Rng, warp: Warp) -> NDArray[np.float64]:
    angle, shear = np.deg2rad([rng.uniform(-warp.degrees, warp.degrees), rng.uniform(-warp.shear, warp.shear)])
    scale = 1 + rng.uniform(-warp.scale, warp.scale)
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1 / scale]])
    sheared = np.array([[1, np.tan(shear), 0], [0, 1, 0], [0, 0, 1]])
    found: NDArray[np.float64] = turned @ sheared * scale
    return found


def _bend(rng: Rng, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    size = labels.shape[0]
    field = cv2.resize(rng.normal(0, BEND_PX * size, (4, 4, 2)).astype(np.float32), (size, size))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    places = (x + field[..., 0], y + field[..., 1])
    bent = cv2.remap(image, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=FILL)
    moved = cv2.remap(labels, *places, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(bent, np.uint8), np.asarray(moved, np.uint8)


def _moved(points: PointSet, mapping: NDArray[np.float64], size: int) -> PointSet:
    edges = np.column_stack([points.xy_P2 + 0.5, np.ones(len(points.xy_P2))]) @ mapping.T
    xy_P2 = edges[:, :2] - 0.5
    inside = ((xy_P2 >= 0) & (xy_P2 <= size - 1)).all(axis=1)
    return PointSet(points.number_P[inside], xy_P2[inside], points.positive_P[inside])
