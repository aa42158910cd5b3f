"""The task `stcn`, small and on generated clips, in which a worker or its driver may die on the way."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

from torch import nn

from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.stcn_recipes import plan_stcn
from rayvos.training.stcn_task import ClipBatch, StcnTask
from rayvos.training.task import LossResult

__all__ = ["MortalStcn", "plan_mortal"]

SMALL = {"width": 8, "size": 32, "clips": 4, "validated_clips": 1}


@dataclass(frozen=True, kw_only=True)
class MortalStcn(StcnTask):
    """Kills once, after a step."""

    deaths: str = ""
    """`STEP:FILE,…`: after so many steps the worker that can remove the file kills the process it names; an empty file
    names that worker."""

    def loss(self, model: nn.Module, batch: ClipBatch, step: int) -> LossResult:
        for death in filter(None, self.deaths.split(",")):
            when, _, path = death.partition(":")
            if step == int(when):
                _kill_named_in(Path(path))
        return super().loss(model, batch, step)


def _kill_named_in(file: Path) -> None:
    try:
        victim = file.read_text()
        file.unlink()
    except FileNotFoundError:
        return
    os.kill(int(victim or os.getpid()), signal.SIGKILL)
    time.sleep(60)  # Ray's processes end after their driver: no step is done without it


def plan_mortal(request: TrainingRequest) -> TrainingPlan:
    """Plan it for `rayvos train tests.training.mortal_stcn:plan_mortal`; `deaths` is an option."""
    options = {**SMALL, **request.options}
    deaths = str(options.pop("deaths", ""))
    plan = plan_stcn(replace(request, recipe="quick", options=options))
    known = {known.name: getattr(plan.task, known.name) for known in fields(StcnTask) if known.init}
    return replace(plan, task=cast(StcnTask, MortalStcn(**known, deaths=deaths)))
