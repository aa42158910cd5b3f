"""Runs the trials of a sweep on Ray Tune: side by side, bad ones ended early, each at most once."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rayvos.errors import RunError, UsageError, choose
from rayvos.training.runs import RunSettings
from rayvos.tuning.trials import Trial, TrialResult, read_result, run_trial, write_result

__all__ = ["SweepSettings", "run_sweep"]

logger = logging.getLogger(__name__)

REDUCTION = 3  # ASHA: of the trials that reach a rung, one in three goes on


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """How a sweep is carried out."""

    metric: str = "j_and_f"
    """Of the validation; more is better."""
    early_stopping: bool = False
    """End trials that are worse than others halfway (ASHA)."""
    concurrent: int | None = None
    """Trials at once; None: as many as the cluster's CPUs, or GPUs, allow."""
    cpus: float = 1
    """CPUs of a trial."""
    gpus: float = 0
    """GPUs of a trial; a fraction lets several share one."""
    device: str = "auto"
    loaders: int = 0
    """Processes of a trial that make samples ahead."""

    def __post_init__(self) -> None:
        if self.concurrent is not None and self.concurrent < 1:
            raise UsageError(f"concurrent: expected a number from 1, found {self.concurrent}")
        if self.cpus <= 0 or self.gpus < 0:
            raise UsageError(f"cpus {self.cpus}, gpus {self.gpus}: expected a number above 0, and one from 0")


def run_sweep(
    trials: Sequence[Trial], settings: SweepSettings, *, on_result: Callable[[TrialResult], None] | None = None
) -> list[TrialResult]:
    """Run the trials that have not ended, on the cluster this process is connected to.

    Args:
        trials: all of them.
        settings: how.
        on_result: called in the driver when a trial ends.

    Returns:
        The results in the order of the trials.

    Raises:
        RunError: trials failed; the others' results are kept, and the same call runs those that failed again.
        UsageError: the cluster is too small for one trial.
    """
    left = [trial for trial in trials if read_result(trial.folder) is None]
    if left:
        _check_room(settings)
        failures = _run(left, settings, on_result)
        if failures:
            raise RunError(
                f"{len(failures)} of {len(trials)} trials failed, the first {failures[0]}; "
                "the same command runs them again"
            )
    found = [read_result(trial.folder) for trial in trials]
    return [result for result in found if result is not None]


def _check_room(settings: SweepSettings) -> None:
    there = ray.cluster_resources()
    if there.get("CPU", 0) < settings.cpus or there.get("GPU", 0) < settings.gpus:
        raise UsageError(
            f"a trial asks for {settings.cpus:g} CPUs and {settings.gpus:g} GPUs, the cluster has "
            f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; ask for less"
        )


def _run(
    trials: Sequence[Trial], settings: SweepSettings, on_result: Callable[[TrialResult], None] | None
) -> list[str]:
    """Run trials; return what is to be said of those that failed."""
    scheduler = None
    if settings.early_stopping:
        scheduler = ASHAScheduler(
            max_t=trials[0].validations, grace_period=max(1, trials[0].validations // REDUCTION),
            reduction_factor=REDUCTION,
        )  # fmt: skip
    # Our own files hold all that matters; Ray's are of one start and are thrown away with it.
    with tempfile.TemporaryDirectory(prefix="rayvos-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_train, {"cpu": settings.cpus, "gpu": settings.gpus}),
            param_space={"number": tune.grid_search(list(range(len(trials)))), "trials": list(trials),
                         "settings": settings},
            tune_config=tune.TuneConfig(
                metric=settings.metric, mode="max", max_concurrent_trials=settings.concurrent, scheduler=scheduler
            ),
            run_config=tune.RunConfig(
                name="sweep", storage_path=scratch, verbose=0, callbacks=[_Keeper(trials, on_result)]
            ),
        )  # fmt: skip
        # Tables of its own that Tune prints: stdout is for results.
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            found = tuner.fit()
    logger.debug("tune=%s", printed.getvalue())
    failures = []
    for place in range(len(found)):
        result = found[place]
        if result.error is not None:
            trial = trials[(result.config or {})["number"]]
            reason = str(result.error).strip().splitlines()[-1]
            failures.append(f"{trial.setting.name} with seed {trial.seed}: {reason}")
    return failures


def _train(config: dict[str, Any]) -> None:
    """Run one trial; in a process of Ray Tune."""
    import cv2
    import torch

    settings: SweepSettings = config["settings"]
    trial: Trial = config["trials"][config["number"]]
    torch.set_num_threads(max(1, int(settings.cpus)))
    cv2.setNumThreads(1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(settings.cpus))))
    device = "cpu" if settings.gpus == 0 else settings.device

    def report(step: int, steps: int, scores: dict[str, float]) -> None:
        choose("metric", settings.metric, scores)
        tune.report({**scores, "step": step, "steps": steps, "score_names": ",".join(scores)})

    run_trial(trial, RunSettings(out=trial.folder, device=device, processes=settings.loaders), report)


class _Keeper(tune.Callback):
    """Writes the result of each trial when it ends; runs in the driver."""

    def __init__(self, trials: Sequence[Trial], on_result: Callable[[TrialResult], None] | None) -> None:
        self._trials = list(trials)
        self._on_result = on_result

    def __getstate__(self) -> dict[str, Any]:
        """Leave out whom to tell: Ray keeps a copy of what it was given, a progress bar in it cannot be pickled."""
        return {"_trials": self._trials, "_on_result": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Keeper:
        return self

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Keep what the trial reported last."""
        last = trial.last_result or {}
        if "score_names" not in last:
            return
        ended = self._trials[trial.config["number"]]
        result = TrialResult(
            varied=ended.setting.varied,
            seed=ended.seed,
            seconds=ended.setting.seconds,
            step=int(last["step"]),
            stopped_early=int(last["step"]) < int(last["steps"]),
            scores={name: float(last[name]) for name in last["score_names"].split(",")},
        )
        write_result(ended.folder, result)
        if self._on_result is not None:
            self._on_result(result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Log it; the sweep goes on with the others."""
        logger.error("trial %s failed", self._trials[trial.config["number"]].setting.name)
