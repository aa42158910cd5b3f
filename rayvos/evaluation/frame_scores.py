"""J and F of the objects of one frame: of given ids, or of every pair of a prediction and an object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayvos.evaluation.boundary_f import window_of
from rayvos.evaluation.mask_frames import Ids, LabelMapFrame, MaskFrame, RleFrame, common_window
from rayvos.evaluation.outlines import Packed, count_pairs, drawn_part, f_of_counts, outline

__all__ = ["JaccardF", "jaccard_of_object", "score_objects", "score_pairs"]


class JaccardF(NamedTuple):
    """Both measures of one object on one frame."""

    j: float
    """Region similarity in [0, 1]."""
    f: float
    """Boundary measure in [0, 1]."""


PERFECT = JaccardF(1.0, 1.0)


def score_objects(truth: MaskFrame, mask: MaskFrame, object_ids: Sequence[int], radius: int) -> list[JaccardF]:
    """Return J and F of each object; an id that is not drawn is an empty mask.

    Args:
        truth: the true frame.
        mask: the predicted one, of the same size.
        object_ids: which objects, by the id they have in both.
        radius: of the boundary match, see `boundary_radius`.
    """
    packed: Iterator[Packed | None]
    if isinstance(truth, LabelMapFrame) and isinstance(mask, LabelMapFrame):
        packed = _pack_label_maps(truth.ids, mask.ids, object_ids)
    else:
        packed = _pack_masks(truth, mask, object_ids)
    parts: dict[int, Packed] = {}
    for position, found in enumerate(packed):
        if found is not None:
            rows, columns = drawn_part(found[0])
            pair = found[0][:, rows, columns]
            if not np.array_equal(pair[0], pair[1]):
                parts[position] = pair, found[1] - 8 * columns.start
    scores = [PERFECT] * len(object_ids)
    for positions in _similar_widths(parts):
        for position, counts in zip(positions, count_pairs([parts[key] for key in positions], radius), strict=True):
            scores[position] = JaccardF(counts.intersection / counts.union, f_of_counts(*counts[2:]))
    return scores


def _similar_widths(parts: Mapping[int, Packed]) -> list[list[int]]:
    """Return the keys of the parts in groups whose widest is at most twice as wide as the narrowest."""
    groups: list[list[int]] = []
    limit = 0
    for key in sorted(parts, key=lambda key: parts[key][0].shape[2]):
        if parts[key][0].shape[2] > limit:
            groups.append([])
            limit = 2 * parts[key][0].shape[2]
        groups[-1].append(key)
    return groups


def _pack_label_maps(truth: Ids, mask: Ids, object_ids: Sequence[int]) -> Iterator[Packed]:
    """Yield truth and prediction of each object.

    Packing reads whole images, so the bits of the ids are packed, not the masks of the objects: two planes for three
    objects, three for seven.
    """
    drawn = truth | mask
    window = window_of(drawn.view(np.bool_) if drawn.dtype == np.uint8 else drawn != 0) or (slice(0, 1), slice(0, 1))
    left = window[1].start // 8 * 8  # whole bytes
    width = truth.shape[1] - left
    truth, mask = (ids[window[0], left : window[1].stop] for ids in (truth, mask))
    num_planes = int(max(truth.max(initial=0), mask.max(initial=0))).bit_length()
    if num_planes > len(object_ids):  # ids far above their number, void for one
        for object_id in object_ids:
            yield np.stack([_pack(truth == object_id), _pack(mask == object_id)]), width
        return
    planes = [
        np.stack([_pack(ids & (1 << bit) if num_planes > 1 else ids) for ids in (truth, mask)])
        for bit in range(max(1, num_planes))
    ]
    # By bit and its value, where the pixels are that have it.
    sides = [(~plane, plane) for plane in planes] if len(planes) > 1 else [(planes[0], planes[0])]
    for object_id in object_ids:
        yield _select(sides, object_id), width


def _select(sides: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]], object_id: int) -> NDArray[np.uint8]:
    """Return the pixels whose bits are those of an id."""
    if object_id >= 1 << len(sides):
        return np.zeros_like(sides[0][1])
    found = sides[0][object_id & 1]
    for bit, side in enumerate(sides[1:], start=1):
        found = found & side[object_id >> bit & 1]
    return found


def _pack(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return np.packbits(pixels, axis=1, bitorder="little")


def _pack_masks(truth: MaskFrame, mask: MaskFrame, object_ids: Sequence[int]) -> Iterator[Packed | None]:
    """Yield truth and prediction of each object; None where both are the same RLE."""
    image = slice(0, truth.size[0]), slice(0, truth.size[1])
    for object_id in object_ids:
        rle = truth.rle(object_id)
        if rle is not None and rle == mask.rle(object_id):
            yield None
        else:
            yield np.stack([_pack(frame.cut(object_id, image)) for frame in (truth, mask)]), truth.size[1]


def jaccard_of_object(truth: MaskFrame, mask: MaskFrame, object_id: int) -> float:
    """Return J alone: on runs, without decoding, where both frames are RLE."""
    if isinstance(truth, RleFrame) and isinstance(mask, RleFrame):
        return truth.jaccard(object_id, mask)
    window = common_window(truth, mask)
    if window is None:
        return 1.0
    pair = truth.cut(object_id, window), mask.cut(object_id, window)
    union = np.count_nonzero(pair[0] | pair[1])
    return np.count_nonzero(pair[0] & pair[1]) / union if union else 1.0


def score_pairs(truth: MaskFrame, mask: MaskFrame, num_truths: int, num_masks: int, radius: int) -> NDArray[np.float64]:
    """Return J and F of every predicted object against every true one; true void counts for neither.

    Returns:
        (num_masks + 1, num_truths, 2): ids 1…num_masks against ids 1…num_truths; the last row is an empty mask's.
    """
    image = slice(0, truth.size[0]), slice(0, truth.size[1])
    scores = np.ones((num_masks + 1, num_truths, 2))
    layers = [truth.cut(object_id, image) for object_id in range(1, num_truths + 1)]
    layers += [mask.cut(object_id, image) for object_id in range(1, num_masks + 1)]
    layers.append(np.zeros_like(layers[0]))
    stack = np.stack(layers)
    void = truth.void(image)
    if void is not None:
        stack &= ~void
    outlines = outline(stack, radius)
    for column in range(num_truths):
        for row in range(num_masks + 1):
            position = num_truths + row
            scores[row, column] = outlines.jaccard(column, position), outlines.boundary_f(column, position)
    return scores
