from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayvos.engines.stcn.anchors import AnchorMasks, Anchors, find_anchors, scale_mask, working_size
from tests.engines.stcn_clips import make_clip

FULL = np.ones((6, 8), bool)
EMPTY = np.zeros((6, 8), bool)


def anchors_of(masks: dict[int, np.ndarray | None]) -> Anchors:
    return find_anchors(make_clip({(frame, 1): mask for frame, mask in masks.items()}, 100, 6, 8))


@given(st.sets(st.integers(0, 99), min_size=1, max_size=5), st.integers(0, 99))
def test_both_passes_meet_linearly_between_neighbouring_masks(frames, frame):
    anchors = anchors_of(dict.fromkeys(frames, FULL))

    share = anchors.forward_share(frame, 0, forward=True, backward=True)

    before, behind = [f for f in frames if f <= frame], [f for f in frames if f >= frame]
    if not before:
        assert share == 0
    elif not behind or frame in frames:
        assert share == 1
    else:
        assert share == pytest.approx((min(behind) - frame) / (min(behind) - max(before)))


def test_one_pass_alone_has_all_the_weight_or_knows_nothing():
    anchors = anchors_of({10: FULL, 20: FULL})
    shares = {d: [anchors.forward_share(f, 0, forward=d == "f", backward=d == "b") for f in (5, 15, 25)] for d in "fb"}
    assert shares == {"f": [None, 1, 1], "b": [0, 0, None]}


@pytest.mark.parametrize("nothing", [None, EMPTY])
def test_a_mask_without_pixels_makes_no_object_known_but_counts_as_an_anchor(nothing):
    anchors = anchors_of({0: nothing, 10: FULL, 20: nothing, 40: FULL, 60: nothing})
    assert (anchors.first, anchors.last) == ((10,), (40,))
    assert anchors.forward_share(5, 0, forward=True, backward=True) == 0
    assert anchors.forward_share(15, 0, forward=True, backward=True) == 0.5
    clip = make_clip(
        {(f, 1): m for f, m in {0: nothing, 10: FULL, 20: nothing, 40: FULL, 60: nothing}.items()}, 100, 6, 8
    )
    seen = {
        backward: sorted(AnchorMasks(anchors, clip, (6, 8), torch.device("cpu"), backward=backward))
        for backward in (False, True)
    }
    assert seen == {False: [10, 20, 40, 60], True: [0, 10, 20, 40]}


def test_masks_are_decoded_at_the_working_size_and_padded():
    clip = make_clip({(3, 1): FULL, (3, 2): EMPTY, (5, 2): FULL}, 10, 6, 8)
    masks = AnchorMasks(find_anchors(clip), clip, (3, 4), torch.device("cpu"), backward=True)[3]
    assert sorted(masks) == [0, 1]
    assert masks[0].shape == (16, 16)
    assert masks[0].sum() == 12
    assert masks[1].sum() == 0


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        ((480, 854), 480, (480, 854)),
        ((1080, 1920), 480, (480, 853)),
        ((1920, 1080), 480, (853, 480)),
        ((240, 432), 480, (240, 432)),
        ((1080, 1920), None, (1080, 1920)),
        ((600, 600), 480, (480, 480)),
    ],
)
def test_the_short_side_of_large_frames_is_scaled_down(size, max_size, expected):
    assert working_size(*size, max_size) == expected


@given(st.integers(0, 59), st.integers(0, 79))
def test_a_mask_of_one_pixel_survives_scaling(y, x):
    mask = np.zeros((60, 80), bool)
    mask[y, x] = True

    scaled = scale_mask(mask, (15, 20))

    assert scaled.sum() == 1
    assert scaled[y // 4, x // 4] == 1


def test_a_mask_at_the_working_size_stays_as_it_is():
    mask = np.random.default_rng(0).random((6, 8)) < 0.5
    assert np.array_equal(scale_mask(mask, (6, 8)).numpy(), mask)
