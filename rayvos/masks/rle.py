"""COCO run-length encoding: the form in which masks are stored and counted.

Runs go down the columns, the first one counts zeros. `counts` are COCO's compressed bytes; height and width travel
beside them. Area, box and IoU are computed on the runs, without decoding. The only file that uses pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from rayvos.errors import FormatError, ShapeError

__all__ = [
    "mask_to_rle",
    "masks_to_rles",
    "merge_rles",
    "polygons_to_rle",
    "rle_area",
    "rle_box",
    "rle_iou",
    "rle_to_mask",
    "rle_to_runs",
    "uncompressed_to_rle",
]


def mask_to_rle(mask: NDArray[np.bool_]) -> bytes:
    """Return the compressed counts of a mask.

    Args:
        mask: (height, width), bool or 0/1.

    Raises:
        ShapeError: the mask is not 2-D or has no pixels.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ShapeError(
            f"mask: expected (height, width) with pixels, found shape {mask.shape}; pass one object at a time"
        )
    # Column-major is what the encoder reads; copying costs as much as encoding, so it is done once, here.
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def masks_to_rles(masks: NDArray[np.bool_]) -> list[bytes]:
    """Return the compressed counts of several masks of one size: (n, height, width).

    Raises:
        ShapeError: the array is not 3-D or has no pixels.
    """
    if masks.ndim != 3 or 0 in masks.shape[1:]:
        raise ShapeError(f"masks: expected (n, height, width) with pixels, found shape {masks.shape}")
    if len(masks) == 0:
        return []
    stacked = np.asfortranarray(np.moveaxis(masks, 0, -1), dtype=np.uint8)
    return [item["counts"] for item in coco.encode(stacked)]


def rle_to_mask(rle: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (height, width) of compressed counts.

    Raises:
        FormatError: the counts are damaged or belong to another size.
    """
    decoded: NDArray[np.uint8] = coco.decode(_checked(rle, height, width))
    return decoded.astype(np.bool_)


def rle_area(rle: bytes, height: int, width: int) -> int:
    """Return the number of set pixels.

    Raises:
        FormatError: the counts are damaged or belong to another size.
    """
    return int(coco.area(_checked(rle, height, width)))


def rle_box(rle: bytes, height: int, width: int) -> NDArray[np.float32] | None:
    """Return the tight box `xyxy` in pixel edges, or None for an empty mask.

    Raises:
        FormatError: the counts are damaged or belong to another size.
    """
    item = _checked(rle, height, width)
    if int(coco.area(item)) == 0:
        return None
    x, y, w, h = coco.toBbox(item)
    return np.array([x, y, x + w, y + h], np.float32)


def rle_iou(a: Sequence[bytes], b: Sequence[bytes], height: int, width: int) -> NDArray[np.float64]:
    """Return the IoU of each pair (len(a), len(b)); two empty masks give 0.

    Raises:
        FormatError: counts are damaged or belong to another size.
    """
    if not a or not b:
        return np.zeros((len(a), len(b)))
    first = [_checked(rle, height, width) for rle in a]
    second = [_checked(rle, height, width) for rle in b]
    return np.asarray(coco.iou(first, second, [0] * len(second)), np.float64)


def merge_rles(rles: Sequence[bytes], height: int, width: int, *, intersect: bool = False) -> bytes:
    """Return the union (or the intersection) of masks of one size; of none, the empty mask.

    Raises:
        FormatError: counts are damaged or belong to another size.
    """
    if not rles:
        return uncompressed_to_rle([height * width], height, width)
    merged: bytes = coco.merge([_checked(rle, height, width) for rle in rles], intersect=intersect)["counts"]
    return merged


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Return the mask of an object's polygons, each `x0, y0, x1, y1, …` in pixels, by COCO's own rule.

    Raises:
        FormatError: a polygon has fewer than three points, an odd number of values, or a value that is not finite.
    """
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise FormatError(f"polygon: expected at least 3 finite points x, y, found {list(polygon)[:8]}")
    if not polygons:
        return uncompressed_to_rle([height * width], height, width)
    items = coco.frPyObjects([list(map(float, polygon)) for polygon in polygons], height, width)
    return merge_rles([item["counts"] for item in items], height, width)


def uncompressed_to_rle(counts: Sequence[int], height: int, width: int) -> bytes:
    """Return the compressed counts of a list of runs, column-major, zeros first.

    Raises:
        FormatError: a run is negative, or the runs do not fill the mask.
    """
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or int(runs.sum()) != height * width:
        raise FormatError(
            f"rle: expected runs that sum to {height}x{width} = {height * width}, found {list(counts)[:8]}…"
        )
    compressed: bytes = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"]
    return compressed


def rle_to_runs(rle: bytes) -> NDArray[np.int64]:
    """Return the runs of compressed counts, zeros first.

    Source: COCO's format: 5 bits a character from offset 48, 0x20 continues, the last one carries the sign; from the
    fourth run on, each is the difference to the run two before.

    Raises:
        FormatError: the bytes are no compressed counts.
    """
    codes = np.frombuffer(rle, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise FormatError(f"rle: expected COCO compressed counts, found {rle[:24]!r}")
    last = np.flatnonzero((codes & 0x20) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(codes.size) - np.repeat(first, last - first + 1)
    if place.max() > 9:  # no run of a mask below 2^45 pixels needs more characters
        raise FormatError(f"rle: a run is too long; found {rle[:24]!r}")
    values = np.add.reduceat((codes & 0x1F) << (5 * place), first)
    negative = (codes[last] & 0x10) != 0
    values -= np.where(negative, np.int64(1) << (5 * (place[last] + 1)), 0)
    runs = values.copy()
    if runs.size > 3:  # differences to the run two before: two interleaved sums
        runs[1::2] = np.cumsum(values[1::2])
        runs[2::2] = np.cumsum(values[2::2])
    return runs


def _checked(rle: bytes, height: int, width: int) -> dict[str, Any]:
    """Return what pycocotools takes, after checking what it does not: it would read or write out of bounds."""
    if height < 1 or width < 1:
        raise FormatError(f"rle: expected a size of at least 1x1, found {height}x{width}")
    runs = rle_to_runs(rle)
    if (runs < 0).any() or int(runs.sum()) != height * width:
        raise FormatError(
            f"rle: runs sum to {int(runs.sum())}, expected {height}x{width} = {height * width}; wrong size?"
        )
    return {"size": [height, width], "counts": rle}
