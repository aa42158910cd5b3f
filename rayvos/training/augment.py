"""How training pictures differ from those that were taken: light, colour, mirror, and hurried boxes.

Each function draws from the generator it is given and from nothing else. Boxes: `masks.boxes.jitter_box`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["change_gamma", "draw_gamma", "jitter_colours"]

Image = NDArray[np.uint8]


def draw_gamma(spread: float, rng: np.random.Generator) -> float:
    """Return an exponent around 1 whose effect on light and shadow is even: 0.815 … 1.227 for a spread of 0.05.

    Source: Box2Seg code base: γ = ln(½ + f/√2) / ln(½ − f/√2), f uniform in ± `spread`.
    """
    shift = float(rng.uniform(-spread, spread)) / math.sqrt(2)
    return math.log(0.5 + shift) / math.log(0.5 - shift)


def change_gamma(image: Image, gamma: float) -> Image:
    """Return an image (…) whose values in [0, 1] are raised to `gamma`."""
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    changed: Image = table[image]
    return changed


def jitter_colours(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Return an RGB image (height, width, 3) with brightness, contrast and saturation changed a little.

    Args:
        image: RGB.
        strength: largest change, as a share: 0.1 is mild.
        rng: source of the three draws.
    """
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3)
    values = image.astype(np.float32) * np.float32(brightness)
    values = (values - values.mean()) * np.float32(contrast) + values.mean()
    grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
    values = grey + (values - grey) * np.float32(saturation)
    changed: Image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return changed
