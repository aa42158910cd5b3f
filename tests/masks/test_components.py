from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayvos.masks.components import drop_specks

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16))


def two_parts(large: int, small: int):
    mask = np.zeros((12, 40), bool)
    mask[1, 1 : 1 + large] = True
    mask[8, 1 : 1 + small] = True
    return mask


def test_a_crumb_goes_and_a_cut_off_limb_stays():
    crumb, limb = two_parts(30, 2), two_parts(30, 3)

    assert drop_specks(crumb).sum() == 30
    assert drop_specks(limb).sum() == 33


def test_parts_that_touch_at_a_corner_are_one():
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = mask[10, 10] = True

    assert drop_specks(mask)[10, 10]


@given(MASKS, st.floats(0, 1))
def test_specks_are_only_taken_away_and_never_everything(mask, share):
    kept = drop_specks(mask, smallest_share=share)

    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    np.testing.assert_array_equal(drop_specks(kept, smallest_share=share), kept)
