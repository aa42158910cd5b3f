"""Points drawn from masks: random ones a distance apart, the farthest ones, and the frames that carry them.

Every pixel of a frame has a 64-bit key made from a seed and its place; points are taken in ascending order of keys.
No generator is advanced, so that a worker that does one frame, seven workers, and a rerun after a kill take the same
points, in any language that has 64-bit integers.

Sources: Point-VOS, section 3 (10 points, 20 px apart, 10 frames); splitmix64 is Sebastiano Vigna's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError, UsageError, choose

__all__ = [
    "FramePoints",
    "Spacing",
    "derive_seed",
    "draw_discs",
    "evenly_spaced_frames",
    "farthest_points",
    "pixel_keys",
    "sample_points",
    "simulate_points",
    "splitmix64",
]

Spacing = Literal["endpoints", "midpoints"]
Points = NDArray[np.int64]

DISTANCE_PX = 20.0  # Point-VOS, at 480p
NUM_POINTS = 10  # Point-VOS, positives of an object and negatives of a frame
KEYS_AT_ONCE = 2048  # sorted first: 30 points 20 px apart seldom ask for more
_U64 = np.uint64


def splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the splitmix64 hash of each value, modulo 2^64."""
    z = values + _U64(0x9E3779B97F4A7C15)
    z ^= z >> _U64(30)
    z *= _U64(0xBF58476D1CE4E5B9)
    z ^= z >> _U64(27)
    z *= _U64(0x94D049BB133111EB)
    z ^= z >> _U64(31)
    return z


