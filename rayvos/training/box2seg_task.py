"""The task of the box-guided segmenter: one object, its box, its mask.

Source: Box2Seg and, where it is silent, the training of the PReMVOS refinement network: box jitter, margin, crop and
resize as the engine does, gamma, flip, the hardest quarter of the pixels of each image.
Differs: generated clips stand in where no data is given, and recipes for networks that start from random weights.
Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayvos.engines.options import fill_options
from rayvos.errors import UsageError, WeightsError, choose
from rayvos.masks.boxes import Margin, crop_around, jitter_box, mask_to_box, paint_guidance, round_box
from rayvos.masks.ignore import IGNORE
from rayvos.models.backbones import load_backbone_weights
from rayvos.models.box2seg import Box2Seg, Box2SegModel, normalise_crops
from rayvos.models.registry import build_model, load_model
from rayvos.models.weights import read_checkpoint
from rayvos.training.augment import change_gamma, draw_gamma, jitter_colours
from rayvos.training.datasets import ObjectFrame, ObjectPicture, TrainingData, open_objects, prepare_data
from rayvos.training.losses import cross_entropy_losses, hardest_loss, huberised_losses, mean_loss, tau_at
from rayvos.training.optimising import freeze_batch_norms
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.task import LossResult, Optimisation, Recipe
from rayvos.video.synthetic import SynthConfig, generate_clip
from rayvos.video.synthetic_textures import PROGRAMS

__all__ = ["RECIPES", "Box2SegBatch", "Box2SegTask", "Box2SegTraining", "plan_box2seg"]

HELD_OUT_PROGRAMS = ("cells", "bricks")  # textures that validation uses and training on generated clips never sees
VALIDATION_SEED = 1_000_003  # added to the seed: other scenes than those of training
VALIDATED_OBJECTS = 64
SAMPLES_PER_CLIP = 6  # of a generated clip: drawing it costs more than cropping from it
SYNTH_FRAMES = 3
ATTEMPTS = 8  # at generated clips, to find one with an object that is large enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Box2SegTraining:
    """Options of `rayvos train box2seg`."""

    backbone: str = "tiny"
    """Image encoder: `tiny`, `mobilenet_v3_large`, `resnet50`, `convnext_tiny`, `xception65`."""
    backbone_weights: str | None = None
    """Checkpoint of that encoder as an image classifier, path or URL."""
    size: int = 385
    """Height and width of the crop: 16n + 1, or 16n."""
    margin: str = "abs:50"
    """Context around the box: `abs:PIXELS` or `rel:SHARE,minPIXELS`."""
    jitter: float = 0.05
    """Standard deviation of box sides, as a share of width and height."""
    rough_share: float = 0.0
    """Share of the samples whose box is jittered by 0.15: for rough boxes."""
    gamma: float = 0.05
    """Spread of gamma; 0: none."""
    colour: float = 0.1
    """Largest change of brightness, contrast and saturation; 0: none."""
    flip: float = 0.5
    """Share of the samples that are mirrored."""
    loss: Literal["bootstrapped", "ce", "huberised"] = "bootstrapped"
    """The hardest pixels of each image, all pixels, or all with confidently contradicted ones held back."""
    hardest: float = 0.25
    """Share of the pixels that count as the hardest."""
    tau: float = 3.0
    """Of the Huberised loss."""
    tau_warmup: float = 0.05
    """Share of the run that uses cross entropy before the Huberised loss."""
    freeze_norms: bool = False
    """Keep the statistics of batch norms, as the paper does when it starts from trained weights."""
    min_area: int = 100
    """Smallest mask in pixels."""
    min_score: float = 0.0
    """Labels of a run below this score are ignored."""

    def __post_init__(self) -> None:
        Margin.parse(self.margin)
        for name in ("rough_share", "flip", "hardest", "tau_warmup", "min_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}: expected a number from 0 to 1, found {getattr(self, name)}")
        if not 0 <= self.gamma < 0.5:
            raise UsageError(f"gamma: expected a number from 0 to below 0.5, found {self.gamma}")

    def model(self) -> Box2SegModel:
        """Return the network's own configuration."""
        return Box2SegModel(backbone=self.backbone, size=self.size, margin=self.margin)


