"""Training tasks by name, as `rayvos train NAME` writes them; a task's module is imported when it is planned.

A planner is a function `(TrainingRequest) -> TrainingPlan` in the task's own file. It looks up its recipe, lets the
request's words win over it, checks the data as far as that is cheap, and opens nothing large: plans travel to workers.

    def plan_box2seg(request: TrainingRequest) -> TrainingPlan:
        config = fill_options(Box2SegTraining, {**RECIPES[choose("recipe", request.recipe, RECIPES)], ...}, kind=…)
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayvos import storage
from rayvos.errors import choose
from rayvos.training.task import Optimisation, TrainingTask

__all__ = ["TASKS", "TrainingPlan", "TrainingRequest", "plan_training"]

TASKS: Mapping[str, str] = {
    "guided": "rayvos.training.guided_task:plan_guided",
    "propagation": "rayvos.training.propagation_task:plan_propagation",
    "box2seg": "rayvos.training.box2seg_task:plan_box2seg",
    "sta": "rayvos.training.sta_task:plan_sta",
    "stcn": "rayvos.training.stcn_recipes:plan_stcn",
    "point-stcn": "rayvos.training.stcn_recipes:plan_point_stcn",
}
"""Name → `module:function` of the planner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRequest:
    """What a person asks for."""

    recipe: str = "default"
    """Name of a recipe of the task."""
    data: tuple[str, ...] = ()
    """What to learn from: paths or URLs of manifests, run folders, data sets; none: generated clips."""
    validation: tuple[str, ...] = ()
    """What to validate on; none: what the task holds back."""
    weights: str | None = None
    """Initial weights, path or URL; None: the recipe's, or random ones."""
    seed: int = 0
    """Of the initial weights, the order of samples, and their augmentation."""
    steps: int | None = None
    """Optimiser steps; None: the recipe's."""
    batch_size: int | None = None
    """Samples of a step over all workers; None: the recipe's."""
    learning_rate: float | None = None
    """Base rate; None: the recipe's."""
    folder: str | None = None
    """Folder of the run, where what had to be imported is kept for the workers."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The task's own options, typed or as text; see `engines.options.fill_options`."""

    def anchored(self) -> TrainingRequest:
        """Return the request with weights as workers find them, which have working directories of their own."""
        weights = self.weights
        if weights is None or storage.is_url(weights) or not storage.exists(weights):  # or a packaged name
            return self
        return replace(self, weights=storage.absolute(weights))

    def optimisation(self, recipe: Optimisation) -> Optimisation:
        """Return a recipe's optimisation with what the request changes; warm-up shrinks with a shorter run."""
        steps = recipe.steps if self.steps is None else self.steps
        return replace(
            recipe,
            steps=steps,
            warmup_steps=round(recipe.warmup_steps * min(1, steps / recipe.steps)),
            batch_size=recipe.batch_size if self.batch_size is None else self.batch_size,
            learning_rate=recipe.learning_rate if self.learning_rate is None else self.learning_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What is trained, and how; picklable and small."""

    task: TrainingTask
    optimisation: Optimisation


def plan_training(name: str, request: TrainingRequest) -> TrainingPlan:
    """Return the plan of a task.

    Args:
        name: a name of `TASKS`, or `package.module:function` of your own planner.
        request: what a person asks for.

    Raises:
        UsageError: the task, its recipe or an option is unknown, or a value is not possible.
        InputError: the data cannot be used.
        WeightsError: the initial weights cannot be used.
    """
    request = request.anchored()
    place = name if ":" in name else TASKS[choose("task", name, TASKS)]
    module, _, function = place.partition(":")
    plan: TrainingPlan = getattr(importlib.import_module(module), function)(request)
    return plan
