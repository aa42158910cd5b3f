from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayvos.errors import ShapeError
from rayvos.masks.agreement import box_agreement

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=16))


def box(*sides):
    return np.array(sides, np.float32)


@given(MASKS)
def test_a_mask_agrees_with_its_own_tight_box(mask):
    ys, xs = np.nonzero(mask)
    assume(ys.size > 0)

    assert box_agreement(mask, box(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)) == 1


@given(MASKS, st.tuples(*[st.floats(-9, 25, width=32)] * 4))
def test_agreement_lies_between_nothing_and_everything(mask, sides):
    x0, x1 = sorted(sides[:2])
    y0, y1 = sorted(sides[2:])

    assert 0 <= box_agreement(mask, box(x0, y0, x1, y1)) <= 1


def test_only_the_visible_part_of_a_box_counts():
    mask = np.zeros((10, 10), bool)
    mask[2:6, 5:] = True

    assert box_agreement(mask, box(5, 2, 30, 6)) == 1


def test_an_empty_mask_or_a_box_outside_agrees_with_nothing():
    assert box_agreement(np.zeros((4, 4), bool), box(0, 0, 4, 4)) == 0
    assert box_agreement(np.zeros((4, 4), bool), box(9, 9, 9, 9)) == 0
    assert box_agreement(np.ones((4, 4), bool), box(9, 9, 12, 12)) == 0


@pytest.mark.parametrize("sides", [(3, 0, 1, 4), (0, 0, float("nan"), 4), (0, 0, 4)])
def test_what_is_no_box_is_refused(sides):
    with pytest.raises(ShapeError, match="xywh"):
        box_agreement(np.ones((4, 4), bool), box(*sides))


def test_several_masks_at_once_are_refused():
    with pytest.raises(ShapeError, match="one object"):
        box_agreement(np.ones((2, 4, 4), bool), box(0, 0, 4, 4))
