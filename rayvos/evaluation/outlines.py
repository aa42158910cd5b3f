"""Areas, boundaries and boundary matches of masks, 64 pixels to a machine word.

The boundary measure asks of each boundary pixel whether the other boundary comes within a radius of it. The official
evaluators dilate both boundaries by a disk over the whole image. Here a mask is cut to the masks' own box, packed to
one bit a pixel, and the disk is built from shifts: neighbouring columns by shifting words, neighbouring rows by
shifting slices. Every number is an integer count, hence equal to the official one.

Why so: on a 480x854 frame this takes a tenth of the time of `cv2.dilate` on the same crop for small objects and stays
ahead for large ones; an exact distance transform or a k-d tree takes longer than the dilation it would replace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = ["BOUND_TH", "Outlines", "boundary_radius", "disk_half_heights", "outline"]

BOUND_TH = 0.008  # DAVIS: radius of the boundary match as a share of the image diagonal
_MAX_SHIFT = 24  # a word of 64 pixels keeps 16 of its own when it also holds 24 neighbours on each side


def boundary_radius(height: int, width: int, bound_th: float = BOUND_TH) -> int:
    """Return the radius in pixels within which two boundary pixels match.

    Args:
        height: of the whole image.
        width: of the whole image.
        bound_th: below 1 a share of the image diagonal (rounded up), from 1 on pixels.

    Raises:
        ShapeError: `bound_th` is negative, or above 1 and no whole number.
    """
    if not 0 <= bound_th < math.inf or (bound_th >= 1 and bound_th != int(bound_th)):
        raise ShapeError(f"bound_th: expected a share of the diagonal or whole pixels, found {bound_th}")
    return int(bound_th) if bound_th >= 1 else math.ceil(bound_th * math.sqrt(height * height + width * width))


@lru_cache(maxsize=64)
def disk_half_heights(radius: int) -> tuple[int, ...]:
    """Return, for dx = 0…radius, the largest dy with dx² + dy² ≤ radius²."""
    return tuple(math.isqrt(radius * radius - dx * dx) for dx in range(radius + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Masks of one window, packed for counting."""

    masks_NHB: NDArray[np.uint8]
    """(num_masks, height, bytes): one bit a pixel."""
    boundaries_NHW: NDArray[np.uint64]
    """(num_masks, height, words): the boundary pixels."""
    reaches_NHW: NDArray[np.uint64]
    """As `boundaries_NHW`: the pixels from which a boundary pixel is within the radius (bits of neighbours beside)."""
    lengths_N: NDArray[np.int64]
    """Boundary pixels of each mask."""

    def jaccard(self, first: int, second: int) -> float:
        """Return the intersection over union of two of the masks; 1 where both are empty."""
        union = _count(self.masks_NHB[first] | self.masks_NHB[second])
        return _count(self.masks_NHB[first] & self.masks_NHB[second]) / union if union else 1.0

    def boundary_f(self, truth: int, mask: int) -> float:
        """Return the boundary measure of `mask` against `truth`."""
        matched_mask = _count(self.boundaries_NHW[mask] & self.reaches_NHW[truth])
        matched_truth = _count(self.boundaries_NHW[truth] & self.reaches_NHW[mask])
        return f_of_counts(int(self.lengths_N[truth]), int(self.lengths_N[mask]), matched_truth, matched_mask)

    def same(self, first: int, second: int) -> bool:
        """Tell whether two of the masks are equal."""
        return np.array_equal(self.masks_NHB[first], self.masks_NHB[second])


