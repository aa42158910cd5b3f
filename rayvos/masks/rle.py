"""Masks as COCO compressed run-length encoding (RLE), the form in which labels are stored and compared.

An `rle` is the `counts` string of a COCO annotation, as bytes; height and width are kept beside it. Pixels run down
the columns, runs alternate between outside and inside, starting outside. Area, box, IoU and union are computed on
the runs; only pixels need decoding. This is the one file that knows pycocotools.

Every string that comes in is parsed here first: its runs must be whole, not negative, and add up to the picture.
pycocotools itself trusts its input and would write past the picture's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from rayvos.errors import FormatError, ShapeError

__all__ = [
    "check_rle",
    "mask_to_rle",
    "masks_to_rles",
    "polygons_to_rle",
    "rle_area",
    "rle_box",
    "rle_intersection",
    "rle_iou",
    "rle_to_mask",
    "rle_union",
    "uncompressed_to_rle",
]

MAX_PIXELS = 1 << 31  # pycocotools counts pixels in 32 bits
MAX_GROUP = 8  # characters of one number: 5 bits each, so 40 bits hold any run and any difference of two
MAX_COORDINATE = 100_000.0  # the polygon filler walks along every edge pixel by pixel


def mask_to_rle(mask: NDArray[np.bool_]) -> bytes:
    """Encode one mask.

    Args:
        mask: bool (height, width). Column-major arrays are encoded without a copy.

    Returns:
        COCO compressed counts, ASCII.

    Raises:
        ShapeError: `mask` is not a bool array of two dimensions, or it has no pixels.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_:
        raise ShapeError(f"mask: expected bool (height, width), found {_describe(mask)}; compare it with a threshold")
    _check_size(*mask.shape)
    return bytes(coco.encode(np.asfortranarray(mask).view(np.uint8))["counts"])


def masks_to_rles(masks: NDArray[np.bool_]) -> list[bytes]:
    """Encode masks of one size: (n, height, width), bool.

    Raises:
        ShapeError: `masks` is not a bool array of three dimensions, or its masks have no pixels.
    """
    if not isinstance(masks, np.ndarray) or masks.ndim != 3 or masks.dtype != np.bool_:
        raise ShapeError(f"masks: expected bool (n, height, width), found {_describe(masks)}")
    _check_size(*masks.shape[1:])
    if len(masks) == 0:
        return []
    columns = np.asfortranarray(masks.transpose(1, 2, 0)).view(np.uint8)
    return [bytes(encoded["counts"]) for encoded in coco.encode(columns)]


def rle_to_mask(rle: bytes, height: int, width: int) -> NDArray[np.bool_]:
    """Decode one mask: bool (height, width), row-major, writable.

    Raises:
        FormatError: `rle` is damaged or belongs to another size.
        ShapeError: height or width is below 1, or there are too many pixels.
    """
    decoded: NDArray[np.uint8] = coco.decode(_coco_rle(rle, height, width))
    return np.ascontiguousarray(decoded).view(np.bool_)


def check_rle(rle: bytes, height: int, width: int) -> bytes:
    """Return `rle` if it encodes a mask of this size.

    Raises:
        FormatError: it does not.
        ShapeError: height or width is below 1, or there are too many pixels.
    """
    _runs(rle, height, width)
    return rle


def rle_area(rle: bytes, height: int, width: int) -> int:
    """Return the number of pixels inside.

    Raises:
        FormatError: `rle` is damaged or belongs to another size.
    """
    return int(_runs(rle, height, width)[1::2].sum())


def rle_box(rle: bytes, height: int, width: int) -> NDArray[np.float32] | None:
    """Return the tight box, float32 (4,) `xyxy` pixel edges, or None where the mask is empty.

    Raises:
        FormatError: `rle` is damaged or belongs to another size.
    """
    runs = _runs(rle, height, width)
    stops = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    stops, lengths = stops[lengths > 0], lengths[lengths > 0]
    if lengths.size == 0:
        return None
    left, top = np.divmod(stops - lengths, height)
    right, bottom = np.divmod(stops - 1, height)
    # A run that goes on in the next column touches the bottom of its first and the top of its last column.
    wraps = left != right
    y0 = 0 if wraps.any() else top.min()
    y1 = height if wraps.any() else bottom.max() + 1
    return np.array([left.min(), y0, right.max() + 1, y1], np.float32)


def rle_iou(first: Sequence[bytes], second: Sequence[bytes], height: int, width: int) -> NDArray[np.float64]:
    """Return the IoU of every mask of `first` (n) with every mask of `second` (m), without decoding.

    Returns:
        (n, m), in [0, 1]. Two empty masks agree: 1, as in the DAVIS measure.

    Raises:
        FormatError: an rle is damaged or belongs to another size.
    """
    rows = [_coco_rle(rle, height, width) for rle in first]
    columns = [_coco_rle(rle, height, width) for rle in second]
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)))
    row_areas, column_areas = coco.area(rows), coco.area(columns)
    both_empty = (row_areas[:, None] == 0) & (column_areas[None, :] == 0)
    some_empty = (row_areas[:, None] == 0) | (column_areas[None, :] == 0)
    iou = np.asarray(coco.iou(rows, columns, [False] * len(columns)), np.float64).reshape(len(rows), len(columns))
    return np.where(both_empty, 1.0, np.where(some_empty, 0.0, iou))


def rle_union(rles: Sequence[bytes], height: int, width: int) -> bytes:
    """Return the union of masks; empty where there are none.

    Raises:
        FormatError: an rle is damaged or belongs to another size.
    """
    if not rles:
        return uncompressed_to_rle([height * width], height, width)
    return _merged(rles, height, width, intersect=False)


