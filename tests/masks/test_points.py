from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayvos.errors import ShapeError, UsageError
from rayvos.masks.points import (
    derive_seed,
    evenly_spaced_frames,
    farthest_points,
    pixel_keys,
    sample_points,
    simulate_points,
)

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 70))
SEEDS = st.integers(0, 2**64 - 1)


@st.composite
def masks(draw) -> np.ndarray:
    """Masks of all kinds: noise, one pixel, none, all, and several blobs."""
    height, width = draw(SHAPES)
    kind = draw(st.sampled_from(["noise", "pixel", "empty", "full", "blobs"]))
    mask = np.full((height, width), kind == "full")
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    if kind == "noise":
        mask = generator.random((height, width)) < generator.random()
    for _ in range({"pixel": 1, "blobs": 3}.get(kind, 0)):
        y, x = generator.integers(height), generator.integers(width)
        size = 1 if kind == "pixel" else int(generator.integers(1, 25))
        mask[y : y + size, x : x + size] = True
    return mask


def slow_sample(region: np.ndarray, num_points: int, distance_px: float, seed: int) -> list[list[int]]:
    """Walk over all pixels in the order of their keys, one by one."""
    indices = np.flatnonzero(region)
    found: list[list[int]] = []
    for index in indices[np.argsort(pixel_keys(seed, indices))]:
        y, x = divmod(int(index), region.shape[1])
        if len(found) < num_points and all((x - a) ** 2 + (y - b) ** 2 >= distance_px**2 for a, b in found):
            found.append([x, y])
    return found


@settings(max_examples=1000)
@given(masks(), st.integers(0, 40), st.floats(0, 30), SEEDS)
def test_points_lie_in_their_region_apart_from_each_other_and_no_further_one_fits(mask, num_points, distance, seed):
    points = sample_points(mask, num_points, distance_px=distance, seed=seed)

    assert len(points) <= num_points
    assert mask[points[:, 1], points[:, 0]].all()
    squared = ((points[:, None] - points[None]) ** 2).sum(2)[np.triu_indices(len(points), 1)]
    assert (squared >= distance**2).all()
    assert len(np.unique(points, axis=0)) == len(points)
    if len(points) < num_points:
        left = np.argwhere(mask)[:, ::-1]
        reach = ((left[:, None] - points[None]) ** 2).sum(2)
        assert ((reach < distance**2) | (reach == 0)).any(1).all()


@settings(max_examples=100)
@given(masks(), st.integers(0, 30), st.integers(0, 30), SEEDS)
def test_fewer_points_are_a_prefix_of_more(mask, first, second, seed):
    few, many = sorted([first, second])
    longer = sample_points(mask, many, distance_px=7, seed=seed)
    assert np.array_equal(sample_points(mask, few, distance_px=7, seed=seed), longer[:few])


@settings(max_examples=50)
@given(masks(), st.integers(0, 60), st.sampled_from([0, 1, 3, 20]), SEEDS)
def test_points_are_those_of_a_walk_over_all_pixels(mask, num_points, distance, seed):
    found = sample_points(mask, num_points, distance_px=distance, seed=seed)
    assert found.tolist() == slow_sample(mask, num_points, distance, seed)


def test_the_walk_goes_on_where_the_smallest_keys_do_not_suffice():
    mask = np.ones((80, 100), bool)
    found = sample_points(mask, 8000, distance_px=1, seed=3)
    assert len(found) == 8000
    assert found.tolist() == slow_order(mask, 3)


def slow_order(region: np.ndarray, seed: int) -> list[list[int]]:
    indices = np.flatnonzero(region)
    y, x = np.divmod(indices[np.argsort(pixel_keys(seed, indices))], region.shape[1])
    return np.stack([x, y], 1).tolist()


def test_points_keep_away_from_those_taken_before():
    taken = np.array([[20, 20]])
    points = sample_points(np.ones((41, 41), bool), 50, distance_px=15, seed=1, taken=taken)
    assert len(points)
    assert (((points - taken) ** 2).sum(1) >= 15**2).all()


