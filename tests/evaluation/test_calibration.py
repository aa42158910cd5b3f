from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from rayvos.errors import ShapeError
from rayvos.evaluation.calibration import calibration_from_pairs
from rayvos.evaluation.plots import plot_reliability

SHARES = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=40)


def test_a_perfect_score_is_perfectly_calibrated():
    ious = np.linspace(0, 1, 41)

    found = calibration_from_pairs(ious, ious)

    assert found.spearman == pytest.approx(1)
    assert found.auroc == 1
    assert found.expected_error == pytest.approx(0)
    assert found.mean_absolute_error == 0
    assert sum(item.num_masks for item in found.bins) == 41


@given(SHARES)
def test_auroc_is_the_chance_that_a_bad_mask_scores_lower(pairs):
    scores, ious = (np.array(values) / 10 for values in zip(*pairs, strict=True))
    bad, good = scores[ious < 0.7], scores[ious >= 0.7]

    found = calibration_from_pairs(scores, ious)

    if bad.size and good.size:
        wins = (bad[:, None] < good[None]).mean() + (bad[:, None] == good[None]).mean() / 2
        assert found.auroc == pytest.approx(wins)
    else:
        assert math.isnan(found.auroc)


@given(SHARES)
def test_spearman_is_that_of_scipy(pairs):
    scores, ious = (np.array(values) / 10 for values in zip(*pairs, strict=True))

    found = calibration_from_pairs(scores, ious).spearman

    if len(set(scores)) > 1 and len(set(ious)) > 1:
        assert found == pytest.approx(spearmanr(scores, ious).statistic)
    else:
        assert math.isnan(found)


def test_a_number_that_is_none_becomes_null():
    found = calibration_from_pairs([0.5, 0.5], [1.0, 1.0]).to_json()

    assert found["auroc"] is None
    assert found["spearman"] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("scores", "ious"), [([], []), ([0.1], [0.1, 0.2]), ([1.5], [1.0]), ([float("nan")], [1.0])])
def test_what_is_no_pair_of_shares_is_refused(scores, ious):
    with pytest.raises(ShapeError):
        calibration_from_pairs(scores, ious)


def test_the_plot_is_one_svg_with_the_same_bytes_each_time():
    found = calibration_from_pairs([0.2, 0.6, 0.9], [0.1, 0.8, 0.95])

    svg = plot_reliability(found)

    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    assert svg == plot_reliability(found)
