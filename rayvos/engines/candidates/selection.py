"""Candidate mining: which points of a probability map a person should be asked about.

Source: Point-VOS, section 3.2: points of high, uncertain and low probability, 20 px apart, on 10 frames of an object.
The paper does not publish its thresholds; ours are 0.8 and 0.2. The groups are drawn in the order foreground,
ambiguous, background, because small regions would lose their points to large ones; a group that is short is not
filled up by another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import ShapeError, UsageError
from rayvos.masks.points import evenly_spaced_frames, sample_points

__all__ = ["Candidate", "CandidateKind", "CandidateRule", "candidate_frames", "mine_candidates"]

CandidateKind = Literal["foreground", "ambiguous", "background"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRule:
    """How many candidates of which kind, where."""

    num_foreground: int = 7
    """Points of probability `foreground_from` or more."""
    num_ambiguous: int = 3
    """Points between the thresholds."""
    num_background: int = 10
    """Points of probability `background_to` or less."""
    foreground_from: float = 0.8
    """Lowest probability of a foreground candidate."""
    background_to: float = 0.2
    """Highest probability of a background candidate."""
    distance_px: float = 20.0
    """Between any two candidates of a frame and object."""
    num_frames: int = 10
    """Frames of a clip that carry candidates."""

    def __post_init__(self) -> None:
        if not 0 <= self.background_to < self.foreground_from <= 1:
            raise UsageError(
                "thresholds: expected 0 <= background_to < foreground_from <= 1, found "
                f"{self.background_to} and {self.foreground_from}"
            )
        for name in ("num_foreground", "num_ambiguous", "num_background", "distance_px"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if self.num_frames < 1:
            raise UsageError(f"num_frames: expected at least 1, found {self.num_frames}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point to ask about."""

    x: int
    y: int
    kind: CandidateKind
    probability: float
    """The object's, at the point."""
    rank: int
    """Order within its kind, from 0: what a smaller quota would keep has the lower ranks."""


def candidate_frames(num_frames: int, *, num_kept: int = 10, key_frame: int | None = None) -> list[int]:
    """Return the evenly spaced frames of a clip that carry candidates, ascending.

    Args:
        num_frames: frames of the clip.
        num_kept: at most so many.
        key_frame: a frame to hold in any case, in the place of the nearest one (the earlier of two); None: none is
            forced, as far as the paper says.

    Raises:
        UsageError: `num_kept` is less than 1, or the key frame is not in the clip.
    """
    frames = evenly_spaced_frames(num_frames, num_kept, "midpoints")
    if key_frame is not None and key_frame not in frames:
        if not 0 <= key_frame < num_frames:
            raise UsageError(f"key frame {key_frame}: expected a frame in 0…{num_frames - 1}")
        frames[min(range(len(frames)), key=lambda k: (abs(frames[k] - key_frame), k))] = key_frame
    return sorted(frames)


def mine_candidates(probability: NDArray[np.floating], seed: int, rule: CandidateRule | None = None) -> list[Candidate]:
    """Return the candidates of one object on one frame.

    Args:
        probability: (height, width) of the object, in [0, 1], in the frame's full resolution.
        seed: see `rayvos.masks.points.derive_seed`; the same seed and map give the same candidates anywhere.
        rule: how many of which kind; None: the paper's numbers.

    Returns:
        Foreground, ambiguous, background, each in the order it was drawn; fewer than asked for where a region is
        small, none of a kind where its region is empty.

    Raises:
        ShapeError: the map is not 2-D, or holds something else than probabilities.
    """
    rule = rule or CandidateRule()
    if probability.ndim != 2:
        raise ShapeError(f"probability: expected (height, width), found shape {probability.shape}")
    # Written so that NaN fails.
    if probability.size and not (probability.min() >= 0 and probability.max() <= 1):
        raise ShapeError(f"probability: expected values in [0, 1], found {probability.min()} to {probability.max()}")
    high, low = probability >= rule.foreground_from, probability <= rule.background_to
    groups: Sequence[tuple[CandidateKind, NDArray[np.bool_], int, int]] = (
        ("foreground", high, rule.num_foreground, 1),
        ("ambiguous", ~(high | low), rule.num_ambiguous, 2),
        ("background", low, rule.num_background, 3),
    )
    taken = np.zeros((0, 2), np.int64)
    found: list[Candidate] = []
    for kind, region, quota, purpose in groups:
        points = sample_points(region, quota, distance_px=rule.distance_px, seed=4 * seed + purpose, taken=taken)
        taken = np.concatenate([taken, points])
        found += [Candidate(x, y, kind, float(probability[y, x]), rank) for rank, (x, y) in enumerate(points.tolist())]
    return found
