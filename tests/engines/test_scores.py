from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayvos.engines.scores import mean_margin, overlap, predicted_iou
from rayvos.errors import ShapeError

SHARE = st.floats(0, 1)
MAPS = arrays(np.float32, (5, 6), elements=st.floats(0, 1, width=32))


@given(SHARE, SHARE, SHARE | st.none(), SHARE)
def test_a_score_is_a_share_and_grows_with_each_term(agreement, certainty, temporal, more):
    score = predicted_iou(agreement, certainty, temporal)

    assert 0 <= score <= 1
    assert predicted_iou(max(agreement, more), certainty, temporal) >= score
    assert predicted_iou(agreement, max(certainty, more), temporal) >= score
    if temporal is not None:
        assert predicted_iou(agreement, certainty, max(temporal, more)) >= score


def test_a_mask_that_misses_its_box_has_no_score_and_a_perfect_one_has_all():
    assert predicted_iou(0, 1, 1) == 0
    assert predicted_iou(1, 1, 1) == predicted_iou(1, 1) == 1


def test_pixels_that_nobody_decided_have_no_margin():
    inside = np.ones((2, 2), bool)
    inside[1] = False
    probability = np.array([[0.5, 1], [0.9, 0.9]], np.float32)

    assert mean_margin(probability, inside) == 0.5
    assert mean_margin((probability > 0.5).astype(np.float32), inside) == 1


def test_a_margin_needs_pixels_of_one_picture():
    with pytest.raises(ShapeError):
        mean_margin(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool))
    with pytest.raises(ShapeError):
        mean_margin(np.zeros((2, 2), np.float32), np.ones((2, 3), bool))


@given(MAPS, MAPS)
def test_overlap_is_symmetric_and_that_of_masks_for_whole_pixels(first, second):
    assert overlap(first, second) == overlap(second, first)
    assert 0 <= overlap(first, second) <= 1
    assert overlap(first, first) == (1 if first.any() else 0)
    a, b = first > 0.5, second > 0.5
    union = (a | b).sum()
    expected = (a & b).sum() / union if union else 0
    assert overlap(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(expected)
