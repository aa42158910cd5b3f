"""The task of STA: windows of boxed frames, true masks, and the Lovász loss of both passes.

Source: STA, training code: 3 frames of one object, 5 steps of each filter, gradients through all of them and from the
second pass into the first, frozen backbone, Adam with a rate for each part. Recipe `paper`.
Differs: generated clips stand in where no data is given, and a recipe for the compact network begins with random
weights; its backbone is learnt, too, from statistics of its batch norms that are measured once on the first samples,
and cross entropy comes first, because Lovász teaches a network that says 0.5 everywhere hardly anything.

Layouts: T frames, S samples (one object each), C channels, H W pixels of the crop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from rayvos.engines.options import fill_options
from rayvos.errors import UsageError, WeightsError, choose
from rayvos.masks.ignore import IGNORE
from rayvos.models.sta import STA, StaModel, Variant, normalise_bgr
from rayvos.models.sta_checkpoint import load_sta
from rayvos.training.datasets import ObjectPicture, TrainingData, open_objects, prepare_data
from rayvos.training.losses import binary_logits, cross_entropy_losses, lovasz_probability, mean_loss
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.sta_initial import ENCODERS, initialise, load_backbone, measure_norms
from rayvos.training.sta_samples import StaAugmentation, StaSample, crop_sample, draw_frames
from rayvos.training.sta_tracks import MIN_AREA, Track, find_tracks, generated_sample, generated_track, split_tracks
from rayvos.training.task import LossResult, Optimisation, Recipe

__all__ = ["RECIPES", "StaBatch", "StaTask", "StaTraining", "plan_sta"]

LOSS_WEIGHT = 100.0  # STA, training code
UNUSED = "label_encoder.samp_w_pred"  # official, but nothing reads it
PAPER_RATES = {"target_model.feature_extractor": 0.2, **dict.fromkeys(ENCODERS, 2.0)}  # of 1e-4; STA, training code
INFERENCE_CONTEXT, INFERENCE_ITERATIONS = 4.0, 15  # STA, evaluation code
VALIDATION_SEED = 1_000_003  # added to the seed: other scenes than those of training
VALIDATED_OBJECTS = 32
CALIBRATION_SAMPLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StaTraining:
    """Options of `rayvos train sta`."""

    variant: Variant = "official"
    """Widths of the network: `official`, or `compact` for training on a CPU."""
    height: int = 480
    """Height of the crops, a multiple of 32."""
    width: int = 832
    """Width of the crops, a multiple of 32."""
    num_frames: int = 3
    """Frames of a sample; an object is learnt from if it is seen on more than twice as many."""
    iterations: int = 5
    """Steps of each filter."""
    learn_backbone: bool = False
    """Whether the image features are learnt, too; the authors keep them as they are."""
    backbone_weights: str | None = None
    """Checkpoint of the backbone, path or URL: Caffe's ResNet-50 of Mask R-CNN, its keys without a prefix."""
    odds: str = ""
    """How often each data set is drawn, in order, such as `6:1`; by default as often as it has objects."""
    pooled: bool = True
    """Sort the errors of all pixels of a worker's piece together, as the authors do; else of each sample by itself,
    which alone does not depend on how a step is cut into pieces."""
    entropy_warmup: float = 0.0
    """Share of the run that begins with cross entropy instead."""
    context: float = 5.0
    """Extent of the crop in extents of the jittered box."""
    size_jitter: float = 0.25
    """Deviation of the logarithm of that box's sides."""
    place_jitter: float = 3.0
    """Range of that box's centre, in its own extents."""
    grey: float = 0.05
    """Share of the samples without colour."""
    flip: float = 0.5
    """Share of the samples that are mirrored."""
    brightness: float = 0.2
    """Largest change of a frame's brightness, as a share."""
    min_score: float = 0.0
    """Labels of a run that are scored lower are not learnt from."""

    def __post_init__(self) -> None:
        self.model()
        if self.num_frames < 1 or self.iterations < 1:
            raise UsageError(
                f"num_frames {self.num_frames}, iterations {self.iterations}: expected numbers from 1 for both"
            )

    def model(self) -> StaModel:
        """Return what makes the network."""
        return StaModel(variant=self.variant, height=self.height, width=self.width)

    def augmentation(self) -> StaAugmentation:
        """Return how samples are changed."""
        return StaAugmentation(
            context=self.context,
            size_jitter=self.size_jitter,
            place_jitter=self.place_jitter,
            grey_share=self.grey,
            flip_share=self.flip,
            brightness=self.brightness,
        )