RECIPES: Mapping[str, Recipe] = {
    "default": Recipe(
        options={},
        optimisation=Optimisation(
            steps=20_000, batch_size=8, learning_rate=1e-3, weight_decay=1e-4,
            warmup_steps=500, ema_decay=0.999, clip_norm=5.0,
        ),
    ),
    "rough-boxes": Recipe(
        options={"rough_share": 0.5},
        optimisation=Optimisation(
            steps=20_000, batch_size=8, learning_rate=1e-3, weight_decay=1e-4,
            warmup_steps=500, ema_decay=0.999, clip_norm=5.0,
        ),
    ),
    # 100,000 samples an epoch for 20 epochs, from trained weights (--weights, or backbone_weights).
    "paper": Recipe(
        options={"colour": 0.0, "freeze_norms": True},
        optimisation=Optimisation(
            steps=250_000, batch_size=8, learning_rate=1e-5, optimiser="adam", schedule="constant"
        ),
    ),
}  # fmt: skip
"""Recipes of `rayvos train box2seg`."""


def plan_box2seg(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train box2seg`; see `registry.plan_training`."""
    recipe = RECIPES[choose("recipe", request.recipe, RECIPES)]
    config = fill_options(Box2SegTraining, {**recipe.options, **request.options}, kind="option of task 'box2seg'")
    build_model("box2seg", asdict(config.model()))  # refuses a size that the backbone cannot take
    if config.freeze_norms and request.weights is None and config.backbone_weights is None:
        raise UsageError("freeze_norms: batch norms of random weights know nothing; give --weights or backbone_weights")
    data, validation = (
        prepare_data(sources, folder=request.folder, name=name, min_score=config.min_score) if sources else None
        for name, sources in (("data", request.data), ("validation", request.validation))
    )
    weights = None
    if request.weights is not None:
        network, info = load_model(request.weights, architecture="box2seg")
        if cast(Box2Seg, network).model != config.model():
            raise WeightsError(
                f"weights {request.weights}: of a network {asdict(cast(Box2Seg, network).model)}, the training needs "
                f"{asdict(config.model())}; give the same backbone, size and margin"
            )
        weights = info.digest
    for found in (data, validation):
        if found is not None:
            open_objects(found, config.min_area).check_frames()
    optimisation = request.optimisation(recipe.optimisation)
    task = Box2SegTask(
        config=config,
        steps=optimisation.steps,
        seed=request.seed,
        data=data,
        validation=validation,
        weights=request.weights,
        weights_digest=weights,
    )
    return TrainingPlan(task=task, optimisation=optimisation)


@dataclass(frozen=True, slots=True, eq=False)
class Box2SegBatch:
    """Crops and what they show."""

    crops_BHWC: Tensor
    """uint8, RGB and guidance (0 or 1)."""
    labels_BHW: Tensor
    """uint8: 0, 1 or `IGNORE`."""

    def to(self, device: torch.device) -> Box2SegBatch:
        """Return the batch on a device."""
        return Box2SegBatch(
            self.crops_BHWC.to(device, non_blocking=True), self.labels_BHW.to(device, non_blocking=True)
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    crop: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Box2SegTask:
    """Learning masks from boxes; a `TrainingTask`."""

    config: Box2SegTraining
    steps: int
    """Of the whole run, for schedules inside the loss."""
    seed: int = 0
    data: TrainingData | None = None
    """What to learn from; None: generated clips."""
    validation: TrainingData | None = None
    """What to validate on; None: clips of `data` that are held back, or generated ones of other textures."""
    weights: str | None = None
    """Weights to begin with."""
    weights_digest: str | None = None
    """Their digest, which identifies a run; their path does not."""

    architecture = "box2seg"

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on."""
        return {
            **asdict(self.config),
            "seed": self.seed,
            "data": None if self.data is None else self.data.digest,
            "validation": None if self.validation is None else self.validation.digest,
            "weights": self.weights_digest,
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return the network's configuration."""
        return asdict(self.config.model())

    def build(self) -> nn.Module:
        """Return the network: loaded, or random with the encoder's own weights if they are given."""
        if self.weights is not None:
            return load_model(self.weights, architecture="box2seg")[0]
        torch.manual_seed(self.seed)
        network = build_model("box2seg", self.model_config())
        if self.config.backbone_weights is not None:
            path = self.config.backbone_weights
            load_backbone_weights(cast(Box2Seg, network).backbone, read_checkpoint(path), where=path)
        return network

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return all parameters; those of norms and offsets without weight decay."""
        plain = [parameter for parameter in model.parameters() if parameter.ndim > 1]
        return [
            {"params": plain},
            {"params": [parameter for parameter in model.parameters() if parameter.ndim <= 1], "weight_decay": 0.0},
        ]

    def sample(self, index: int) -> _Sample:
        """Return the crop of one object and its labels."""
        rng = np.random.default_rng([self.seed, 0, index])
        if self.data is None:
            picture = _generated_object(self.seed, index, self.config.min_area, validating=False)
        else:
            objects = open_objects(self.data, self.config.min_area)
            picture = objects.picture(_in_random_order(self._learnt(), self.seed, index))
        height, width = picture.labels.shape
        rough = rng.uniform() < self.config.rough_share
        box = jitter_box(picture.box, 0.15 if rough else self.config.jitter, height, width, rng)
        crop, labels = self._encode(picture, box)
        crop[..., :3] = change_gamma(crop[..., :3], draw_gamma(self.config.gamma, rng))
        if self.config.colour:
            crop[..., :3] = jitter_colours(crop[..., :3], self.config.colour, rng)
        if rng.uniform() < self.config.flip:
            crop, labels = crop[:, ::-1], labels[:, ::-1]
        return _Sample(np.ascontiguousarray(crop), np.ascontiguousarray(labels))

    def _learnt(self) -> Sequence[ObjectFrame]:
        assert self.data is not None
        objects = open_objects(self.data, self.config.min_area)
        return objects.objects if self.validation is not None else _split(self.data, self.config.min_area)[0]

    def _encode(self, picture: ObjectPicture, box: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return crop (size, size, 4) and labels (size, size), as the engine crops: round, margin, clip, resize."""
        size = self.config.size
        height, width = picture.labels.shape
        pixels = round_box(box, height, width)
        assert pixels is not None, "a jittered box is clipped to its frame"
        area = crop_around(pixels, Margin.parse(self.config.margin), height, width)
        x0, y0, x1, y1 = area
        crop = np.empty((size, size, 4), np.uint8)
        crop[..., :3] = cv2.resize(picture.image[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)
        crop[..., 3] = paint_guidance(pixels, area, size)
        rows, columns = y0 + np.arange(size) * (y1 - y0) // size, x0 + np.arange(size) * (x1 - x0) // size
        return crop, picture.labels[rows[:, None], columns[None, :]]

    def collate(self, samples: Sequence[_Sample]) -> Box2SegBatch:
        """Put samples together."""
        return Box2SegBatch(
            torch.from_numpy(np.stack([sample.crop for sample in samples])),
            torch.from_numpy(np.stack([sample.labels for sample in samples])),
        )

    def loss(self, model: nn.Module, batch: Box2SegBatch, step: int) -> LossResult:
        """Return the mean over images of the loss of each image's pixels."""
        if self.config.freeze_norms:
            freeze_batch_norms(model)
        logits_BCHW, labels_BHW = model(normalise_crops(batch.crops_BHWC)), batch.labels_BHW
        config = self.config
        if config.loss == "huberised":
            tau = tau_at(step, self.steps, config.tau, warmup_share=config.tau_warmup)
            loss = mean_loss(huberised_losses(logits_BCHW, labels_BHW, tau), labels_BHW, per_image=True)
        else:
            losses_BHW = cross_entropy_losses(logits_BCHW, labels_BHW)
            if config.loss == "ce":
                loss = mean_loss(losses_BHW, labels_BHW, per_image=True)
            else:
                loss = hardest_loss(losses_BHW, labels_BHW, config.hardest, rounding="half-even")
        return LossResult(loss, {"iou": float(np.mean(_ious(logits_BCHW, labels_BHW)))})

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the mean IoU of crops around exact boxes, at the network's resolution."""
        device = next(model.parameters()).device
        ious: list[float] = []
        for picture in self._validation_pictures():
            crop, labels = self._encode(picture, picture.box)
            logits = model(normalise_crops(torch.from_numpy(crop[None]).to(device)))
            ious += _ious(logits, torch.from_numpy(labels[None]).to(device))
        return {"mean_iou": float(np.mean(ious))} if ious else {}

    def _validation_pictures(self) -> Sequence[ObjectPicture]:
        if self.validation is not None:
            return _spread(self.validation, self.config.min_area, held_out=False)
        if self.data is not None:
            return _spread(self.data, self.config.min_area, held_out=True)
        return _generated_pictures(self.seed, self.config.min_area)


def _ious(logits_BCHW: Tensor, labels_BHW: Tensor) -> list[float]:
    """Return the IoU of each image's object, ignored pixels left out; 1 where there is nothing and nothing is found."""
    valid_BHW, truth_BHW = labels_BHW != IGNORE, labels_BHW == 1
    found_BHW = (logits_BCHW[:, 1] >= logits_BCHW[:, 0]) & valid_BHW
    both = (found_BHW & truth_BHW).flatten(1).sum(1)
    either = (found_BHW | truth_BHW).flatten(1).sum(1)
    ious: list[float] = torch.where(either > 0, both / either.clamp(min=1), 1.0).tolist()
    return ious


def _in_random_order(objects: Sequence[ObjectFrame], seed: int, index: int) -> ObjectFrame:
    """Return the object of a place in an endless row that goes through all objects, in another order each time."""
    epoch, place = divmod(index, len(objects))
    return objects[int(_order(len(objects), seed, epoch)[place])]


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


@lru_cache(maxsize=2)
def _split(data: TrainingData, min_area: int) -> tuple[list[ObjectFrame], list[ObjectFrame]]:
    return open_objects(data, min_area).split()


@lru_cache(maxsize=2)
def _spread(data: TrainingData, min_area: int, *, held_out: bool) -> list[ObjectPicture]:
    """Return pictures to validate on: the same number of frames apart, whole data set or what is held back of it."""
    objects = open_objects(data, min_area)
    chosen = _split(data, min_area)[1] if held_out else objects.objects
    if not chosen:
        return []
    places = np.unique(np.linspace(0, len(chosen) - 1, min(VALIDATED_OBJECTS, len(chosen))).astype(int))
    return [objects.picture(chosen[place]) for place in places.tolist()]


@lru_cache(maxsize=2)
def _generated_pictures(seed: int, min_area: int) -> list[ObjectPicture]:
    return [
        _generated_object(seed + VALIDATION_SEED, index, min_area, validating=True)
        for index in range(VALIDATED_OBJECTS)
    ]


def _generated_object(seed: int, index: int, min_area: int, *, validating: bool) -> ObjectPicture:
    """Return an object of a generated clip; neighbouring samples share a clip."""
    number, slot = divmod(index, SAMPLES_PER_CLIP)
    for attempt in range(ATTEMPTS):
        pictures = _generated_clip(seed, number * ATTEMPTS + attempt, min_area, validating)
        if pictures:
            return pictures[slot % len(pictures)]
    raise AssertionError(f"no object of {min_area} pixels in {ATTEMPTS} generated clips")


@lru_cache(maxsize=2)
def _generated_clip(seed: int, number: int, min_area: int, validating: bool) -> list[ObjectPicture]:
    """Return the objects of a generated clip, in random order."""
    programs = tuple(name for name in PROGRAMS if (name in HELD_OUT_PROGRAMS) == validating)
    clip = generate_clip(seed, number, SynthConfig(num_frames=SYNTH_FRAMES, programs=programs))
    pictures = []
    for frame, label_map in enumerate(clip.labels):
        for known in clip.objects:
            mask = label_map == known.object_id
            box = mask_to_box(mask)
            if box is not None and mask.sum() >= min_area:
                pictures.append(ObjectPicture(clip.images[frame], mask.astype(np.uint8), box))
    order = np.random.default_rng([seed, 2, number]).permutation(len(pictures))
    return [pictures[place] for place in order.tolist()]
