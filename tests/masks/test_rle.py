from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayvos.errors import FormatError, ShapeError
from rayvos.masks.rle import (
    check_rle,
    mask_to_rle,
    masks_to_rles,
    polygons_to_rle,
    rle_area,
    rle_box,
    rle_intersection,
    rle_iou,
    rle_to_mask,
    rle_union,
    uncompressed_to_rle,
)

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
PAIRS = arrays(np.bool_, st.tuples(st.just(2), st.integers(1, 20), st.integers(1, 20)))


@given(MASKS)
def test_a_mask_comes_back_from_its_rle(mask):
    decoded = rle_to_mask(mask_to_rle(mask), *mask.shape)

    assert decoded.dtype == np.bool_
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, mask)


@given(PAIRS)
def test_masks_encoded_together_equal_masks_encoded_alone(masks):
    assert masks_to_rles(masks) == [mask_to_rle(mask) for mask in masks]


@given(MASKS)
def test_area_and_box_equal_those_of_the_pixels(mask):
    rle = mask_to_rle(mask)
    ys, xs = np.nonzero(mask)

    assert rle_area(rle, *mask.shape) == mask.sum()
    box = rle_box(rle, *mask.shape)
    if ys.size == 0:
        assert box is None
    else:
        assert box is not None
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@given(PAIRS)
def test_iou_is_that_of_the_pixels_and_symmetric(masks):
    first, second = masks
    size = first.shape
    union = (first | second).sum()
    expected = (first & second).sum() / union if union else 1.0

    there = rle_iou([mask_to_rle(first)], [mask_to_rle(second)], *size)
    back = rle_iou([mask_to_rle(second)], [mask_to_rle(first)], *size)

    assert there.shape == (1, 1)
    assert there[0, 0] == pytest.approx(expected, abs=1e-12)
    assert there[0, 0] == back[0, 0]


def test_iou_of_no_masks_has_no_entries():
    assert rle_iou([], [mask_to_rle(np.ones((2, 2), bool))], 2, 2).shape == (0, 1)


@given(PAIRS)
def test_union_and_intersection_equal_those_of_the_pixels(masks):
    size = masks.shape[1:]
    rles = masks_to_rles(masks)

    np.testing.assert_array_equal(rle_to_mask(rle_union(rles, *size), *size), masks[0] | masks[1])
    np.testing.assert_array_equal(rle_to_mask(rle_intersection(rles, *size), *size), masks[0] & masks[1])


def test_union_of_nothing_is_empty_and_intersection_of_nothing_is_everything():
    assert rle_area(rle_union([], 3, 4), 3, 4) == 0
    assert rle_area(rle_intersection([], 3, 4), 3, 4) == 12


@given(MASKS, st.data())
def test_runs_of_zero_pixels_change_nothing(mask, data):
    runs = [0, *np.diff(np.flatnonzero(np.diff(mask.T.ravel(), prepend=~mask.T.ravel()[:1])), append=mask.size)]
    runs = [int(run) for run in (runs if mask.T.ravel()[0] else runs[1:])]
    place = data.draw(st.integers(0, len(runs) - 1))
    split = data.draw(st.integers(0, runs[place]))
    runs[place : place + 1] = [split, 0, runs[place] - split]

    assert uncompressed_to_rle(runs, *mask.shape) == mask_to_rle(mask)


def test_a_compressed_string_with_empty_runs_gives_the_right_area_box_and_union():
    # 0 outside, 0 inside, 2 outside, 1 inside, 1 outside: written by other tools, legal.
    rle = b"0021O"
    assert rle_area(rle, 2, 2) == 1
    assert rle_box(rle, 2, 2).tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(rle_to_mask(rle, 2, 2), [[False, True], [False, False]])
    assert rle_union([rle, rle], 2, 2) == mask_to_rle(rle_to_mask(rle, 2, 2))
    assert rle_iou([rle], [rle], 2, 2)[0, 0] == 1


@given(st.binary(max_size=30), st.integers(1, 12), st.integers(1, 12))
def test_any_bytes_are_either_a_mask_or_a_format_error(rle, height, width):
    try:
        mask = rle_to_mask(rle, height, width)
    except FormatError:
        return
    assert mask.shape == (height, width)
    assert rle_area(rle, height, width) == mask.sum()


@given(MASKS, st.integers(0, 200), st.integers(0, 255))
def test_a_changed_byte_is_either_a_mask_or_a_format_error(mask, place, value):
    rle = bytearray(mask_to_rle(mask))
    rle[place % len(rle)] = value
    try:
        decoded = rle_to_mask(bytes(rle), *mask.shape)
    except FormatError:
        return
    assert decoded.shape == mask.shape


@given(MASKS)
def test_an_rle_of_another_size_is_refused(mask):
    height, width = mask.shape
    with pytest.raises(FormatError, match="another size"):
        check_rle(mask_to_rle(mask), height, width + 1)


@pytest.mark.parametrize("rle", [b"", b"o" * 40, b"ooooooooo1", b"\x00", "04", None, b"04\x00", b"T04"])
def test_a_damaged_string_is_refused(rle):
    with pytest.raises(FormatError):
        check_rle(rle, 2, 2)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((0, 3), bool), None])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ShapeError):
        mask_to_rle(mask)


def test_a_list_of_masks_must_be_one_bool_array():
    with pytest.raises(ShapeError):
        masks_to_rles(np.zeros((2, 2), bool))
    assert masks_to_rles(np.zeros((0, 2, 2), bool)) == []


def test_a_polygon_fills_its_rectangle():
    rle = polygons_to_rle([[1, 1, 4, 1, 4, 3, 1, 3], [6, 0, 8, 0, 8, 2, 6, 2]], 5, 9)
    expected = np.zeros((5, 9), bool)
    expected[1:3, 1:4] = expected[0:2, 6:8] = True
    np.testing.assert_array_equal(rle_to_mask(rle, 5, 9), expected)


@given(st.lists(st.lists(st.floats(-60, 60), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), max_size=3))
def test_polygons_far_outside_stay_in_the_picture(polygons):
    assert rle_to_mask(polygons_to_rle(polygons, 7, 9), 7, 9).shape == (7, 9)


@pytest.mark.parametrize(
    "polygon", [[1, 1, 2, 2], [1, 1, 2, 2, 3, 3, 4], [1, 1, 2, 2, 3, float("nan")], [0, 0, 1e12, 0, 0, 5], [[1, 2]] * 3]
)
def test_a_polygon_that_cannot_be_filled_is_refused(polygon):
    with pytest.raises(FormatError, match="polygon 0"):
        polygons_to_rle([polygon], 5, 5)


@pytest.mark.parametrize("counts", [[], [3], [5, -1], [2.0, 2.0], [[4]], [1, 2, 2], [1 << 62, 1 << 62]])
def test_runs_that_do_not_make_the_picture_are_refused(counts):
    with pytest.raises(FormatError):
        uncompressed_to_rle(counts, 2, 2)


def test_sizes_without_pixels_are_refused():
    rle = mask_to_rle(np.zeros((2, 2), bool))
    with pytest.raises(ShapeError):
        rle_to_mask(rle, 0, 4)
