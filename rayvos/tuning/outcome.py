"""What a sweep says: a row per trial, a mean with a confidence interval per setting, and the best setting.

The interval is Student's over the seeds. The best setting is the one whose mean is highest; of settings that come
within its interval the one that costs an annotator least is the *thriftiest*, and is named beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.tuning.spaces import Setting, Space
from rayvos.tuning.trials import TrialResult

__all__ = ["Outcome", "SettingScore", "best_setting", "outcome_of", "thriftiest_setting", "write_results"]

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingScore:
    """One setting over its seeds."""

    setting: Setting
    mean: float
    half_width: float
    """Of the confidence interval; nan for one seed."""
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished sweep."""

    space: Space
    metric: str
    scores: tuple[SettingScore, ...]
    """In the order of the space's settings."""
    results: tuple[TrialResult, ...]


def outcome_of(space: Space, results: Sequence[TrialResult], metric: str) -> Outcome:
    """Put the results of a sweep together; settings without a result are left out."""
    scores = []
    for setting in space.settings:
        values = tuple(
            result.scores[metric]
            for result in results
            if dict(result.varied) == dict(setting.varied) and metric in result.scores
        )
        if values:
            scores.append(
                SettingScore(
                    setting=setting, mean=float(np.mean(values)), half_width=_half_width(values), values=values
                )
            )
    return Outcome(space=space, metric=metric, scores=tuple(scores), results=tuple(results))


def _half_width(values: Sequence[float]) -> float:
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * error


def best_setting(outcome: Outcome) -> SettingScore:
    """Return the setting with the highest mean; of equal ones the first."""
    return max(outcome.scores, key=lambda score: score.mean)


def thriftiest_setting(outcome: Outcome) -> SettingScore:
    """Return the cheapest setting whose mean lies within the best one's confidence interval."""
    best = best_setting(outcome)
    width = 0.0 if math.isnan(best.half_width) else best.half_width
    near = [score for score in outcome.scores if score.mean >= best.mean - width]
    return min(near, key=lambda score: (score.setting.seconds or 0.0, -score.mean))


def write_results(outcome: Outcome, path: str) -> None:
    """Write a Parquet table with one row per trial.

    Columns: what is varied, `seed`, an annotator's `seconds` per object, finished `step`, `stopped_early`, and the
    scores of the last validation.

    Raises:
        StorageError: it could not be written.
    """
    rows = [
        {
            **result.varied,
            "seed": result.seed,
            "seconds": result.seconds,
            "step": result.step,
            "stopped_early": result.stopped_early,
            **result.scores,
        }
        for result in outcome.results
    ]
    with storage.open_output(path) as file:
        pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd")
