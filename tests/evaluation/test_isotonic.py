from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.errors import ShapeError
from rayvos.evaluation.calibration import calibration_from_pairs
from rayvos.evaluation.isotonic import fit_calibration, fit_curve
from rayvos.evaluation.pseudo_labels import MASK_ROW, LabelQuality, MaskRows

PAIRS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=60)


def quality_of(clips):
    """Return the quality of clips given as {clip_id: (scores, ious)}; the first mask of each is a person's."""
    found = []
    for clip_id, (scores, ious) in clips.items():
        rows = np.zeros(len(scores) + 1, MASK_ROW)
        rows["score"], rows["iou"], rows["human"] = [1, *scores], [0, *ious], [True, *[False] * len(scores)]
        found.append(MaskRows(clip_id, rows))
    return LabelQuality((), 0, tuple(found))


@given(PAIRS)
def test_the_curve_rises_and_keeps_the_mean(pairs):
    scores, ious = (np.array(values, float) for values in zip(*pairs, strict=True))
    scores, ious = scores / 50, ious / 20

    knots, levels = fit_curve(scores, ious)

    assert (np.diff(knots) > 0).all()
    assert (np.diff(levels) >= 0).all()
    assert 0 <= levels.min() <= levels.max() <= 1
    assert np.interp(knots, knots, levels) == pytest.approx(levels)


def test_a_rising_relation_is_found_exactly():
    scores = np.linspace(0, 1, 11)

    knots, levels = fit_curve(scores, scores**2)

    assert knots == pytest.approx(scores)
    assert levels == pytest.approx(scores**2)


def test_neighbours_in_the_wrong_order_share_a_step():
    knots, levels = fit_curve(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.2, 0.6, 0.4, 0.8]))

    assert knots == pytest.approx([0, 0.1, 0.25, 0.9])
    assert levels == pytest.approx([0, 0.2, 0.5, 0.8])


def test_a_calibration_mends_a_score_that_is_too_sure_also_on_clips_it_never_saw():
    generator = np.random.default_rng(0)
    clips = {}
    for name in "abcd":
        scores = generator.uniform(0, 1, 200)
        clips[name] = scores, np.clip(0.6 * scores + generator.normal(0, 0.05, 200), 0, 1)
    before = calibration_from_pairs(*(np.concatenate(values) for values in zip(*clips.values(), strict=True)))

    found = fit_calibration(quality_of(clips), engine="cut", weights="")

    assert found.calibration.num_masks == 800  # not the masks that people gave
    assert before.expected_error > 0.15
    assert found.held_out is not None
    assert found.held_out.expected_error < 0.03
    assert found.held_out.spearman > before.spearman - 0.01


def test_one_clip_says_nothing_of_others_and_no_score_nothing_at_all():
    assert fit_calibration(quality_of({"a": ([0.5], [0.6])}), engine="cut", weights="").held_out is None
    with pytest.raises(ShapeError, match="no label carries a score"):
        fit_calibration(quality_of({"a": ([], [])}), engine="cut", weights="")
