"""Recipes of the tasks `stcn` and `point-stcn`: the papers' schedules by name, and two that need no data.

Source: STCN (stages 0 to 3; batches are those of its two processes together), Point-VOS (schedules by data set).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rayvos.engines.options import fill_options
from rayvos.errors import UsageError, WeightsError, choose
from rayvos.models.stcn import STCN
from rayvos.models.stcn_checkpoint import load_stcn
from rayvos.training.datasets import TrainingData, prepare_data
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.stcn_task import StcnTask, StcnTraining
from rayvos.training.task import Optimisation, Recipe
from rayvos.training.vos_clips import open_clips

__all__ = ["POINT_RECIPES", "RECIPES", "plan_point_stcn", "plan_stcn"]

WEIGHT_DECAY = 1e-7  # STCN


def _paper(steps: int, batch_size: int, decay_at: int, **options: Any) -> Recipe:
    optimisation = Optimisation(
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-5,
        optimiser="adam",
        weight_decay=WEIGHT_DECAY,
        schedule="multistep",
        decay_at=(decay_at / steps,),
    )
    return Recipe(options=options, optimisation=optimisation)


def _generated(**options: Any) -> Mapping[str, Recipe]:
    """Return recipes for generated clips and random weights: for a GPU, and for minutes on a laptop."""
    default = Optimisation(
        steps=20_000, batch_size=16, learning_rate=2e-4, warmup_steps=500, ema_decay=0.999, clip_norm=1.0
    )
    quick = Optimisation(steps=400, batch_size=4, learning_rate=1e-3, warmup_steps=20, ema_decay=0.98, clip_norm=1.0)
    return {
        "default": Recipe(options={"size": 192, "clips": 2000, **options}, optimisation=default),
        "quick": Recipe(options={"size": 96, "width": 8, **options}, optimisation=quick),
    }


RECIPES: Mapping[str, Recipe] = {
    **_generated(),
    "static": _paper(300_000, 16, 150_000, static=True, max_objects=1),
    "bl30k": _paper(500_000, 8, 400_000),
    "video": _paper(150_000, 8, 125_000),
    "video-long": _paper(300_000, 8, 250_000),
    "pseudo-masks": _paper(38_000, 8, 30_000, loss="huberised", tau=3.0),
}
"""Recipes of `rayvos train stcn`."""

POINT_RECIPES: Mapping[str, Recipe] = {
    **_generated(supervision="points", loss="ce"),
    "pv-davis-youtube": _paper(38_000, 8, 30_000, supervision="points", loss="ce"),
    "pv-oops": _paper(60_000, 8, 50_000, supervision="points", loss="ce"),
    "pv-kinetics": _paper(190_000, 8, 150_000, supervision="points", loss="ce"),
    "hybrid": _paper(38_000, 8, 30_000, supervision="hybrid"),
}
"""Recipes of `rayvos train point-stcn`."""


def plan_stcn(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train stcn`; see `registry.plan_training`."""
    return _plan("stcn", RECIPES, request)


def plan_point_stcn(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train point-stcn`; see `registry.plan_training`."""
    plan = _plan("point-stcn", POINT_RECIPES, request)
    if not cast(StcnTask, plan.task).config.from_points:
        raise UsageError("supervision 'masks': task 'point-stcn' is given points; use task 'stcn', or 'hybrid'")
    return plan


def _plan(name: str, recipes: Mapping[str, Recipe], request: TrainingRequest) -> TrainingPlan:
    recipe = recipes[choose("recipe", request.recipe, recipes)]
    config = fill_options(StcnTraining, {**recipe.options, **request.options}, kind=f"option of task {name!r}")
    data, validation = (
        prepare_data(sources, folder=request.folder, name=kind, min_score=config.min_score) if sources else None
        for kind, sources in (("data", request.data), ("validation", request.validation))
    )
    digest = None
    if request.weights is not None:
        network, digest = load_stcn(request.weights)
        if not isinstance(network, STCN):
            raise WeightsError(f"weights {request.weights}: expected an stcn network; use task 'propagation' for these")
        _check_width(request.weights, network, config)
    _check_data(data, validation, config)
    optimisation = request.optimisation(recipe.optimisation)
    task = StcnTask(
        config=config,
        steps=optimisation.steps,
        batch_size=optimisation.batch_size,
        seed=request.seed,
        data=data,
        validation=validation,
        weights=request.weights,
        weights_digest=digest,
    )
    return TrainingPlan(task=task, optimisation=optimisation)


def _check_width(path: str, network: STCN, config: StcnTraining) -> None:
    found = network.configuration().get("width", 64)
    if found != config.width:
        raise WeightsError(f"weights {path}: of a network of width {found}, the training asks for {config.width}")


def _check_data(data: TrainingData | None, validation: TrainingData | None, config: StcnTraining) -> None:
    """Meet what no training can do with before the first step.

    Raises:
        InputError: a set is empty, holds no annotations of the kind or of one class only, or frames cannot be read or
            have another size than the manifest says.
    """
    if data is not None:
        open_clips(data, config.supervision, config.simulate, config.frames).check()
    if validation is not None:
        open_clips(validation).check()