def f_of_counts(num_truth: int, num_mask: int, matched_truth: int, matched_mask: int) -> float:
    """Return the boundary measure from boundary pixels and how many of them match.

    A mask without boundary (empty, or filling the image) has precision 1 and recall 0 against one with boundary, and
    the other way round; two without boundary agree: 1.
    """
    if num_truth == 0 and num_mask == 0:
        return 1.0
    precision = matched_mask / num_mask if num_mask else 1.0
    recall = matched_truth / num_truth if num_truth else 1.0
    # One of them without boundary: the share above is 1, the other one's is 0, since nothing can match.
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(masks_NHW: NDArray[np.bool_], radius: int) -> Outlines:
    """Pack masks and find their boundaries and what lies within `radius` of them.

    A pixel is boundary where it differs from its right, lower or lower-right neighbour; the last row compares with
    the right one only, the last column with the lower one only, the corner never.

    Args:
        masks_NHW: (num_masks, height, width) of a window of the image. The window holds one row and column of
            background beside the masks on each side that is not the image's edge, so that its boundaries are the
            image's.
        radius: pixels, see `boundary_radius`.
    """
    width = masks_NHW.shape[2]
    packed_NHB = np.packbits(masks_NHW, axis=2, bitorder="little")
    boundary_NHB = _packed_boundaries(packed_NHB, width)
    if radius > _MAX_SHIFT:
        boundary = np.unpackbits(boundary_NHB, axis=2, count=width, bitorder="little")
        reach = np.stack([_dilate_pixels(layer, radius) for layer in boundary])
        words_NHW = _words(boundary_NHB, 0)
        reach_NHW = _words(np.packbits(reach, axis=2, bitorder="little"), 0)
    else:
        spread_NHW = _words(boundary_NHB, radius)
        reach_NHW = _dilate_words(spread_NHW, radius)
        margin = 8 * _margin_bytes(radius)
        own = np.uint64(((1 << (64 - 2 * margin)) - 1) << margin)
        words_NHW = spread_NHW & own
    lengths_N = np.bitwise_count(words_NHW).sum(axis=(1, 2), dtype=np.int64)
    return Outlines(packed_NHB, words_NHW, reach_NHW, lengths_N)


def _packed_boundaries(packed_NHB: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return the boundary maps of packed masks, packed; a bit's right neighbour is the next higher bit."""
    across: NDArray[np.uint8] = np.right_shift(packed_NHB, 1)
    across[..., :-1] |= packed_NHB[..., 1:] << 7
    across ^= packed_NHB
    across[..., -1] &= (1 << ((width - 1) % 8)) - 1  # the last column has no right neighbour
    boundary = across.copy()
    boundary[:, :-1] |= packed_NHB[:, :-1] ^ packed_NHB[:, 1:]
    # Where neither the right nor the lower pixel differs, the lower-right one does if it differs from the lower one.
    boundary[:, :-1] |= across[:, 1:]
    return boundary


def _margin_bytes(radius: int) -> int:
    return -(-radius // 8)


def _words(packed_NHB: NDArray[np.uint8], radius: int) -> NDArray[np.uint64]:
    """Return overlapping words: each holds its own pixels in the middle and `radius` neighbours on both sides.

    With them no shift has to carry bits from word to word.
    """
    num_masks, height, num_bytes = packed_NHB.shape
    margin = _margin_bytes(radius)
    own = 8 - 2 * margin
    num_words = -(-num_bytes // own)
    rows = np.zeros((num_masks, height, (num_words - 1) * own + 8), np.uint8)
    rows[:, :, margin : margin + num_bytes] = packed_NHB
    overlapping = np.lib.stride_tricks.as_strided(
        rows, (num_masks, height, num_words, 8), (*rows.strides[:2], own, 1), writeable=False
    )
    return np.ascontiguousarray(overlapping).view("<u8")[..., 0].astype(np.uint64, copy=False)


def _dilate_words(words_NHW: NDArray[np.uint64], radius: int) -> NDArray[np.uint64]:
    """Return the words dilated by a disk: columns of growing height, each moved one step further to both sides."""
    heights = disk_half_heights(radius)
    column = words_NHW.copy()
    height = 0
    left = right = words_NHW
    for dx in range(radius, -1, -1):
        while height < heights[dx]:
            height += 1
            column[:, height:] |= words_NHW[:, :-height]
            column[:, :-height] |= words_NHW[:, height:]
        if dx == radius:
            left, right = column.copy(), column.copy()
        else:
            np.left_shift(left, 1, out=left)
            np.right_shift(right, 1, out=right)
            left |= column
            right |= column
    left |= right
    return left


def _dilate_pixels(boundary: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """Dilate by a disk of a radius that no word can hold (images above some 1800 lines)."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return np.asarray(cv2.dilate(boundary, disk), dtype=np.uint8)


def _count(bits: NDArray[np.uint8] | NDArray[np.uint64]) -> int:
    return int(np.bitwise_count(bits).sum())
