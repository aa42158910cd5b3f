"""Run-length encoding: round trips, counting without decoding, damaged input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayvos.errors import FormatError, ShapeError
from rayvos.masks.rle import (
    mask_to_rle,
    masks_to_rles,
    merge_rles,
    polygons_to_rle,
    rle_area,
    rle_box,
    rle_iou,
    rle_to_mask,
    rle_to_runs,
    uncompressed_to_rle,
)

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))
MASKS = SIZES.flatmap(lambda size: arrays(np.bool_, size))
PAIRS = SIZES.flatmap(lambda size: st.tuples(arrays(np.bool_, size), arrays(np.bool_, size)))


@given(MASKS)
def test_a_mask_comes_back_from_its_rle(mask):
    assert np.array_equal(rle_to_mask(mask_to_rle(mask), *mask.shape), mask)


@given(MASKS)
def test_area_and_box_are_those_of_the_pixels(mask):
    rle = mask_to_rle(mask)
    ys, xs = np.nonzero(mask)

    assert rle_area(rle, *mask.shape) == mask.sum()
    box = rle_box(rle, *mask.shape)
    if ys.size == 0:
        assert box is None
    else:
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@given(MASKS)
def test_runs_fill_the_mask_and_encode_to_the_same_bytes(mask):
    rle = mask_to_rle(mask)
    runs = rle_to_runs(rle)

    assert runs.sum() == mask.size
    assert uncompressed_to_rle(runs.tolist(), *mask.shape) == rle


@given(PAIRS)
def test_union_intersection_and_iou_are_those_of_the_pixels(pair):
    a, b = pair
    first, second = mask_to_rle(a), mask_to_rle(b)

    assert np.array_equal(rle_to_mask(merge_rles([first, second], *a.shape), *a.shape), a | b)
    assert np.array_equal(rle_to_mask(merge_rles([first, second], *a.shape, intersect=True), *a.shape), a & b)
    union = (a | b).sum()
    assert rle_iou([first], [second], *a.shape)[0, 0] == pytest.approx((a & b).sum() / union if union else 0)


def test_several_masks_encode_as_each_alone():
    masks = np.random.default_rng(0).random((5, 20, 30)) < 0.3

    assert masks_to_rles(masks) == [mask_to_rle(mask) for mask in masks]
    assert masks_to_rles(masks[:0]) == []


@given(st.binary(max_size=60), st.integers(1, 50), st.integers(1, 50))
def test_arbitrary_bytes_are_decoded_or_refused_but_never_read_beyond(data, height, width):
    try:
        mask = rle_to_mask(data, height, width)
    except FormatError:
        return
    assert mask.shape == (height, width)


def test_an_rle_of_another_size_is_refused():
    with pytest.raises(FormatError, match="expected 8x8"):
        rle_to_mask(mask_to_rle(np.ones((4, 4), np.bool_)), 8, 8)


def test_what_is_no_mask_is_refused():
    with pytest.raises(ShapeError, match=r"\(2, 3, 4\)"):
        mask_to_rle(np.zeros((2, 3, 4), np.bool_))
    with pytest.raises(ShapeError, match=r"\(0, 3\)"):
        mask_to_rle(np.zeros((0, 3), np.bool_))


@pytest.mark.parametrize("counts", [[3], [-1, 17], [8, 9], [8.5, 7.5], [[16]]])
def test_runs_that_do_not_fill_the_mask_are_refused(counts):
    with pytest.raises(FormatError, match="4x4"):
        uncompressed_to_rle(counts, 4, 4)


@pytest.mark.parametrize("polygon", [[0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 0, 5, 0, float("nan"), 5]])
def test_a_polygon_that_encloses_nothing_is_refused(polygon):
    with pytest.raises(FormatError, match="at least 3"):
        polygons_to_rle([polygon], 10, 10)


def test_an_object_of_two_polygons_is_their_union():
    rle = polygons_to_rle([[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 9, 6, 9, 9, 6, 9]], 10, 10)

    assert rle_area(rle, 10, 10) == 16 + 9
