"""Areas, boundaries and boundary matches of masks, 64 pixels to a machine word.

The boundary measure asks of each boundary pixel whether the other boundary comes within a radius of it. The official
evaluators dilate both boundaries by a disk over the whole image. Here a mask is cut to the masks' own box, packed to
one bit a pixel, and the disk is built from shifts: neighbouring columns by shifting words, neighbouring rows by
shifting slices. Every number is an integer count, hence equal to the official one.

Why so: for a pair of objects of some 200x200 pixels, radius 8, this dilation takes 0.05 ms where two calls of
`cv2.dilate` on the same crops take 0.34 ms; on a whole 480x854 frame one call takes 0.8 ms, and OpenCV's exact distance
transform, which would do as well, 4.4 ms (one core of a shared machine).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = ["BOUND_TH", "Outlines", "boundary_radius", "disk_half_heights", "drawn_part", "outline", "outline_packed"]

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

    masks_NHW: NDArray[np.uint64]
    """(num_masks, height, words): one bit a pixel, between bytes of background."""
    boundaries_NHW: NDArray[np.uint64]
    """(num_masks, height, words): the boundary pixels."""
    reaches_NHW: NDArray[np.uint64]
    """As `boundaries_NHW`: the pixels from which a boundary pixel is within the radius (bits of neighbours beside)."""
    lengths_N: NDArray[np.int64]
    """Boundary pixels of each mask."""

    def jaccard(self, first: int, second: int) -> float:
        """Return the intersection over union of two of the masks; 1 where both are empty."""
        union = _count(self.masks_NHW[first] | self.masks_NHW[second])
        return _count(self.masks_NHW[first] & self.masks_NHW[second]) / union if union else 1.0

    def boundary_f(self, truth: int, mask: int) -> float:
        """Return the boundary measure of `mask` against `truth`."""
        matched_mask = _count(self.boundaries_NHW[mask] & self.reaches_NHW[truth])
        matched_truth = _count(self.boundaries_NHW[truth] & self.reaches_NHW[mask])
        return f_of_counts(int(self.lengths_N[truth]), int(self.lengths_N[mask]), matched_truth, matched_mask)


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

    Args:
        masks_NHW: (num_masks, height, width), of the whole image.
        radius: pixels, see `boundary_radius`.
    """
    packed_NHB = np.packbits(masks_NHW, axis=2, bitorder="little")
    rows, columns = drawn_part(packed_NHB)
    return outline_packed(packed_NHB[:, rows, columns], masks_NHW.shape[2] - 8 * columns.start, radius)


def outline_packed(packed_NHB: NDArray[np.uint8], width: int, radius: int) -> Outlines:
    """Find the boundaries of packed masks and what lies within `radius` of them.

    A pixel is boundary where it differs from its right, lower or lower-right neighbour; the last row compares with
    the right one only, the last column with the lower one only, the corner never.

    Args:
        packed_NHB: (num_masks, height, bytes), one bit a pixel, the lowest bit to the left; unused bits are 0. The
            whole image or a part as `drawn_part` gives it.
        width: columns of the image from the part's left edge to the image's right edge.
        radius: pixels, see `boundary_radius`.
    """
    masks_NHB, boundary_NHB = _boundaries(packed_NHB, width, _margin(radius))
    if radius > _MAX_SHIFT:
        boundary = np.unpackbits(boundary_NHB, axis=2, bitorder="little")
        reach = np.stack([_dilate_pixels(layer, radius) for layer in boundary])
        words_NHW = _words(boundary_NHB, 0)
        reach_NHW = _words(np.packbits(reach, axis=2, bitorder="little"), 0)
    else:
        margin = _margin(radius)
        spread_NHW = _words(boundary_NHB, margin)
        reach_NHW = _dilate_words(spread_NHW, radius)
        own = np.uint64(((1 << (64 - 16 * margin)) - 1) << (8 * margin))
        words_NHW = spread_NHW & own
    lengths_N = np.bitwise_count(words_NHW).sum(axis=(1, 2), dtype=np.int64)
    return Outlines(masks_NHB.view(np.uint64), words_NHW, reach_NHW, lengths_N)


