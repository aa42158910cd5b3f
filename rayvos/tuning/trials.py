"""Trials: one setting, one seed, one training run in a folder of its own, and one result file once it has ended.

    OUT/sweep.json                     what is swept: a folder belongs to one sweep
    OUT/trials/<setting>/seed-<n>/     the training run, see `training.runs`
    OUT/trials/<setting>/seed-<n>/result.json    appears once the trial has ended; a restarted sweep passes it over

Why files of our own and not Ray's experiment state: a result must outlive Ray's version and pickles, and a trial that
was killed goes on from its own checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rayvos import storage
from rayvos.annotations.own_json import read_own_json
from rayvos.errors import FormatError, MissingPathError, UsageError
from rayvos.training.progress_notes import RunNote
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.runs import RunSettings, train_run
from rayvos.tuning.spaces import Setting

__all__ = ["Trial", "TrialResult", "claim_sweep", "read_result", "run_trial", "write_result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting with one seed; small, and travels to the process that runs it."""

    folder: str
    """Path or URL."""
    task: str
    request: TrainingRequest
    """With the setting's options and the seed."""
    setting: Setting
    seed: int
    validations: int
    """How often it is validated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What a trial came to."""

    varied: Mapping[str, float]
    seed: int
    seconds: float | None
    """An annotator's, per object of a training clip."""
    step: int
    """Finished steps; fewer than asked for where the scheduler ended it early."""
    stopped_early: bool
    scores: Mapping[str, float]
    """The last validation."""


def claim_sweep(out: str, facts: Mapping[str, Any]) -> None:
    """Make a folder the folder of this sweep.

    Raises:
        UsageError: it holds another sweep; the message names what differs.
        FormatError: its `sweep.json` is damaged.
        StorageError: it cannot be written.
    """
    path = storage.join(out, "sweep.json")
    expected = json.loads(json.dumps(facts))
    if storage.create_if_absent(path, json.dumps(expected, indent=1, sort_keys=True).encode()):
        return
    found = read_own_json(path, "remove it and run the sweep again")
    different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if different:
        told = "; ".join(f"{name}: {found.get(name)!r} there, {expected.get(name)!r} now" for name in different)
        raise UsageError(f"{out}: holds another sweep ({told}); choose another folder, or discard it with --overwrite")


def read_result(folder: str) -> TrialResult | None:
    """Return the result of a trial's folder; None where it has not ended.

    Raises:
        FormatError: the file is damaged.
    """
    path = storage.join(folder, "result.json")
    try:
        found = read_own_json(path, "remove it and run the sweep again")
    except MissingPathError:
        return None
    try:
        varied = {axis: float(value) for axis, value in found.pop("varied").items()}
        return TrialResult(varied=varied, **found)
    except (TypeError, KeyError) as error:
        raise FormatError(
            f"{path}: expected the result of a trial ({error}); remove it to run the trial again"
        ) from error


def write_result(folder: str, result: TrialResult) -> None:
    """Write the result of a trial that has ended.

    Raises:
        StorageError: it could not be written.
    """
    facts = asdict(result)
    # JSON knows no infinity; float() reads the word back.
    facts["varied"] = {axis: str(value) for axis, value in result.varied.items()}
    storage.write_bytes(storage.join(folder, "result.json"), json.dumps(facts, indent=1).encode())


def run_trial(trial: Trial, settings: RunSettings, on_validation: Callable[[int, int, dict[str, float]], None]) -> None:
    """Train to the end, from where the trial's folder stands, in this process.

    Args:
        trial: what.
        settings: how; its folder and its validations are the trial's.
        on_validation: called with the finished steps, all steps, and the scores of each validation.

    Raises:
        RayvosError: see `training.runs.train_run`.
    """
    plan = plan_training(trial.task, trial.request)
    seen: dict[str, float] | None = None

    def watch(note: RunNote) -> None:
        nonlocal seen
        if note.validation and note.validation is not seen:
            seen = note.validation
            on_validation(note.step, note.steps, note.validation)

    every = max(1, plan.optimisation.steps // trial.validations)
    summary = train_run(plan, replace(settings, out=trial.folder, validate_every=every), watch=watch)
    if seen is None and summary.best:  # all steps were done before this process was started
        on_validation(
            summary.step, summary.steps, {name: value for name, value in summary.best.items() if name != "step"}
        )
