"""Motion as a cue: dense flow between frames, and what of it the camera does not explain.

The flow of a frame pair is computed once, on the whole frame at a bounded size, and shared by all objects: on the
seven real clips this gave better masks than flow on each object's crop (`benchmarks/label_quality.py` measures the
engine that uses it), since the coarse levels see the camera's motion only in the whole frame.
Array layouts: H height, W width; a flow (H, W, 2) holds (x, y) in pixels of its own grid.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FLOW_SIDE", "dense_flow", "flow_picture", "residual_flow", "sample_window"]

FLOW_SIDE = 448  # longest side of the flow grid; medium preset there: 12 ms a pair, 55 ms at 480x854
SMALLEST_SIDE = 16  # DIS refuses pictures its coarsest patches do not fit into
FIT_ROUNDS = 3
FIT_POINTS = 1500  # an affine fit has six numbers; more points only cost time
OUTLIER = 2.5  # in medians of the ring's error: what moves by itself near the object must not bend the fit


def flow_picture(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Return the grey picture that flow is computed on, and its scale (its pixels per pixel of `image`, at most 1).

    Args:
        image: RGB (height, width, 3).
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    height, width = grey.shape
    scale = min(1.0, FLOW_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8), scale


def dense_flow(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return where each pixel of `first` lies on `second`, relative to itself: (height, width, 2) float32.

    DIS flow, medium preset; deterministic. Pictures with a side below 16 pixels give no motion.
    """
    if min(first.shape) < SMALLEST_SIDE:
        return np.zeros((*first.shape, 2), np.float32)
    # One object per call: it keeps buffers between calls, and engines may run in several threads.
    estimator: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(estimator.calc(first, second, None), np.float32)


def sample_window(
    picture: NDArray[np.float32], origin: tuple[float, float], step: tuple[float, float], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return a window of `picture` sampled bilinearly on another grid; beyond the edges its border repeats.

    Args:
        picture: (height, width) or (height, width, channels).
        origin: the window's upper left edge (x, y) in pixels of `picture`.
        step: pixels of `picture` per pixel of the result, (x, y).
        size: of the result, (height, width).
    """
    # Pixel centres lie half a pixel inside their edges, on both grids.
    shift = [origin[0] + 0.5 * step[0] - 0.5, origin[1] + 0.5 * step[1] - 0.5]
    place = np.array([[step[0], 0, shift[0]], [0, step[1], shift[1]]], np.float64)
    sampled = cv2.warpAffine(
        picture, place, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(sampled, np.float32)


def residual_flow(flow: NDArray[np.float32], surroundings: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the flow minus the affine motion of the object's surroundings.

    Least squares in three rounds; each leaves out what the one before explained badly.

    Args:
        flow: (height, width, 2).
        surroundings: (height, width), True where the background is expected.
    """
    height, width = surroundings.shape
    y, x = np.mgrid[:height, :width]
    places = np.stack([x / width - 0.5, y / height - 0.5, np.ones_like(x, np.float64)], axis=2)
    ring = np.flatnonzero(surroundings)
    if ring.size == 0:
        return flow
    ring = ring[:: max(1, ring.size // FIT_POINTS)]
    ring_places, ring_flow = places.reshape(-1, 3)[ring], flow.reshape(-1, 2)[ring].astype(np.float64)
    weight = np.ones(ring.size)
    for _ in range(FIT_ROUNDS):
        weighted = ring_places * weight[:, None]
        # The small diagonal keeps a ring of a few pixels, or of one line, solvable. einsum sums in a fixed order
        # whatever the number of threads of the linear algebra library.
        normal = np.einsum("ni,nj->ij", weighted, ring_places) + 1e-6 * np.eye(3)
        affine = np.linalg.solve(normal, np.einsum("ni,nj->ij", weighted, ring_flow))
        error = np.abs(ring_flow - np.einsum("ni,ij->nj", ring_places, affine)).sum(axis=1)
        weight = (error <= OUTLIER * np.median(error) + 1e-3).astype(np.float64)
    residual: NDArray[np.float32] = flow - np.einsum("hwi,ij->hwj", places, affine).astype(np.float32)
    return residual
