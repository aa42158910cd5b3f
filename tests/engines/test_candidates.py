from __future__ import annotations

from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvos.engines.candidates.selection import CandidateRule, candidate_frames, mine_candidates
from rayvos.errors import ShapeError, UsageError
from rayvos.masks.points import derive_seed


def smooth_map(seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Return a probability map of a few soft blobs."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    logits = np.full((height, width), -6.0)
    for _ in range(int(generator.integers(0, 4))):
        distance = np.hypot(x - generator.uniform(0, width), y - generator.uniform(0, height))
        logits += 12 / (1 + np.exp((distance - generator.uniform(3, 40)) / generator.uniform(1, 8)))
    return (1 / (1 + np.exp(-logits))).astype(np.float32)


def mine_clip(frames: list[int]) -> list:
    """Mine some frames of a clip; runs in another process, too."""
    return [mine_candidates(smooth_map(frame), derive_seed("", "clip", 1, frame, "candidate")) for frame in frames]


@settings(max_examples=200)
@given(st.integers(0, 10_000), st.integers(0, 2**64 - 1))
def test_candidates_lie_in_their_groups_region_apart_from_each_other_and_no_further_one_fits(picture, seed):
    probability = smooth_map(picture)
    rule = CandidateRule(distance_px=9)

    found = mine_candidates(probability, seed, rule)

    at = np.array([(point.x, point.y) for point in found]).reshape(-1, 2)
    squared = ((at[:, None] - at[None]) ** 2).sum(2)
    assert (squared[np.triu_indices(len(found), 1)] >= 81).all()
    high, low = probability >= 0.8, probability <= 0.2
    groups = {"foreground": (high, 7), "ambiguous": (~high & ~low, 3), "background": (low, 10)}
    for number, (kind, (region, quota)) in enumerate(groups.items()):
        points = [point for point in found if point.kind == kind]
        assert all(region[point.y, point.x] and point.probability == probability[point.y, point.x] for point in points)
        assert [point.rank for point in points] == list(range(len(points)))
        assert len(points) <= quota
        if len(points) < quota:
            drawn = [point for point in found if list(groups).index(point.kind) <= number]
            here = np.argwhere(region)[:, ::-1]
            reach = ((here[:, None] - np.array([(p.x, p.y) for p in drawn]).reshape(-1, 2)[None]) ** 2).sum(2)
            assert (reach < 81).any(1).all()


@pytest.mark.parametrize("num_workers", [2, 7])
def test_candidates_are_the_same_for_any_number_of_workers(num_workers):
    frames = list(range(14))
    shares = [frames[start::num_workers] for start in range(num_workers)]

    with get_context("spawn").Pool(2) as pool:
        mined = pool.map(mine_clip, shares)

    together = {
        frame: found
        for share, results in zip(shares, mined, strict=True)
        for frame, found in zip(share, results, strict=True)
    }
    assert [together[frame] for frame in frames] == mine_clip(frames)


def test_a_key_frame_takes_the_place_of_the_nearest():
    assert candidate_frames(100, num_kept=5) == [10, 30, 50, 70, 90]
    assert candidate_frames(100, num_kept=5, key_frame=33) == [10, 33, 50, 70, 90]
    assert candidate_frames(100, num_kept=5, key_frame=40) == [10, 40, 50, 70, 90]
    assert candidate_frames(3, key_frame=1) == [0, 1, 2]


def test_a_key_frame_outside_the_clip_is_refused():
    with pytest.raises(UsageError, match="key frame 100: expected a frame in 0…99"):
        candidate_frames(100, num_kept=5, key_frame=100)


@pytest.mark.parametrize("options", [{"background_to": 0.9}, {"num_ambiguous": -1}, {"num_frames": 0}])
def test_rules_that_cannot_be_met_are_refused(options):
    with pytest.raises(UsageError):
        CandidateRule(**options)


@pytest.mark.parametrize("bad", [np.full((4, 4), np.nan), np.full((4, 4), 1.5), np.zeros(4)])
def test_what_is_no_probability_map_is_refused(bad):
    with pytest.raises(ShapeError, match="probability: expected"):
        mine_candidates(bad, 0)


def test_an_empty_map_has_no_candidates():
    assert mine_candidates(np.zeros((0, 5)), 0) == []