def rle_intersection(rles: Sequence[bytes], height: int, width: int) -> bytes:
    """Return the intersection of masks; the whole picture where there are none.

    Raises:
        FormatError: an rle is damaged or belongs to another size.
    """
    if not rles:
        return uncompressed_to_rle([0, height * width], height, width)
    return _merged(rles, height, width, intersect=True)


def _merged(rles: Sequence[bytes], height: int, width: int, *, intersect: bool) -> bytes:
    checked = [_coco_rle(rle, height, width) for rle in rles]
    return bytes(coco.merge(checked, intersect=intersect)["counts"])


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int) -> bytes:
    """Fill polygons by COCO's rule and return the union of them.

    Args:
        polygons: each a flat list x0, y0, x1, y1, … of at least three corners, in pixel edges; parts outside the
            picture are cut off.
        height: of the picture.
        width: of the picture.

    Raises:
        FormatError: a polygon has fewer than three corners, an odd count, or a number that is not finite or beyond
            ±100,000.
    """
    _check_size(height, width)
    flat: list[list[float]] = []
    for number, polygon in enumerate(polygons):
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 1 or corners.size < 6 or corners.size % 2:
            raise FormatError(
                f"polygon {number}: expected x0, y0, x1, y1, … of at least three corners, found {corners.size} numbers"
            )
        if not (np.abs(corners) <= MAX_COORDINATE).all():  # false for NaN, too
            raise FormatError(f"polygon {number}: expected finite pixel positions within ±{MAX_COORDINATE:.0f}")
        flat.append(corners.tolist())
    if not flat:
        return uncompressed_to_rle([height * width], height, width)
    return bytes(coco.merge(coco.frPyObjects(flat, height, width))["counts"])


def uncompressed_to_rle(counts: Sequence[int], height: int, width: int) -> bytes:
    """Encode run lengths: outside, inside, outside, … down the columns, as COCO's crowd annotations list them.

    Raises:
        FormatError: a run is negative or not whole, or the runs do not add up to the picture.
    """
    _check_size(height, width)
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.size == 0 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise FormatError("rle counts: expected whole numbers from 0, one list of them")
    runs = runs.astype(np.int64)
    _check_sum(runs, height, width)
    return _compress(_canonical(runs), height, width)


def _coco_rle(rle: bytes, height: int, width: int) -> dict[str, Any]:
    """Return what pycocotools takes, checked and with every run but the first longer than 0."""
    runs = _runs(rle, height, width)
    if (runs[1:] == 0).any():  # legal, but pycocotools computes boxes and unions of such runs wrongly
        rle = _compress(_canonical(runs), height, width)
    return {"size": [height, width], "counts": rle}


def _compress(runs: NDArray[np.int64], height: int, width: int) -> bytes:
    return bytes(coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"])


def _canonical(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the same mask without runs of 0 pixels, but for a first one that says it starts inside."""
    kept = np.flatnonzero(runs)
    inside = kept % 2
    starts = np.flatnonzero(np.diff(inside, prepend=-1))
    lengths = np.add.reduceat(runs[kept], starts)
    return np.concatenate([[0], lengths]) if inside[0] else lengths


def _runs(rle: bytes, height: int, width: int) -> NDArray[np.int64]:
    """Return the run lengths that an rle states; they add up to the picture.

    The string holds numbers in groups of 5 bits, lowest first, as characters from `0` on; bit 6 says that the number
    goes on, the highest bit of the last group is its sign. From the fourth number on, each is the difference to the
    number two before. Source: cocoapi, `rleToString`.
    """
    _check_size(height, width)
    if not isinstance(rle, bytes) or len(rle) == 0:
        raise FormatError(f"rle: expected COCO compressed counts as bytes, found {_describe(rle)}")
    groups = np.frombuffer(rle, np.uint8).astype(np.int64) - 48
    lasts = np.flatnonzero((groups & 32) == 0)
    if ((groups < 0) | (groups > 63)).any() or lasts.size == 0 or lasts[-1] != groups.size - 1:
        raise FormatError(f"rle {rle[:20]!r}: not a COCO compressed counts string; is it damaged or cut off?")
    firsts = np.concatenate([[0], lasts[:-1] + 1])
    sizes = lasts - firsts + 1
    if sizes.max() > MAX_GROUP:
        raise FormatError(f"rle {rle[:20]!r}: a number of {sizes.max()} groups; is it damaged?")
    shifts = 5 * (np.arange(groups.size) - np.repeat(firsts, sizes))
    numbers = np.add.reduceat((groups & 31) << shifts, firsts)
    numbers -= np.where(groups[lasts] & 16, np.int64(1) << (5 * sizes), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if (numbers < 0).any():
        raise FormatError(f"rle {rle[:20]!r}: a negative run; is it damaged?")
    _check_sum(numbers, height, width)
    return numbers


def _check_sum(runs: NDArray[np.int64], height: int, width: int) -> None:
    # No single run above the picture: then the sum of any believable number of runs stays far below 2^63.
    if runs.max() > height * width or runs.sum() != height * width:
        raise FormatError(
            f"rle: expected runs of {height * width} pixels ({height}x{width}), found {runs.sum()}; "
            "is it of a picture of another size?"
        )


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ShapeError(f"mask: expected at least 1x1 and at most {MAX_PIXELS} pixels, found {height}x{width}")


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__name__} {value!r:.40}"