def drawn_part(packed_NHB: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return rows and bytes around what is drawn, with one row and one byte of background more where there is one.

    With them the part's boundaries are the image's: only the image's own last row and column have no neighbour.
    """
    drawn_HB = packed_NHB[0] | packed_NHB[1] if len(packed_NHB) == 2 else np.bitwise_or.reduce(packed_NHB, axis=0)
    columns = np.flatnonzero(np.bitwise_or.reduce(drawn_HB, axis=0))
    if columns.size == 0:
        return slice(0, 1), slice(0, 1)
    part = slice(max(int(columns[0]) - 1, 0), int(columns[-1]) + 2)
    rows = np.flatnonzero(drawn_HB[:, part].any(axis=1))
    return slice(max(int(rows[0]) - 1, 0), int(rows[-1]) + 2), part


def _boundaries(packed_NHB: NDArray[np.uint8], width: int, margin: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return masks and their boundary maps in rows that `_words` can cut, at least one byte longer than the masks.

    Args:
        packed_NHB: a window of the image.
        width: columns of the image from the window's left edge on.
        margin: bytes of background in front.
    """
    num_masks, height, num_bytes = packed_NHB.shape
    own = 8 - 2 * margin
    length = -(-num_bytes // own) * own + 2 * margin + (margin == 0)
    length += -length % 8  # so that masks can be counted by the word
    masks = np.zeros((num_masks, height, length), np.uint8)
    masks[:, :, margin : margin + num_bytes] = packed_NHB
    # One long row: the right neighbour of a row's end is the next row's beginning, where nothing is drawn, or `spill`.
    flat = masks.reshape(-1)
    across: NDArray[np.uint8] = np.right_shift(flat, 1)
    across[:-1] |= flat[1:] << 7
    across ^= flat
    across = across.reshape(masks.shape)
    spill = margin - 1 if margin else length - 1  # the bit before the first column
    across[:, :, spill] = 0
    last, bit = divmod(width - 1, 8)
    if last < num_bytes:
        across[:, :, margin + last] &= (1 << bit) - 1  # the image's last column has no right neighbour
    boundary = across.copy()
    boundary[:, :-1] |= masks[:, :-1] ^ masks[:, 1:]
    # Where neither the right nor the lower pixel differs, the lower-right one does if it differs from the lower one.
    boundary[:, :-1] |= across[:, 1:]
    return masks, boundary


def _margin(radius: int) -> int:
    """Return the bytes of neighbours that a word holds on each side; 0 where they would not fit."""
    return -(-radius // 8) if radius <= _MAX_SHIFT else 0


def _words(rows_NHB: NDArray[np.uint8], margin: int) -> NDArray[np.uint64]:
    """Return overlapping words: each holds its own pixels in the middle and `margin` bytes of neighbours on each side.

    With them no shift has to carry bits from word to word.
    """
    num_masks, height, num_bytes = rows_NHB.shape
    own = 8 - 2 * margin
    num_words = (num_bytes - 2 * margin) // own  # what is left over is background
    overlapping = np.lib.stride_tricks.as_strided(
        rows_NHB, (num_masks, height, num_words, 8), (*rows_NHB.strides[:2], own, 1), writeable=False
    )
    return np.ascontiguousarray(overlapping).view("<u8")[..., 0].astype(np.uint64, copy=False)


def _dilate_words(words_NHW: NDArray[np.uint64], radius: int) -> NDArray[np.uint64]:
    """Return the words dilated by a disk.

    The disk is a stack of columns: the highest in the middle, lower ones further out. From the outermost inwards, what
    was gathered so far is spread to both sides by the columns' width, and the next higher column is added.
    """
    heights = disk_half_heights(radius)
    num_rows = words_NHW.shape[1]
    column = np.zeros((len(words_NHW), num_rows + 2 * radius, words_NHW.shape[2]), np.uint64)
    column[:, radius : radius + num_rows] = words_NHW
    length, reached = 1, radius  # pixels of the column so far; how far out it was used
    found: NDArray[np.uint64] = words_NHW
    for dx in range(radius, -1, -1):
        if 2 * heights[dx] + 1 == length:
            continue
        while length < 2 * heights[dx] + 1:
            step = min(length, 2 * heights[dx] + 1 - length)
            column = column[:, :-step] | column[:, step:]
            length += step
        found = _spread(found, reached - dx) if reached > dx else found
        found |= column[:, radius - heights[dx] : radius - heights[dx] + num_rows]
        reached = dx
    return found


def _spread(words_NHW: NDArray[np.uint64], steps: int) -> NDArray[np.uint64]:
    """Return the words dilated by so many pixels to the left and to the right."""
    found, width = words_NHW, 1
    while width < 2 * steps + 1:
        step = min(width, 2 * steps + 1 - width)
        shifted: NDArray[np.uint64] = np.left_shift(found, step)
        shifted |= found
        found, width = shifted, width + step
    return np.right_shift(found, steps, out=found)


def _dilate_pixels(boundary: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    """Dilate by a disk of a radius that no word can hold (images above some 1800 lines)."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    return np.asarray(cv2.dilate(boundary, disk), dtype=np.uint8)


def _count(bits: NDArray[np.uint64]) -> int:
    return int(np.bitwise_count(bits).sum())