def test_a_seed_is_the_tail_of_a_digest_of_its_words():
    digest = hashlib.sha256(b"davis/dog/2/17/positive").hexdigest()
    assert derive_seed("davis", "dog", 2, 17, "positive") == int(digest, 16) % 2**64


@settings(max_examples=100)
@given(arrays(np.bool_, SHAPES), st.integers(0, 12))
def test_farthest_points_are_different_pixels_of_the_region(mask, num_points):
    points = farthest_points(mask, num_points)
    assert len(points) == min(num_points, mask.sum())
    assert mask[points[:, 1], points[:, 0]].all()
    assert len(np.unique(points, axis=0)) == len(points)


@settings(max_examples=100)
@given(arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)), fill=st.just(True)))
def test_the_first_of_the_farthest_points_is_the_deepest_pixel(mask):
    framed = np.pad(mask, 1)
    inside, outside = np.argwhere(framed), np.argwhere(~framed)
    depth = ((inside[:, None] - outside[None]) ** 2).sum(2).min(1) if len(inside) else np.zeros(0)

    found = farthest_points(mask, 1)

    assert found.tolist() == [(inside[depth.argmax()] - 1)[::-1].tolist()] if len(inside) else not len(found)


@given(st.integers(1, 500), st.integers(1, 30), st.sampled_from(["endpoints", "midpoints"]))
def test_kept_frames_ascend_inside_the_clip(num_frames, num_kept, spacing):
    frames = evenly_spaced_frames(num_frames, num_kept, spacing)
    assert len(frames) == min(num_frames, num_kept)
    assert sorted(set(frames)) == frames
    assert set(frames) <= set(range(num_frames))
    if spacing == "endpoints":
        assert frames[0] == 0


def test_negatives_lie_on_the_background_of_all_objects_and_are_drawn_once():
    masks = {1: np.zeros((60, 80), bool), 2: np.zeros((60, 80), bool)}
    masks[1][:, :30], masks[2][:, 50:] = True, True

    points = simulate_points(masks, {0: 5, 1: 6, 2: 7}, distance_px=5)

    assert set(points.positives) == {1, 2}
    assert all(masks[i][at[:, 1], at[:, 0]].all() for i, at in points.positives.items())
    assert len(points.negatives) == 10
    assert ((points.negatives[:, 0] >= 30) & (points.negatives[:, 0] < 50)).all()


def test_an_object_without_pixels_has_no_positives():
    points = simulate_points({1: np.zeros((9, 9), bool)}, {0: 0, 1: 1}, distance_px=2)
    assert len(points.positives[1]) == 0
    assert len(points.negatives)


def test_the_distance_can_grow_with_the_frame():
    masks = {1: np.ones((960, 960), bool)}
    points = simulate_points(masks, {0: 0, 1: 1}, num_points=60, scale_distance=True).positives[1]
    squared = ((points[:, None] - points[None]) ** 2).sum(2)[np.triu_indices(len(points), 1)]
    assert squared.min() >= 40**2


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample_points(np.ones(5, bool), 3),
        lambda: farthest_points(np.ones((5, 5, 1), bool), 3),
        lambda: simulate_points({1: np.ones((5, 5), bool), 2: np.ones((5, 6), bool)}, {0: 0, 1: 1, 2: 2}),
        lambda: simulate_points({}, {0: 0}),
    ],
)
def test_masks_of_a_wrong_shape_are_refused(call):
    with pytest.raises(ShapeError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: sample_points(np.ones((5, 5), bool), -1),
        lambda: sample_points(np.ones((5, 5), bool), 1, distance_px=-2),
        lambda: evenly_spaced_frames(5, 0),
        lambda: evenly_spaced_frames(5, 3, "middle"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(call):
    with pytest.raises(UsageError):
        call()
