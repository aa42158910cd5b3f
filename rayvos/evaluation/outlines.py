"""Areas, boundaries and boundary matches of masks, 64 pixels to a machine word.

The boundary measure asks of each boundary pixel whether the other boundary comes within a radius of it. The official
evaluators dilate both boundaries by a disk over the whole image. Here a mask is cut to the masks' own box, packed to
one bit a pixel, and the disk is built from shifts: neighbouring columns by shifting words, neighbouring rows by
shifting slices. Every number is an integer count, hence equal to the official one.

Why so: for three pairs of masks of some 200x200 pixels, radius 8, all of this takes 0.08 ms a pair, 0.03 ms of it the
dilation, where two calls of `cv2.dilate` on the same crops take 0.34 ms; on a whole 480x854 frame one call takes 0.8,
and OpenCV's exact distance transform, which would do as well, 4.4 ms (one core of a shared machine).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError

__all__ = [
    "BOUND_TH",
    "Outlines",
    "boundary_radius",
    "count_pairs",
    "disk_half_heights",
    "drawn_part",
    "outline",
    "outline_packed",
]

BOUND_TH = 0.008  # DAVIS: radius of the boundary match as a share of the image diagonal
Packed = tuple[NDArray[np.uint8], int]
"""Masks of a part of the image, (num_masks, height, bytes), one bit a pixel, the lowest bit to the left; and the
columns from the part's left edge to the image's right edge."""

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

    The boundary is the one of `rayvos.masks.boundaries.boundary_map`.

    Args:
        masks_NHW: (num_masks, height, width), of the whole image.
        radius: pixels, see `boundary_radius`.
    """
    packed_NHB = np.packbits(masks_NHW, axis=2, bitorder="little")
    rows, columns = drawn_part(packed_NHB)
    return outline_packed(packed_NHB[:, rows, columns], masks_NHW.shape[2] - 8 * columns.start, radius)


def outline_packed(packed_NHB: NDArray[np.uint8], width: int, radius: int) -> Outlines:
    """Find the boundaries of packed masks and what lies within `radius` of them; see `outline`.

    Args:
        packed_NHB: (num_masks, height, bytes), one bit a pixel, the lowest bit to the left; unused bits are 0. The
            whole image or a part as `drawn_part` gives it.
        width: columns of the image from the part's left edge to the image's right edge.
        radius: pixels, see `boundary_radius`.
    """
    sheet = _lay_out([(packed_NHB, width)], radius)
    lengths_N = np.bitwise_count(sheet.boundaries_NHW).sum(axis=(1, 2), dtype=np.int64)
    return Outlines(sheet.masks_NHW, sheet.boundaries_NHW, sheet.reaches_NHW, lengths_N)


class PairCounts(NamedTuple):
    """What J and F of a pair of masks are made of, in pixels."""

    intersection: int
    union: int
    true_length: int
    """Boundary pixels of the first mask."""
    length: int
    """Boundary pixels of the second mask."""
    true_matched: int
    """Boundary pixels of the first mask within the radius of one of the second."""
    matched: int
    """Boundary pixels of the second mask within the radius of one of the first."""


def count_pairs(pairs: Sequence[Packed], radius: int) -> list[PairCounts]:
    """Count the pixels of pairs of masks, many pairs at once: each step then serves all of them.

    Args:
        pairs: parts of one image as `drawn_part` gives them, each with the columns from its left edge to the image's
            right edge; of similar width, since all are given the widest one's.
        radius: pixels, see `boundary_radius`.
    """
    sheet = _lay_out(pairs, radius)
    areas = _count_parts(
        np.stack([sheet.masks_NHW[0] & sheet.masks_NHW[1], sheet.masks_NHW[0] | sheet.masks_NHW[1]]), sheet.starts
    )
    matched = sheet.boundaries_NHW & sheet.reaches_NHW[::-1]
    lengths = _count_parts(np.concatenate([sheet.boundaries_NHW, matched]), sheet.starts)
    return [PairCounts(*column) for column in np.concatenate([areas, lengths]).T.tolist()]


def _count_parts(bits_NHW: NDArray[np.uint64], starts: Sequence[int]) -> NDArray[np.int64]:
    """Return (layers, parts): how many bits each part of each layer has."""
    counts = np.bitwise_count(bits_NHW).reshape(len(bits_NHW), -1)
    found: NDArray[np.int64] = np.add.reduceat(counts, np.array(starts) * bits_NHW.shape[2], axis=1, dtype=np.int64)
    return found


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


