"""What a camera does to a picture: blur, light, grain, compression. The same for all that is in the frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Effects", "draw_effects"]

Image = NDArray[Any]  # uint8 (height, width, 3) RGB, or (height, width)
Rng = np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """The settings of one clip's camera."""

    blur_px: float
    """Sigma at 240 lines."""
    rescale: float
    """The picture is made this much smaller and enlarged again; 1: not."""
    colours: NDArray[Any]
    """(3, 4) saturation, tint and offset."""
    curve: NDArray[np.uint8]
    """(256,) gamma."""
    vignette: float
    """Loss of light in the corners, 0…0.6."""
    grain: float
    """Sigma in grey values."""
    jpeg_quality: int | None
    """None: no compression."""
    num_exposures: int
    """Instants averaged into one frame: 1, or more for motion blur."""
    shutter: float
    """Share of the time between two frames that the shutter is open."""

    def apply(self, rng: Rng, image: Image) -> Image:
        """Return the picture (height, width, 3) as this camera takes it; `rng` gives the grain."""
        height, width = image.shape[:2]
        if self.blur_px > 0.25:
            image = cv2.GaussianBlur(image, (0, 0), self.blur_px * min(height, width) / 240)
        if self.rescale < 1:
            small = cv2.resize(image, None, fx=self.rescale, fy=self.rescale, interpolation=cv2.INTER_AREA)
            image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        image = cv2.LUT(cv2.transform(image, self.colours), self.curve)
        if self.vignette > 0.05:
            image = cv2.multiply(image, self._vignette(height, width), scale=1 / 255)
        if self.grain > 0.3:
            image = _with_grain(rng, image, self.grain)
        if self.jpeg_quality is not None:
            data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality])[1]
            image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
        return image

    def _vignette(self, height: int, width: int) -> Image:
        y, x = np.linspace(-1, 1, height // 8 + 2)[:, None], np.linspace(-1, 1, width // 8 + 2)[None]
        light = 255 * (1 - self.vignette * (x * x + y * y) / 2)
        return cv2.merge([cv2.resize(light.astype(np.uint8), (width, height))] * 3)


def _with_grain(rng: Rng, image: Image, sigma: float) -> Image:
    # One tile of noise at random offsets: grain need not be independent over a frame, but differ between frames.
    height, width = image.shape[:2]
    tile = rng.standard_normal((96, 128, 3), np.float32)
    noise = np.clip(tile * (sigma * 8) + 128, 0, 255).astype(np.uint8)
    repeats = (height // 96 + 2, width // 128 + 2, 1)
    top, left = int(rng.integers(96)), int(rng.integers(128))
    noise = np.tile(noise, repeats)[top : top + height, left : left + width]
    return cv2.addWeighted(image, 1, noise, 1 / 8, -16)


def draw_effects(rng: Rng) -> Effects:
    """Draw the settings of one clip's camera."""
    keep = rng.uniform(0.15, 1)  # saturation
    weights = np.array([0.299, 0.587, 0.114])
    colours = keep * np.eye(3) + (1 - keep) * weights[None]
    colours = colours * rng.normal(1, 0.06, (3, 1))
    offset = rng.normal(0, 5, (3, 1)) + rng.uniform(-12, 12)
    gamma = float(np.exp(rng.uniform(np.log(0.6), np.log(1.6))))
    blurs = rng.uniform() < 0.15
    return Effects(
        blur_px=float(rng.uniform(0, 1.1)),
        rescale=float(rng.uniform(0.45, 0.85)) if rng.uniform() < 0.3 else 1.0,
        colours=np.concatenate([colours, offset], axis=1).astype(np.float32),
        curve=(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8),
        vignette=float(rng.uniform(0, 0.5)) if rng.uniform() < 0.4 else 0.0,
        grain=float(rng.uniform(0, 7.6)),
        jpeg_quality=int(rng.integers(30, 96)) if rng.uniform() < 0.5 else None,
        num_exposures=4 if blurs else 1,
        shutter=float(rng.uniform(0.2, 0.7)),
    )
