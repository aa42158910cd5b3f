from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvos.errors import ShapeError
from rayvos.evaluation.boundary_f import boundary_f, window_of
from rayvos.evaluation.frame_scores import score_objects
from rayvos.evaluation.jaccard import jaccard
from rayvos.evaluation.mask_frames import LabelMapFrame
from rayvos.evaluation.outlines import boundary_radius, outline
from rayvos.masks.boundaries import boundary_map


@st.composite
def pairs(draw):
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "sparse", "blocks"]))
    if kind == "blocks":
        masks = np.zeros((2, height, width), bool)
        for mask in masks:
            for _ in range(draw(st.integers(0, 3))):
                y, x = rng.integers(0, height), rng.integers(0, width)
                mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] ^= True
        return masks
    return rng.random((2, height, width)) < (0.5 if kind == "noise" else 0.01)


def plain_f(truth, mask, radius):
    """The rule word by word: every boundary pixel looks for one of the other mask."""
    outlines = [np.argwhere(boundary_map(layer)) for layer in (truth, mask)]
    if not len(outlines[0]) or not len(outlines[1]):
        return float(len(outlines[0]) == len(outlines[1]))
    squares = ((outlines[0][:, None] - outlines[1][None]) ** 2).sum(axis=2) <= radius**2
    recall, precision = squares.any(axis=1).mean(), squares.any(axis=0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(pairs(), st.integers(1, 30))
@settings(deadline=None)
def test_f_is_the_official_rule_word_by_word(masks, radius):
    truth, mask = masks

    assert boundary_f(truth, mask, bound_th=radius) == pytest.approx(plain_f(truth, mask, radius), abs=1e-12)


@given(pairs())
@settings(deadline=None)
def test_j_and_f_do_not_depend_on_which_mask_is_the_truth(masks):
    truth, mask = masks

    assert boundary_f(truth, mask) == pytest.approx(boundary_f(mask, truth), abs=1e-12)
    assert jaccard(truth, mask) == jaccard(mask, truth)


@given(pairs())
@settings(deadline=None)
def test_what_lies_in_void_changes_nothing(masks):
    truth, mask = masks
    void = np.zeros_like(truth)
    void[: truth.shape[0] // 2] = True

    changed = mask ^ (void & truth)
    assert jaccard(truth, mask, void) == jaccard(truth, changed, void)
    assert boundary_f(truth, mask, void) == boundary_f(truth, changed, void)


@given(pairs())
@settings(deadline=None)
def test_a_mask_agrees_with_itself(masks):
    assert jaccard(masks[0], masks[0]) == boundary_f(masks[0], masks[0]) == 1


def test_a_full_image_has_no_boundary_and_so_agrees_with_an_empty_one():
    full = np.ones((20, 30), bool)

    assert boundary_f(full, ~full) == 1
    assert jaccard(full, ~full) == 0


def test_a_window_keeps_one_pixel_of_background_inside_the_image():
    drawn = np.zeros((10, 12), bool)
    drawn[0:3, 5:12] = True

    assert window_of(drawn) == (slice(0, 4), slice(4, 13))
    assert window_of(np.zeros_like(drawn)) is None


@pytest.mark.parametrize("other", [(4, 6), (5, 5), (4, 5, 1)])
def test_masks_of_two_sizes_are_refused(other):
    with pytest.raises(ShapeError, match="do not resize"):
        jaccard(np.ones((4, 5), bool), np.ones(other, bool))


@pytest.mark.parametrize("bound_th", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_radius_that_is_no_radius_is_refused(bound_th):
    with pytest.raises(ShapeError):
        boundary_radius(10, 10, bound_th)


@given(pairs(), st.integers(0, 30), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_objects_of_a_frame_are_scored_as_each_alone(masks, radius, num_objects):
    rng = np.random.default_rng(radius)
    numbers = rng.integers(1, num_objects + 1, masks.shape[1:]).astype(np.uint8)
    truth, mask = masks[0] * numbers, masks[1] * numbers[::-1, ::-1]
    object_ids = range(1, num_objects + 2)

    together = score_objects(LabelMapFrame(truth), LabelMapFrame(mask), object_ids, radius)

    for object_id, score in zip(object_ids, together, strict=True):
        alone = truth == object_id, mask == object_id
        assert score.j == jaccard(*alone)
        assert score.f == pytest.approx(outline(np.stack(alone), radius).boundary_f(0, 1), abs=1e-12)


def test_ids_far_apart_and_wide_ids_are_found():
    truth = np.zeros((30, 40), np.uint16)
    truth[5:15, 5:15], truth[20:25, 30:40] = 300, 7
    mask = np.roll(truth, 1, axis=1)

    found = score_objects(LabelMapFrame(truth, 65535), LabelMapFrame(mask, 65535), [7, 300, 301], 1)

    assert [score.j for score in found] == [jaccard(truth == value, mask == value) for value in (7, 300, 301)]
