"""The guided segmenter learns from frames and their boxes, without a mask: `rayvos train guided --supervision boxes`.

Where `rayvos label --adapt` bends a network to one clip, this task bends one network to many clips of one kind. The
losses are those of `engines/guided/box_supervision.py`; the anchor is the network that the run began with. Batch norms
are frozen. Validation looks at crops that are not trained on: `score_gain`, how much better the network judges its
masks than the first network judged its own, decides which weights are the best. Where it stays below zero, boxes did
not help: go on with the weights before.

A visit draws one crop of one of the last few clips, and the row of clips moves on every `visits` visits: decoding a
clip and cutting its crops costs seconds, so what was cut is used many times while it is at hand.
Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from rayvos.annotations.manifest import ManifestFile
from rayvos.engines.guided.adapt import box_score
from rayvos.engines.guided.box_supervision import (
    BoxBatch,
    BoxCrop,
    BoxLossWeights,
    box_losses,
    box_pairs,
    read_box_crops,
    stack_crops,
    total_loss,
)
from rayvos.engines.guided.network import DEFAULT_WEIGHTS
from rayvos.engines.options import fill_options
from rayvos.errors import InputError, UsageError, choose
from rayvos.models.guided import Guided
from rayvos.models.registry import load_model
from rayvos.models.weights import read_weights
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.task import LossResult, Optimisation
from rayvos.video.source import open_clip

__all__ = ["RECIPES", "BoxSupervisionOptions", "BoxSupervisionTask", "plan_box_supervision"]

CLIPS_AT_HAND = 8
VALIDATION_CLIPS = 8
RECIPES: Mapping[str, Optimisation] = {
    # Specification of the default model, section 5c: 300 steps for 18 clips.
    "default": Optimisation(steps=300, batch_size=8, learning_rate=1e-4, schedule="constant", optimiser="adam"),
}
"""Recipes of `rayvos train guided --supervision boxes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSupervisionOptions:
    """Options of the task `guided` with `supervision=boxes`."""

    supervision: str = "boxes"
    """What is learnt from."""
    crops: int = 24
    """Crops of a clip at most, evenly spread; every second one is kept for validation where there is no other."""
    visits: int = 48
    """Visits after which the row of clips moves on by one."""
    projection: float = 0.3
    """Weight of the loss: the mask reaches all sides of its box."""
    negatives: float = 1.0
    """Weight of the loss: nothing outside the box."""
    pairwise: float = 0.3
    """Weight of the loss: neighbours of one colour have one label."""
    temporal: float = 0.3
    """Weight of the loss: masks move with the flow."""
    anchor: float = 0.3
    """Weight of the loss: what the network said before."""

    def __post_init__(self) -> None:
        if self.crops < 2 or self.visits < 1:
            raise UsageError(f"crops {self.crops}, visits {self.visits}: expected at least 2 and 1")


@dataclass(frozen=True, slots=True)
class _Place:
    """A clip of a manifest."""

    manifest: str
    row: int


@dataclass(frozen=True, kw_only=True)
class BoxSupervisionTask:
    """Learning from boxed clips; a `TrainingTask`."""

    architecture: str = field(default="guided", init=False)
    data: tuple[str, ...]
    """Manifests, paths or URLs."""
    validation: tuple[str, ...] = ()
    """Manifests to validate on; (): every second crop of the first clips of `data`, which is then not trained on."""
    weights: str = DEFAULT_WEIGHTS
    """Where to begin: path, URL, or name of packaged weights."""
    seed: int = 0
    """Of the order of visits."""
    crops: int = 24
    """Crops of a clip at most."""
    visits: int = 48
    """Visits after which the row of clips moves on by one."""
    losses: BoxLossWeights = field(default_factory=BoxLossWeights)
    """Weights of the terms."""

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on besides the optimisation."""
        return {
            "supervision": "boxes",
            "data": list(self.data),
            "validation": list(self.validation),
            "initial": _digest(self.weights),
            "seed": self.seed,
            "crops": self.crops,
            "visits": self.visits,
            "losses": asdict(self.losses),
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return the network's configuration: that of the weights it begins with."""
        return _start(self.weights).configuration()

    def build(self) -> nn.Module:
        """Return the network as it begins."""
        network = load_model(self.weights, architecture="guided")[0]
        return network.requires_grad_(True).to(memory_format=torch.channels_last)

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return all weights but those of the batch norms."""
        frozen = {id(parameter) for norm in _batch_norms(model) for parameter in norm.parameters()}
        return [{"params": [parameter for parameter in model.parameters() if id(parameter) not in frozen]}]

    def sample(self, index: int) -> BoxCrop:
        """Return the crop of a visit.

        Raises:
            InputError: no clip has an object boxed on two neighbouring frames, or a frame cannot be read.
        """
        generator = np.random.default_rng([self.seed, index])
        places = _places(self.data)
        newest = index // self.visits + CLIPS_AT_HAND - 1
        place = places[int(generator.integers(newest - CLIPS_AT_HAND + 1, newest + 1)) % len(places)]
        crops = self._crops(place)
        learnt = crops if self.validation or len(crops) == 1 else crops[::2]
        return learnt[int(generator.integers(len(learnt)))]

    def _crops(self, place: _Place) -> tuple[BoxCrop, ...]:
        return _clip_crops(place.manifest, place.row, _start(self.weights).model.size, self.crops)

    def collate(self, samples: Sequence[BoxCrop]) -> BoxBatch:
        """Put crops together."""
        return stack_crops(samples)

    def loss(self, model: nn.Module, batch: BoxBatch, step: int) -> LossResult:
        """Return the weighted sum of the terms."""
        for norm in _batch_norms(model):
            norm.eval()
        start = _start(self.weights).to(batch.planes_BCHW.device)
        terms = box_losses(model, start, batch, self.losses)
        return LossResult(total_loss(terms), {name: float(term.detach()) for name, term in terms.items()})

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return how much the score of crops that are not trained on has grown, and the score itself."""
        places = _places(self.validation or self.data)[:VALIDATION_CLIPS]
        first, step = (0, 1) if self.validation else (1, 2)
        crops = [crop for place in places for crop in self._crops(place)[first::step]]
        if not crops:
            return {}
        device = next(model.parameters()).device
        start = _start(self.weights).to(device)
        before, after = (
            float(np.mean([box_score(network, crop, device) for crop in crops])) for network in (start, model)
        )
        return {"score_gain": after - before, "score": after}


def _batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@lru_cache(maxsize=1)
def _start(weights: str) -> Guided:
    """Return the network that a run begins with, for the anchor; one per process."""
    return cast(Guided, load_model(weights, architecture="guided")[0].requires_grad_(False))


@lru_cache(maxsize=1)
def _digest(weights: str) -> str:
    """Return the digest of weights; a packaged file is found by its name."""
    from rayvos.models.registry import packaged_weights

    return read_weights(packaged_weights().get(weights, weights))[1].digest


@lru_cache(maxsize=2)
def _places(manifests: tuple[str, ...]) -> tuple[_Place, ...]:
    """Return the clips that have an object boxed on two neighbouring frames."""
    places = tuple(
        _Place(path, row) for path in manifests for row, clip in enumerate(ManifestFile(path)) if box_pairs(clip, 1)
    )
    if not places:
        raise InputError(
            f"{', '.join(manifests)}: no clip has an object with boxes on two neighbouring frames; boxes are all that "
            "this training learns from"
        )
    return places


@lru_cache(maxsize=2 * CLIPS_AT_HAND)
def _clip_crops(manifest: str, row: int, size: int, most: int) -> tuple[BoxCrop, ...]:
    """Return the crops of a clip, kept for the visits that follow."""
    clip = next(clip for _, clip in ManifestFile(manifest).read_rows([row]))
    with open_clip(clip) as images:
        crops = tuple(read_box_crops(clip, images, box_pairs(clip, most), size))
    if not crops:
        raise InputError(f"clip {clip.clip_id!r}: its boxes lie outside their frames; import it again")
    return crops


def plan_box_supervision(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train guided --supervision boxes`.

    Raises:
        UsageError: there are no data, or the recipe, an option or a value is not possible.
        InputError: no clip has boxes to learn from.
        WeightsError: the initial weights are missing, damaged or of another network.
    """
    if not request.data:
        raise UsageError("task 'guided' with supervision=boxes: expected --data MANIFEST with boxes, found none")
    options = fill_options(BoxSupervisionOptions, request.options, kind="option of task 'guided'")
    terms = {name: getattr(options, name) for name in ("projection", "negatives", "pairwise", "temporal", "anchor")}
    task = BoxSupervisionTask(
        data=request.data,
        validation=request.validation,
        weights=request.weights or DEFAULT_WEIGHTS,
        seed=request.seed,
        crops=options.crops,
        visits=options.visits,
        losses=BoxLossWeights(**terms),
    )
    _places(request.data)
    _start(task.weights)
    recipe = RECIPES[choose("recipe", request.recipe, RECIPES)]
    return TrainingPlan(task=task, optimisation=request.optimisation(recipe))
