"""Mouse traces as pixels, and the square that a trace says its object lies in.

Source: Video Localized Narratives (a trace is drawn 3 px wide; the square's side was fitted by its authors).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = ["render_trace", "trace_square"]

RADIUS_PX = 1.5  # Video Localized Narratives
SIDE_TERMS = (0.239715, 1.6737112, -0.42075962)  # the published fit: constant, linear, quadratic


def render_trace(
    parts: Sequence[NDArray[np.float64]], height: int, width: int, *, radius_px: float = RADIUS_PX
) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie at most `radius_px` from a trace.

    Args:
        parts: polylines, each (N, 2) positions (x, y) at which pixel centres are whole numbers: a share u of the
            frame's width is `u * width - 0.5`. A single position is a disc. Parts may leave the frame.
        height: of the frame.
        width: of the frame.
        radius_px: half the width of the line.

    Raises:
        ShapeError: a part is not (N, 2) with at least one finite position.
    """
    mask = np.zeros((height, width), np.bool_)
    for part in parts:
        if part.ndim != 2 or part.shape[1] != 2 or not part.size or not np.isfinite(part).all():
            raise ShapeError(f"trace: expected finite positions (N, 2), N at least 1, found shape {part.shape}")
        for start, end in itertools.pairwise(part) if len(part) > 1 else [(part[0], part[0])]:
            _draw(mask, start, end, radius_px)
    return mask


def _draw(mask: NDArray[np.bool_], start: NDArray[np.float64], end: NDArray[np.float64], radius_px: float) -> None:
    """Set the pixels near one straight piece."""
    low = np.maximum(np.floor(np.minimum(start, end) - radius_px), 0).astype(int)
    high = np.minimum(np.ceil(np.maximum(start, end) + radius_px), np.array(mask.shape[::-1]) - 1).astype(int)
    if (high < low).any():
        return
    y, x = np.mgrid[low[1] : high[1] + 1, low[0] : high[0] + 1]
    direction = end - start
    length = float(direction @ direction)
    along = ((x - start[0]) * direction[0] + (y - start[1]) * direction[1]) / length if length else np.zeros(x.shape)
    along = np.clip(along, 0, 1)
    squared = (x - start[0] - along * direction[0]) ** 2 + (y - start[1] - along * direction[1]) ** 2
    mask[low[1] : high[1] + 1, low[0] : high[0] + 1] |= squared <= radius_px**2


def trace_square(trace: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Return the square in which a trace's object is expected: its centre's pixel (x, y), and its side in pixels.

    Args:
        trace: (height, width), the pixels of the trace.

    Raises:
        ShapeError: the trace has no pixel.
    """
    y, x = np.nonzero(trace)
    if not x.size:
        raise ShapeError("trace: expected pixels inside the frame, found none")
    centre_x, centre_y = math.floor(x.mean() + 0.5), math.floor(y.mean() + 0.5)
    short_side = min(trace.shape)
    spread = 2 * max(np.abs(x - centre_x).max(), np.abs(y - centre_y).max()) / short_side
    side = sum(term * spread**power for power, term in enumerate(SIDE_TERMS))
    return centre_x, centre_y, float(side * short_side)