def pixel_keys(seed: int, indices: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the keys of pixels: points are taken in their ascending order.

    Args:
        seed: any whole number; its low 64 bits count.
        indices: y * width + x.
    """
    start = splitmix64(np.array([seed & (1 << 64) - 1], _U64))
    return splitmix64(indices.astype(_U64) ^ start)


def derive_seed(dataset: str, clip_id: str, object_id: int, frame: int, purpose: str) -> int:
    """Return the seed of an object's frame: the last 8 bytes of the SHA-256 of the arguments, joined by `/`.

    Args:
        dataset: name of the data set; empty where nobody named it.
        clip_id: id of the clip.
        object_id: 1…N; 0 for the background of all objects.
        frame: 0-based.
        purpose: what is drawn, so that two uses of one frame differ: `positive`, `candidate`.
    """
    text = f"{dataset}/{clip_id}/{object_id}/{frame}/{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[-8:], "big")


def sample_points(
    region: NDArray[np.bool_],
    num_points: int,
    *,
    distance_px: float = DISTANCE_PX,
    seed: int = 0,
    taken: Points | None = None,
) -> Points:
    """Return random points of a region, each at least `distance_px` from all others.

    Pixels are visited in ascending order of their keys and taken where the distance (centre to centre) allows. The
    result for fewer points is a prefix of that for more. Where fewer than `num_points` come back, no pixel of the
    region could be added (which does not make it the largest set there is).

    Args:
        region: (height, width), True where points may lie.
        num_points: at most so many; 0 gives none.
        distance_px: exactly this distance is allowed; 0 allows all pixels.
        seed: see `pixel_keys`.
        taken: (N, 2) points (x, y) to keep away from, too; they are not returned.

    Returns:
        (up to num_points, 2) int64, (x, y), in the order they were taken.

    Raises:
        ShapeError: the region is not 2-D.
        UsageError: `num_points` or `distance_px` is negative.
    """
    _check(region, num_points)
    if distance_px < 0:
        raise UsageError(f"distance_px: expected 0 or more, found {distance_px}")
    indices = np.flatnonzero(region)
    keys = pixel_keys(seed, indices)
    keep_away = np.zeros((0, 2), np.int64) if taken is None else taken
    found: list[tuple[int, int]] = []
    # The smallest keys nearly always suffice; the others are looked at (and sorted) only if they do not.
    limit = _U64(min(2**64 - 1, 2**64 * KEYS_AT_ONCE // max(1, indices.size)))
    for part in (keys <= limit, keys > limit):
        if len(found) == num_points:
            break
        y, x = np.divmod(indices[part], region.shape[1])
        free = np.ones(x.size, np.bool_)
        for taken_x, taken_y in (*keep_away.tolist(), *found):
            free &= _apart(x, y, taken_x, taken_y, distance_px)
        x, y = x[free], y[free]
        order = np.argsort(keys[part][free])
        x, y = x[order], y[order]
        while x.size and len(found) < num_points:
            found.append((int(x[0]), int(y[0])))
            # A pixel is no candidate for a second time, even where distance 0 allows all.
            free = _apart(x[1:], y[1:], *found[-1], distance_px)
            x, y = x[1:][free], y[1:][free]
    return np.array(found, np.int64).reshape(-1, 2)


def _apart(x: Points, y: Points, point_x: int, point_y: int, distance_px: float) -> NDArray[np.bool_]:
    apart: NDArray[np.bool_] = (x - point_x) ** 2 + (y - point_y) ** 2 >= distance_px**2
    return apart


def _check(region: NDArray[np.bool_], num_points: int) -> None:
    if region.ndim != 2:
        raise ShapeError(f"region: expected (height, width), found shape {region.shape}; pass one object at a time")
    if num_points < 0:
        raise UsageError(f"num_points: expected 0 or more, found {num_points}")


def farthest_points(region: NDArray[np.bool_], num_points: int) -> Points:
    """Return points spread over a region: the deepest pixel first, then always the one farthest from all chosen.

    Depth is the distance to the nearest pixel outside, the frame's surroundings counting as outside; ties go to the
    first pixel in row order. Source: Point-VOS, ablation of sampling (random points train better networks).

    Args:
        region: (height, width), True where points may lie.
        num_points: at most so many.

    Returns:
        (up to num_points, 2) int64, (x, y), in the order they were chosen; fewer only where the region has
        fewer pixels.

    Raises:
        ShapeError: the region is not 2-D.
        UsageError: `num_points` is negative.
    """
    _check(region, num_points)
    y, x = np.nonzero(region)
    num_points = min(num_points, x.size)
    if not num_points:
        return np.zeros((0, 2), np.int64)
    framed = np.pad(region.astype(np.uint8), 1)
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    # Squared distances are whole numbers: rounding undoes the root, so that ties are ties (up to 2,000 px deep).
    nearest = np.rint(depth[y, x].astype(np.float64) ** 2).astype(np.int64)
    chosen = [int(nearest.argmax())]
    nearest[:] = np.iinfo(np.int64).max
    while len(chosen) < num_points:
        last = chosen[-1]
        np.minimum(nearest, (x - x[last]) ** 2 + (y - y[last]) ** 2, out=nearest)
        chosen.append(int(nearest.argmax()))
    return np.stack([x[chosen], y[chosen]], 1).astype(np.int64)


def evenly_spaced_frames(num_frames: int, num_kept: int, spacing: Spacing = "endpoints") -> list[int]:
    """Return at most `num_kept` evenly spaced frames of a clip, ascending.

    Args:
        num_frames: frames of the clip.
        num_kept: at least 1; all frames are kept where there are no more than that.
        spacing: `endpoints` holds the first frame (and the last, for two or more); `midpoints` takes the middle of
            equal parts, as the key frames of Video Localized Narratives lie.

    Raises:
        UsageError: `num_kept` is less than 1, or `spacing` is unknown.
    """
    choose("spacing", spacing, ("endpoints", "midpoints"))
    if num_kept < 1:
        raise UsageError(f"num_kept: expected at least 1 frame, found {num_kept}")
    if num_frames <= num_kept:
        return list(range(num_frames))
    if spacing == "midpoints":
        return [min(((2 * k + 1) * num_frames + num_kept) // (2 * num_kept), num_frames - 1) for k in range(num_kept)]
    steps = max(1, num_kept - 1)
    return [(2 * k * (num_frames - 1) + steps) // (2 * steps) for k in range(num_kept)]


@dataclass(frozen=True, slots=True, eq=False)
class FramePoints:
    """The points of one frame."""

    positives: Mapping[int, Points]
    """Object id → (N, 2) points (x, y) on it, also where N is 0."""
    negatives: Points
    """(N, 2) points on the background that all objects share."""


def simulate_points(
    masks: Mapping[int, NDArray[np.bool_]],
    seeds: Mapping[int, int],
    *,
    num_points: int = NUM_POINTS,
    distance_px: float = DISTANCE_PX,
    scale_distance: bool = False,
) -> FramePoints:
    """Draw the points of one frame from its masks, as PV-DAVIS and PV-YT were made.

    Each object gets positives of its own; negatives are drawn once per frame, from what no object covers. The
    distance holds within an object's points and within the negatives, not between them.

    Args:
        masks: object id → (height, width), of one frame, all of one size; objects that are absent may be left out.
        seeds: object id → seed, 0 for the background; see `derive_seed`.
        num_points: positives of each object, and negatives.
        distance_px: in pixels of the masks.
        scale_distance: take `distance_px` as meant for 480p, and scale it by the frame's short side. The paper does
            not.

    Raises:
        ShapeError: there is no mask, or their sizes differ.
    """
    shapes = {mask.shape for mask in masks.values()}
    if len(shapes) != 1:
        raise ShapeError(f"masks: expected masks of one size, found {sorted(shapes)}; pass the objects of one frame")
    if scale_distance:
        distance_px *= min(next(iter(shapes))) / 480
    positives = {
        object_id: sample_points(mask, num_points, distance_px=distance_px, seed=seeds[object_id])
        for object_id, mask in sorted(masks.items())
    }
    background = ~np.logical_or.reduce(list(masks.values()))
    return FramePoints(positives, sample_points(background, num_points, distance_px=distance_px, seed=seeds[0]))


def draw_discs(pixels: Points, height: int, width: int, radius_px: int) -> NDArray[np.bool_]:
    """Return a mask (height, width) that is True within `radius_px` of given pixels (x, y); 0: on them alone."""
    found = np.zeros((height, width), np.bool_)
    reach = np.arange(-radius_px, radius_px + 1)
    near = np.argwhere(np.hypot(*np.meshgrid(reach, reach)) <= radius_px) - radius_px
    for x, y in pixels.tolist():
        places = near + (y, x)
        inside = ((places >= 0) & (places < (height, width))).all(axis=1)
        found[tuple(places[inside].T)] = True
    return found
