"""Two evaluations side by side: what differs, where, and whether it is more than chance.

The confidence interval of the difference is a paired bootstrap over clips: clips are drawn with replacement, both
results are averaged over the objects of the drawn clips, and the difference is taken. Objects of one clip share its
difficulty, so clips, not objects, are drawn.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayvos import storage
from rayvos.errors import FormatError, InputError
from rayvos.evaluation.results import read_evaluation
from rayvos.evaluation.statistics import mean_of_numbers

__all__ = ["METRICS", "ClipDifference", "Comparison", "MetricDifference", "compare", "read_object_means"]

METRICS = ("J&F-Mean", "J-Mean", "F-Mean")
CONFIDENCE = 0.95

Means = Mapping[tuple[str, int], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """One metric of both results, and the difference second minus first."""

    metric: str
    first: float
    """Mean over the objects that both have."""
    second: float
    difference: float
    low: float
    """Lower end of the 95 % confidence interval of the difference."""
    high: float
    share_better: float
    """Share of the bootstrap's draws in which the second is better, ties counting half."""


@dataclass(frozen=True, slots=True)
class ClipDifference:
    """One clip in both results, by J&F."""

    clip_id: str
    first: float
    """Mean over the clip's objects."""
    second: float
    difference: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results side by side."""

    first: str
    second: str
    metrics: tuple[MetricDifference, ...]
    clips: tuple[ClipDifference, ...]
    """By falling gain of the second."""
    only_first: tuple[str, ...]
    """Objects that only the first has, as `clip object`; they are left out."""
    only_second: tuple[str, ...]
    num_objects: int
    draws: int
    seed: int


def read_object_means(path: str) -> dict[tuple[str, int], dict[str, float]]:
    """Return J, F and J&F of each object, by clip and object id.

    Args:
        path: path or URL of an evaluation's json, or of its CSV (`.csv`).

    Raises:
        FormatError: the file is neither.
    """
    if not path.lower().endswith(".csv"):
        found = {}
        for scores in read_evaluation(path).objects:
            j, f = scores.j_statistics.mean, scores.f_statistics.mean
            found[scores.clip_id, scores.object_id] = {"J&F-Mean": (j + f) / 2, "J-Mean": j, "F-Mean": f}
        return found
    try:
        rows = list(csv.DictReader(io.StringIO(storage.read_bytes(path).decode())))
        return {
            (row["clip_id"], int(row["object_id"])): {metric: float(row[metric]) for metric in METRICS} for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: expected the CSV of `rayvos eval … --csv`, failed at {error!r}") from error


def compare(
    first: Means, second: Means, *, names: tuple[str, str] = ("A", "B"), draws: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare two results on the objects that both have.

    Args:
        first: means of each object, see `read_object_means`.
        second: as `first`.
        names: what to call them.
        draws: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        InputError: they share no object.
    """
    shared = sorted(set(first) & set(second))
    if not shared:
        raise InputError(f"{names[0]} and {names[1]}: no object in common; compare results of the same data set")
    clip_ids = sorted({clip_id for clip_id, _ in shared})
    members = [[key for key in shared if key[0] == clip_id] for clip_id in clip_ids]
    drawn = np.random.default_rng(seed).integers(0, len(clip_ids), (draws, len(clip_ids)))
    clips = []
    for clip_id, keys in zip(clip_ids, members, strict=True):
        values = [mean_of_numbers([means[key]["J&F-Mean"] for key in keys]) for means in (first, second)]
        clips.append(ClipDifference(clip_id, values[0], values[1], values[1] - values[0]))
    return Comparison(
        names[0],
        names[1],
        tuple(_difference(metric, first, second, members, drawn) for metric in METRICS),
        tuple(sorted(clips, key=lambda clip: (-clip.difference, clip.clip_id))),
        tuple(f"{clip_id} {object_id}" for clip_id, object_id in sorted(set(first) - set(second))),
        tuple(f"{clip_id} {object_id}" for clip_id, object_id in sorted(set(second) - set(first))),
        len(shared),
        draws,
        seed,
    )


def _difference(
    metric: str,
    first: Means,
    second: Means,
    members: Sequence[Sequence[tuple[str, int]]],
    drawn: np.ndarray[tuple[int, int], np.dtype[np.int64]],
) -> MetricDifference:
    gains = np.array([sum(second[key][metric] - first[key][metric] for key in keys) for keys in members])
    counts = np.array([len(keys) for keys in members])
    differences = gains[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    better = float((differences > 0).mean() + (differences == 0).mean() / 2)
    means = [
        math.fsum(found[key][metric] for keys in members for key in keys) / counts.sum() for found in (first, second)
    ]
    return MetricDifference(metric, float(means[0]), float(means[1]), float(means[1] - means[0]), low, high, better)
