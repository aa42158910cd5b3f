"""A task that trains in milliseconds and is better the more points it is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayvos.engines.options import fill_options
from rayvos.training.registry import TrainingPlan, TrainingRequest
from tests.training.tiny_task import TinyTask, tiny_optimisation

__all__ = ["plan_swept"]


@dataclass
class SweptTask(TinyTask):
    points: int = 1
    reference_points: int = 1
    validated_points: int = 1
    frames: int = 1
    broken: str = ""
    """File that names the number of points with which training fails."""

    def options(self):
        return {**super().options(), "points": self.points}

    def validate(self, model):
        if self.broken and Path(self.broken).exists() and Path(self.broken).read_text() == str(self.points):
            raise RuntimeError("broken on purpose")
        return {"j_and_f": self.points / 100}


def plan_swept(request: TrainingRequest) -> TrainingPlan:
    """Plan the task for `rayvos tune --task tests.tuning.swept_task:plan_swept`."""
    options: dict[str, Any] = {"seed": request.seed, **request.options}
    task = fill_options(SweptTask, options, kind="option of task 'swept'")
    return TrainingPlan(task=task, optimisation=request.optimisation(tiny_optimisation()))