RECIPES: Mapping[str, Recipe] = {
    # A small network for a CPU, from random weights on generated clips.
    "default": Recipe(
        options={
            "variant": "compact", "height": 96, "width": 160, "learn_backbone": True, "pooled": False,
            "entropy_warmup": 0.3, "place_jitter": 1.5, "context": 4.5,
        },
        optimisation=Optimisation(
            steps=8000, batch_size=8, learning_rate=1e-3, optimiser="adam", warmup_steps=100, clip_norm=20.0,
            ema_decay=0.995,
        ),
    ),
    # The authors' network and schedule; give the data sets in the order YouTube-VOS, DAVIS.
    "paper": Recipe(
        options={"odds": "6:1"},
        optimisation=Optimisation(
            steps=80_000, batch_size=4, learning_rate=1e-4, optimiser="adam", schedule="multistep",
            decay_at=(0.375, 0.75), decay_factor=0.2,
        ),
    ),
}  # fmt: skip
"""Recipes of `rayvos train sta`."""


def plan_sta(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train sta`; see `registry.plan_training`."""
    recipe = RECIPES[choose("recipe", request.recipe, RECIPES)]
    options = {**recipe.options, **request.options}
    if len(request.data) != 2 and "odds" not in request.options:
        options.pop("odds", None)  # the paper's are those of its two data sets
    config = fill_options(StaTraining, options, kind="option of task 'sta'")
    data = _prepared(request.data, request.folder, "data", config)
    validation = _prepared(request.validation, request.folder, "validation", config)
    odds = _odds(config.odds, len(data))
    if not config.learn_backbone and request.weights is None and config.backbone_weights is None:
        raise UsageError(
            "learn_backbone: a backbone of random weights that is not learnt sees nothing; give backbone_weights, "
            "--weights, or learn_backbone=true"
        )
    digest = None
    if request.weights is not None:
        network, digest = load_sta(request.weights)
        if network.model.variant != config.variant:
            raise WeightsError(
                f"weights {request.weights}: of the variant {network.model.variant!r}, the training needs "
                f"{config.variant!r}; give --variant {network.model.variant}"
            )
    for found in (*data, *validation):
        open_objects(found, MIN_AREA).check_frames()
        find_tracks(found, config.num_frames)
    optimisation = request.optimisation(recipe.optimisation)
    task = StaTask(
        config=config, steps=optimisation.steps, seed=request.seed, data=data, validation=validation, odds=odds,
        weights=request.weights, weights_digest=digest,
    )  # fmt: skip
    return TrainingPlan(task=task, optimisation=optimisation)


def _prepared(sources: Sequence[str], folder: str | None, name: str, config: StaTraining) -> tuple[TrainingData, ...]:
    return tuple(
        prepare_data([source], folder=folder, name=f"{name}-{number}", min_score=config.min_score)
        for number, source in enumerate(sources)
    )


def _odds(text: str, count: int) -> tuple[float, ...] | None:
    """Return how often each of `count` data sets is drawn; None: as often as it has objects."""
    if not text:
        return None
    try:
        odds = tuple(float(word) for word in text.split(":"))
    except ValueError as error:
        raise UsageError(f"odds {text!r}: expected numbers such as 6:1") from error
    if len(odds) != count or min(odds) < 0 or not sum(odds):
        raise UsageError(f"odds {text!r}: expected {count} numbers from 0, one for each --data, not all of them 0")
    return odds


@dataclass(frozen=True, slots=True, eq=False)
class StaBatch:
    """Windows of frames and what they show."""

    crops_TSHWC: Tensor
    """uint8, RGB."""
    boxes_TSHW: Tensor
    """bool, painted boxes."""
    labels_TSHW: Tensor
    """uint8: 0, 1 or `IGNORE`."""
    brightness_TS: Tensor
    """float32, what the values of crops are multiplied by."""

    def to(self, device: torch.device) -> StaBatch:
        """Return the batch on a device."""
        return StaBatch(
            *(
                maps.to(device, non_blocking=True)
                for maps in (self.crops_TSHWC, self.boxes_TSHW, self.labels_TSHW, self.brightness_TS)
            )
        )

    def images(self) -> Tensor:
        """Return the network's input (T, S, C, H, W)."""
        lit = self.crops_TSHWC.float() * self.brightness_TS[:, :, None, None, None]
        flat = lit.clamp(0, 255).flatten(0, 1).permute(0, 3, 1, 2)
        return normalise_bgr(flat).reshape(*self.brightness_TS.shape, *flat.shape[1:])


@dataclass(frozen=True, kw_only=True)
class StaTask:
    """Learning masks from windows of boxes; a `TrainingTask`."""

    config: StaTraining
    steps: int = 1
    """Of the whole run, for what the loss begins with."""
    seed: int = 0
    """Of the initial weights, the order of samples and their augmentation."""
    data: tuple[TrainingData, ...] = ()
    """Data sets to learn from; none: generated clips."""
    validation: tuple[TrainingData, ...] = ()
    """What to validate on; none: clips of `data` that are held back, or generated ones of other textures."""
    odds: tuple[float, ...] | None = None
    """How often each data set is drawn; None: as often as it has objects."""
    weights: str | None = None
    """Weights to begin with."""
    weights_digest: str | None = None
    """Their digest, which identifies a run; their path does not."""

    architecture = "sta"

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on."""
        return {
            **asdict(self.config),
            "seed": self.seed,
            "data": [found.digest for found in self.data],
            "validation": [found.digest for found in self.validation],
            "weights": self.weights_digest,
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return the network's configuration."""
        return self.config.model().configuration()

    def build(self) -> nn.Module:
        """Return the network: loaded, or random with the backbone's own weights if they are given."""
        if self.weights is not None:
            loaded, _ = load_sta(self.weights)
            network = STA(self.config.model())
            network.load_state_dict(loaded.state_dict())
            return network
        torch.manual_seed(self.seed)
        network = STA(self.config.model())
        initialise(network)
        if self.config.backbone_weights is not None:
            load_backbone(network, self.config.backbone_weights)
        elif self.config.learn_backbone:
            samples = [self.sample(index) for index in range(CALIBRATION_SAMPLES)]
            measure_norms(network, self.collate(samples).images().flatten(0, 1))
        return network

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return all that is learnt, each part with its own rate if the backbone is not."""
        rates = {} if self.config.learn_backbone else PAPER_RATES
        groups: dict[float, list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            frozen = name.startswith("feature_extractor.") and not self.config.learn_backbone
            if frozen or name.startswith(UNUSED):
                parameter.requires_grad_(False)
                continue
            groups[next((rate for part, rate in rates.items() if name.startswith(part)), 1.0)].append(parameter)
        return [{"params": parameters, "lr_factor": rate} for rate, parameters in groups.items()]

    def sample(self, index: int) -> StaSample:
        """Return a window of one object."""
        rng = np.random.default_rng([self.seed, 0, index])
        size = (self.config.height, self.config.width)
        return crop_sample(self._pictures(index, rng), size, self.config.augmentation(), rng)

    def _pictures(self, index: int, rng: np.random.Generator) -> list[ObjectPicture]:
        num_frames = self.config.num_frames
        if not self.data:
            track = generated_sample(self.seed, index, num_frames)
            return [track[place] for place in draw_frames(range(len(track)), num_frames, rng)]
        tracks = [self._learnt(found) for found in self.data]
        odds = np.array(self.odds if self.odds is not None else [len(found) for found in tracks], float)
        number = int(rng.choice(len(tracks), p=odds / odds.sum()))
        objects = tracks[number][int(rng.integers(len(tracks[number])))].objects
        by_frame = {found.frame: found for found in objects}
        opened = open_objects(self.data[number], MIN_AREA)
        return [opened.picture(by_frame[frame]) for frame in draw_frames(sorted(by_frame), num_frames, rng)]

    def _learnt(self, data: TrainingData) -> Sequence[Track]:
        learnt, _ = split_tracks(data, self.config.num_frames)
        return find_tracks(data, self.config.num_frames) if self.validation else learnt

    def collate(self, samples: Sequence[StaSample]) -> StaBatch:
        """Put samples side by side."""
        return StaBatch(
            torch.from_numpy(np.stack([sample.crops for sample in samples], 1)),
            torch.from_numpy(np.stack([sample.boxes for sample in samples], 1)),
            torch.from_numpy(np.stack([sample.labels for sample in samples], 1)),
            torch.from_numpy(np.stack([sample.brightness for sample in samples], 1)),
        )

    def loss(self, model: nn.Module, batch: StaBatch, step: int) -> LossResult:
        """Return the Lovász losses of both passes, a hundredfold as the authors have it."""
        output = cast(STA, model)(batch.images(), batch.boxes_TSHW.float(), self.config.iterations)
        begins = step < self.config.entropy_warmup * self.steps
        losses = [
            LOSS_WEIGHT * (_entropy if begins else self._lovasz)(logits_TSHW, batch.labels_TSHW)
            for logits_TSHW in (output.logits1_TSHW, output.logits2_TSHW)
        ]
        iou = _ious(output.logits2_TSHW.detach(), batch.labels_TSHW)
        return LossResult(
            losses[0] + losses[1],
            {"loss_first": losses[0].item(), "loss_second": losses[1].item(), "iou": float(np.mean(iou))},
        )

    def _lovasz(self, logits_TSHW: Tensor, labels_TSHW: Tensor) -> Tensor:
        # A sample, all its frames, is what `per_image` sorts together.
        probability_STHW = torch.sigmoid(logits_TSHW.float()).transpose(0, 1)
        return lovasz_probability(probability_STHW, labels_TSHW.transpose(0, 1), per_image=not self.config.pooled)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the mean IoU of crops around exact boxes, whole windows solved as at inference."""
        device = next(model.parameters()).device
        found: dict[str, list[float]] = {"mean_iou": [], "mean_iou_first": []}
        for sample in self._validation_samples():
            batch = self.collate([sample]).to(device)
            with torch.no_grad():
                output = cast(STA, model)(batch.images(), batch.boxes_TSHW.float(), INFERENCE_ITERATIONS)
            found["mean_iou"] += _ious(output.logits2_TSHW, batch.labels_TSHW)
            found["mean_iou_first"] += _ious(output.logits1_TSHW, batch.labels_TSHW)
        return {name: float(np.mean(values)) for name, values in found.items() if values}

    def _validation_samples(self) -> Iterator[StaSample]:
        """Yield windows of objects, frames evenly spaced, nothing changed."""
        num_frames, size = self.config.num_frames, (self.config.height, self.config.width)
        if not self.data and not self.validation:
            yield from _generated_samples(self.seed + VALIDATION_SEED, num_frames, size)
            return
        for data in self.validation or self.data:
            opened = open_objects(data, MIN_AREA)
            tracks = find_tracks(data, num_frames) if self.validation else split_tracks(data, num_frames)[1]
            for track in _spread(tracks, VALIDATED_OBJECTS):
                yield _exact_sample([opened.picture(found) for found in _spread(track.objects, num_frames)], size)


@lru_cache(maxsize=1)
def _generated_samples(seed: int, num_frames: int, size: tuple[int, int]) -> list[StaSample]:
    """Return samples of generated clips: kept, because drawing them takes longer than labelling them."""
    return [
        _exact_sample(_spread(generated_track(seed, number, 0, num_frames, validating=True), num_frames), size)
        for number in range(VALIDATED_OBJECTS)
    ]


def _exact_sample(pictures: Sequence[ObjectPicture], size: tuple[int, int]) -> StaSample:
    return crop_sample(pictures, size, StaAugmentation.nothing(INFERENCE_CONTEXT), np.random.default_rng(0))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items, evenly spaced."""
    if len(items) <= count:
        return list(items)
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, count)]


def _entropy(logits_TSHW: Tensor, labels_TSHW: Tensor) -> Tensor:
    labels_BHW = labels_TSHW.flatten(0, 1)
    losses_BHW = cross_entropy_losses(binary_logits(logits_TSHW.flatten(0, 1)), labels_BHW)
    return mean_loss(losses_BHW, labels_BHW, per_image=True)


def _ious(logits_TSHW: Tensor, labels_TSHW: Tensor) -> list[float]:
    """Return the IoU of each frame and sample, ignored pixels left out; 1 where both are empty."""
    valid, truth = labels_TSHW != IGNORE, labels_TSHW == 1
    drawn = (logits_TSHW > 0) & valid
    both, either = (maps.flatten(2).sum(2) for maps in (drawn & truth, drawn | truth))
    ious: list[float] = torch.where(either > 0, both / either.clamp(min=1), 1.0).flatten().tolist()
    return ious
