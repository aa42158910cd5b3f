"""Data of a sweep, prepared once: trials read manifests, whatever was given.

    OUT/data/…    one manifest per source that had to be imported, and per `min_score` that labels of runs are cut at

Why kept: a restored sweep learns from the same data as the trials that had ended, even if the sources have changed
since, and starts at once. Discard the sweep to have it learn from what the sources hold now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from rayvos import storage
from rayvos.errors import UsageError
from rayvos.training.datasets import prepare_data
from rayvos.tuning.trials import Trial

__all__ = ["with_prepared_data"]


def with_prepared_data(trials: Sequence[Trial], out: str, common: Mapping[str, str]) -> list[Trial]:
    """Return the trials with manifests for data, written where they are not there yet, and paths for any process.

    Args:
        trials: of one sweep.
        out: folder of the sweep, path or URL.
        common: options that all trials share: validation is cut at their `min_score`, the same for all trials.

    Raises:
        UsageError: a source is of no known format, or a `min_score` is no number.
        InputError: a source cannot be read.
        StorageError: it is not there, or the folder cannot be written.
    """

    @cache
    def manifest(source: str, min_score: str) -> str:
        if source.endswith(".parquet"):
            return storage.absolute(source)  # trials have working directories of their own
        return _prepared(source, out, min_score)

    def manifests(sources: Sequence[str], options: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(manifest(source, options.get("min_score", "0")) for source in sources)

    found = []
    for trial in trials:
        data, held_out = trial.request.data, trial.request.validation
        request = replace(
            trial.request.anchored(),
            data=manifests(data, trial.request.options),
            validation=manifests(held_out, common),
        )
        found.append(replace(trial, request=request))
    return found


def _prepared(source: str, out: str, min_score: str) -> str:
    try:
        least = float(min_score)
    except ValueError as error:
        raise UsageError(f"min_score: expected a number from 0 to 1, found {min_score!r}") from error
    name = hashlib.sha256(f"{source}\n{least}".encode()).hexdigest()[:12]
    kept = storage.join(out, "data", f"{name}-0.parquet")
    if storage.exists(kept):
        return kept
    return prepare_data([source], folder=out, name=name, min_score=least).manifests[0]