@dataclass(frozen=True, slots=True, eq=False)
class _Sheet:
    """Parts of an image below each other, far enough apart that no boundary reaches into the next part."""

    masks_NHW: NDArray[np.uint64]
    boundaries_NHW: NDArray[np.uint64]
    reaches_NHW: NDArray[np.uint64]
    starts: list[int]
    """The first row of each part."""


def _lay_out(parts: Sequence[Packed], radius: int) -> _Sheet:
    margin = _margin(radius)
    own = 8 - 2 * margin
    num_words = -(-max(part.shape[2] for part, _ in parts) // own)
    length = num_words * own + 2 * margin + (margin == 0)  # at least one byte of background behind the pixels
    length += -length % 8  # so that masks can be counted by the word
    starts, num_rows = [], 0
    for part, _ in parts:
        starts.append(num_rows)
        num_rows += part.shape[1] + max(radius, 1)
    masks = np.zeros((len(parts[0][0]), num_rows, length), np.uint8)
    for (part, _), start in zip(parts, starts, strict=True):
        masks[:, start : start + part.shape[1], margin : margin + part.shape[2]] = part
    boundary = _boundaries(
        masks, [(start, *part.shape[1:], width) for (part, width), start in zip(parts, starts, strict=True)], margin
    )
    if radius > _MAX_SHIFT:
        pixels = np.unpackbits(boundary, axis=2, bitorder="little")
        reach = np.packbits(np.stack([_dilate_pixels(layer, radius) for layer in pixels]), axis=2, bitorder="little")
        return _Sheet(masks.view(np.uint64), _words(boundary, 0, num_words), _words(reach, 0, num_words), starts)
    words = _words(boundary, margin, num_words)
    own_bits = np.uint64(((1 << (64 - 16 * margin)) - 1) << (8 * margin))
    return _Sheet(masks.view(np.uint64), words & own_bits, _dilate_words(words, radius), starts)


def _boundaries(
    masks_NHB: NDArray[np.uint8], places: Sequence[tuple[int, int, int, int]], margin: int
) -> NDArray[np.uint8]:
    """Return the boundary maps of the masks on a sheet.

    A pixel is boundary where it differs from its right, lower or lower-right neighbour; the last row compares with
    the right one only, the last column with the lower one only, the corner never.

    Args:
        masks_NHB: rows that end with a byte of background.
        places: first row, height, bytes and columns to the image's right edge of each part.
        margin: bytes of background in front.
    """
    # One long row: the right neighbour of a row's end is the next row's beginning, where nothing is drawn, or `spill`.
    flat = masks_NHB.reshape(-1)
    across: NDArray[np.uint8] = np.right_shift(flat, 1)
    across[:-1] |= flat[1:] << 7
    across ^= flat
    across = across.reshape(masks_NHB.shape)
    spill = margin - 1 if margin else masks_NHB.shape[2] - 1  # the bit before the first column
    across[:, :, spill] = 0
    for start, height, num_bytes, width in places:
        last, bit = divmod(width - 1, 8)
        if last < num_bytes:  # the image's last column has no right neighbour
            across[:, start : start + height, margin + last] &= (1 << bit) - 1
    boundary = across.copy()
    boundary[:, :-1] |= masks_NHB[:, :-1] ^ masks_NHB[:, 1:]
    # Where neither the right nor the lower pixel differs, the lower-right one does if it differs from the lower one.
    boundary[:, :-1] |= across[:, 1:]
    for start, height, _, _ in places:
        # Above and below a part lies no pixel: this matters where the image itself ends.
        boundary[:, start + height - 1] = across[:, start + height - 1]
        if start:
            boundary[:, start - 1] = 0
    return boundary


def _margin(radius: int) -> int:
    """Return the bytes of neighbours that a word holds on each side; 0 where they would not fit."""
    return -(-radius // 8) if radius <= _MAX_SHIFT else 0


def _words(rows_NHB: NDArray[np.uint8], margin: int, num_words: int) -> NDArray[np.uint64]:
    """Return overlapping words: each holds its own pixels in the middle and `margin` bytes of neighbours on each side.

    With them no shift has to carry bits from word to word.
    """
    num_masks, height, _ = rows_NHB.shape
    own = 8 - 2 * margin
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
