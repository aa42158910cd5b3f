"""The tasks of STCN and Point-STCN: the first of three frames is told, the other two are predicted one after the other.

`stcn` learns from masks (a person's, or those of a run: pseudo-masks); `point-stcn` is told the reference by positive
points and learns from points on the other frames, or, with `targets=masks`, from their masks (the hybrid variant).
The forward is the official one (`stcn_forward`). Losses: bootstrapped cross entropy of the aggregated masks, or its
Huberised form against wrong labels; cross entropy at points.

Layouts: B samples, T frames, N objects of all samples (`owner_N`: whose), K objects of the sample that has most,
P points, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayvos.engines.options import fill_options
from rayvos.errors import InputError, UsageError, WeightsError, choose
from rayvos.masks.ignore import IGNORE
from rayvos.models.stcn import DEVIATION, MEAN, STCN
from rayvos.models.stcn_checkpoint import load_stcn
from rayvos.training.clip_samples import (
    AnnotatedClip,
    ClipSample,
    Warping,
    draw_clip_sample,
    open_annotated_clips,
    synthetic_clip,
)
from rayvos.training.datasets import TrainingData, prepare_data
from rayvos.training.losses import (
    Bootstrap,
    PointLabels,
    cross_entropy_losses,
    hardest_loss,
    huberised_losses,
    mean_loss,
    point_loss,
    tau_at,
)
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.stcn_forward import propagate_clip
from rayvos.training.task import LossResult, Optimisation
from rayvos.video.synthetic_textures import PROGRAMS

__all__ = [
    "POINT_RECIPES", "RECIPES", "StcnBatch", "StcnTask", "StcnTraining", "plan_point_stcn", "plan_stcn", "reach_at",
]  # fmt: skip

HELD_OUT_PROGRAMS = ("cells", "bricks")  # textures that validation uses and training on generated clips never sees
HELD_OUT_SHARE = 0.05
VALIDATION_SEED, VALIDATED_CLIPS = 1_000_003, 16
SAMPLES_PER_CLIP = 4  # of a generated clip
ATTEMPTS = 20  # at clips, to find one with an object on its reference frame
REACHES = ((0.0, 5), (0.1, 10), (0.2, 15), (0.3, 20), (0.4, 25), (0.9, 5))  # STCN: share of the run → frames


def _schedule(steps: int, drop: int, batch_size: int = 4) -> Optimisation:
    """Return Adam at 1e-5 that falls to a tenth at one step, as all of STCN's stages have it."""
    return Optimisation(
        steps=steps, batch_size=batch_size, learning_rate=1e-5, optimiser="adam", weight_decay=1e-7,
        schedule="multistep", decay_at=(drop / steps,), decay_factor=0.1,
    )  # fmt: skip


RECIPES: Mapping[str, Optimisation] = {
    "default": _schedule(150_000, 125_000),
    "static": _schedule(300_000, 150_000, batch_size=8),
    "bl30k": _schedule(500_000, 400_000),
    "davis-youtube": _schedule(300_000, 250_000),
}
"""Recipes of `rayvos train stcn`: the official stages 3 (the default), 0, 1 and 2, for 8 or 4 samples a step."""

POINT_RECIPES: Mapping[str, Optimisation] = {
    "default": _schedule(38_000, 30_000),
    "oops": _schedule(60_000, 50_000),
    "kinetics": _schedule(190_000, 150_000),
}
"""Recipes of `rayvos train point-stcn`: the paper's schedules for PV-DAVIS and PV-YT (the default), Oops, Kinetics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StcnTraining:
    """Options of `rayvos train stcn` and `rayvos train point-stcn`."""

    size: int = 384
    """Height and width of a sample, a multiple of 16."""
    width: int = 64
    """Channels of the network's first convolution; 64 is official."""
    targets: Literal["masks", "points"] = "masks"
    """What the predicted frames are compared with; `point-stcn` defaults to points."""
    loss: Literal["bootstrapped", "ce", "huberised"] = "bootstrapped"
    """Of masks."""
    tau: float = 3.0
    """Of the Huberised loss."""
    tau_warmup: float = 0.05
    """Share of the run that uses cross entropy before the Huberised loss."""
    robust_points: bool = False
    """Huberise the loss of points."""
    reach: int | None = None
    """Annotated frames between two frames of a sample at most; None: STCN's schedule, 5 to 25 and 5 again."""
    colour: float = 0.1
    """Largest change of brightness, contrast and saturation."""
    min_score: float = 0.0
    """Labels of a run below this score are ignored."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 16:
            raise UsageError(f"size: expected a multiple of 16 from 32, found {self.size}")
        if self.reach is not None and self.reach < 1:
            raise UsageError(f"reach: expected at least 1, found {self.reach}")
        if not self.tau >= 1:
            raise UsageError(f"tau: expected a number from 1, found {self.tau}")


def reach_at(step: int, steps: int) -> int:
    """Return how many annotated frames may lie between two frames of a sample, by STCN's schedule."""
    return [reach for start, reach in REACHES if step >= start * steps][-1]


def plan_stcn(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train stcn`; see `registry.plan_training`."""
    return _plan(request, "stcn", RECIPES, {"targets": "masks"})


def plan_point_stcn(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train point-stcn`; see `registry.plan_training`."""
    return _plan(request, "point-stcn", POINT_RECIPES, {"targets": "points"})


def _plan(
    request: TrainingRequest, name: Literal["stcn", "point-stcn"], recipes: Mapping[str, Optimisation], own: Any
) -> TrainingPlan:
    optimisation = request.optimisation(recipes[choose("recipe", request.recipe, recipes)])
    config = fill_options(StcnTraining, {**own, **request.options}, kind=f"option of task {name!r}")
    by_points = name == "point-stcn"
    if config.targets == "points" and not by_points:
        raise UsageError("targets: task 'stcn' learns from masks; use task 'point-stcn' for points")
    weights = None
    if request.weights is not None:
        network, weights = load_stcn(request.weights)
        if not isinstance(network, STCN) or network.model != StcnTask.network_config(config):
            raise WeightsError(
                f"weights {request.weights}: expected an stcn network of width {config.width} with attention, found "
                f"{getattr(network, 'model', type(network).__name__)}; give --width, or other weights"
            )
    data, validation = (
        prepare_data(sources, folder=request.folder, name=kind, min_score=config.min_score) if sources else None
        for kind, sources in (("data", request.data), ("validation", request.validation))
    )
    task = StcnTask(
        config=config, by_points=by_points, steps=optimisation.steps, batch_size=optimisation.batch_size,
        seed=request.seed, data=data, validation=validation, weights=request.weights, weights_digest=weights,
    )  # fmt: skip
    task.sample(0)  # pictures that are not there, or of another size, are met before the first step
    return TrainingPlan(task=task, optimisation=optimisation)


@dataclass(frozen=True, slots=True, eq=False)
class StcnBatch:
    """Samples put together."""

    images_BTCHW: Tensor
    """Normalised."""
    labels_BTHW: Tensor
    """uint8: 0 background, 1…K, `IGNORE`."""
    first_NHW: Tensor
    """What is told of each object on frame 0."""
    owner_N: Tensor
    points: tuple[PointLabels, ...]
    """Of frames 1 and 2, on the aggregated maps; empty where masks are learnt from."""

    def to(self, device: torch.device) -> StcnBatch:
        """Return the batch on a device."""
        return StcnBatch(
            self.images_BTCHW.to(device, non_blocking=True),
            self.labels_BTHW.to(device, non_blocking=True),
            self.first_NHW.to(device, non_blocking=True),
            self.owner_N.to(device),
            tuple(points.to(device) for points in self.points),
        )


@dataclass(frozen=True, kw_only=True)
class StcnTask:
    """Learning to propagate; a `TrainingTask`."""

    config: StcnTraining
    by_points: bool
    """The reference is told by points."""
    steps: int
    """Of the whole run, for schedules of loss and samples."""
    batch_size: int
    """Samples of a step: with it a sample's number tells its step."""
    seed: int = 0
    data: TrainingData | None = None
    """None: generated clips."""
    validation: TrainingData | None = None
    """None: clips of `data` that are held back, or generated ones of other textures."""
    weights: str | None = None
    weights_digest: str | None = None

    architecture = "stcn"

    @staticmethod
    def network_config(config: StcnTraining) -> dict[str, Any]:
        """Return the network's configuration."""
        return STCN_CONFIG | ({} if config.width == 64 else {"width": config.width})

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on."""
        return {
            **asdict(self.config),
            "by_points": self.by_points,
            "seed": self.seed,
            "data": None if self.data is None else self.data.digest,
            "validation": None if self.validation is None else self.validation.digest,
            "weights": self.weights_digest,
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return the network's configuration."""
        return self.network_config(self.config)

    def build(self) -> nn.Module:
        """Return the network, loaded or random."""
        if self.weights is not None:
            return load_stcn(self.weights)[0]
        torch.manual_seed(self.seed)
        return STCN(width=self.config.width)

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return one group with all parameters; gains and offsets of the frozen norms are learnt."""
        return [{"params": list(model.parameters())}]

    def sample(self, index: int) -> ClipSample:
        """Return three frames of a clip."""
        reach = self.config.reach or reach_at(index // self.batch_size, self.steps)
        warping = Warping(colour=self.config.colour)
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, 0, index, attempt])
            if self.data is None:
                programs = tuple(name for name in PROGRAMS if name not in HELD_OUT_PROGRAMS)
                source: Any = synthetic_clip(self.seed, index // SAMPLES_PER_CLIP + attempt, programs)
            else:
                source = _in_random_order(self._learnt(), self.seed, index + attempt)
            found = draw_clip_sample(
                source, rng, size=self.config.size, reach=reach, warping=warping, by_points=self.by_points
            )
            if found is not None:
                return found
        raise InputError(
            f"training data: none of {ATTEMPTS} clips shows an object on its reference frame; look at masks and points"
        )

    def _open(self, data: TrainingData) -> tuple[AnnotatedClip, ...]:
        with_masks = not self.by_points or self.config.targets == "masks"
        return open_annotated_clips(data, with_masks=with_masks, with_points=self.by_points)

    def _learnt(self) -> Sequence[AnnotatedClip]:
        assert self.data is not None
        clips = self._open(self.data)
        return clips if self.validation is not None else clips[: len(clips) - _num_held_out(len(clips))]

    def collate(self, samples: Sequence[ClipSample]) -> StcnBatch:
        """Put samples together."""
        images = torch.from_numpy(np.stack([sample.images for sample in samples])).float() / 255
        normalised = (images - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        counts = torch.tensor([sample.num_objects for sample in samples])
        return StcnBatch(
            normalised.permute(0, 1, 4, 2, 3).contiguous(),
            torch.from_numpy(np.stack([sample.labels for sample in samples])),
            torch.from_numpy(np.concatenate([self._told(sample) for sample in samples])),
            torch.repeat_interleave(torch.arange(len(samples)), counts),
            tuple(_points_of(samples, frame) for frame in (1, 2)) if self.config.targets == "points" else (),
        )

    def _told(self, sample: ClipSample) -> NDArray[np.float32]:
        """Return what the network is told of each object on the reference frame, (K, H, W)."""
        if not self.by_points:
            numbers = np.arange(1, sample.num_objects + 1, dtype=np.uint8)
            masks: NDArray[np.float32] = (sample.labels[0] == numbers[:, None, None]).astype(np.float32)
            return masks
        told = np.zeros((sample.num_objects, self.config.size, self.config.size), np.float32)
        for frame, number, x, y, positive in sample.points.tolist():
            if frame == 0 and positive:
                last = self.config.size - 1
                told[int(number) - 1, min(max(round(y), 0), last), min(max(round(x), 0), last)] = 1
        return told

    def loss(self, model: nn.Module, batch: StcnBatch, step: int) -> LossResult:
        """Return the loss of frames 1 and 2, summed; the mean over samples for masks, over points for points."""
        logits = propagate_clip(cast(STCN, model), batch.images_BTCHW, batch.first_NHW, batch.owner_N)
        if self.config.targets == "points":
            tau = self._tau(step) if self.config.robust_points else float("inf")
            terms = [
                point_loss(one.softmax(1), points, tau=tau) for one, points in zip(logits, batch.points, strict=True)
            ]
        else:
            terms = [
                self._mask_loss(one, batch.labels_BTHW[:, frame], step) for frame, one in enumerate(logits, start=1)
            ]
        stats = {f"loss_{frame}": float(term.detach()) for frame, term in enumerate(terms, start=1)}
        return LossResult(torch.stack(terms).sum(), stats)

    def _mask_loss(self, logits_BKHW: Tensor, labels_BHW: Tensor, step: int) -> Tensor:
        if self.config.loss == "huberised":
            losses = huberised_losses(logits_BKHW, labels_BHW, self._tau(step))
            return mean_loss(losses, labels_BHW, per_image=True)
        losses = cross_entropy_losses(logits_BKHW, labels_BHW)
        if self.config.loss == "ce":
            return mean_loss(losses, labels_BHW, per_image=True)
        return hardest_loss(losses, labels_BHW, Bootstrap.scaled(self.steps).share_at(step))

    def _tau(self, step: int) -> float:
        return tau_at(step, self.steps, self.config.tau, warmup_share=self.config.tau_warmup)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the mean IoU of objects on the predicted frames of unmoved samples; without masks, minus the loss."""
        device = next(model.parameters()).device
        ious: list[float] = []
        losses: list[float] = []
        for sample in _validation_samples(self):
            batch = self.collate([sample]).to(device)
            if self.data is not None and self.config.targets == "points":
                losses.append(float(self.loss(model, batch, self.steps).loss))
                continue
            logits = propagate_clip(cast(STCN, model), batch.images_BTCHW, batch.first_NHW, batch.owner_N)
            for frame, found in enumerate(logits, start=1):
                ious += _object_ious(found.argmax(1)[0], batch.labels_BTHW[0, frame], sample.num_objects)
        if losses:
            return {"points_score": -float(np.mean(losses))}
        return {"mean_iou": float(np.mean(ious))} if ious else {}


STCN_CONFIG = {"attention": True}


@lru_cache(maxsize=2)
def _validation_samples(task: StcnTask) -> list[ClipSample]:
    """Return samples of clips that are not trained on, neither moved nor coloured."""
    still = Warping(smallest_area=1.0, mirror=0.0, rotation=0.0, shear=0.0, colour=0.0, grey=0.0, reverse=0.0)
    sources: Sequence[Any]
    if task.validation is not None:
        sources = task._open(task.validation)
    elif task.data is not None:
        clips = task._open(task.data)
        sources = clips[len(clips) - _num_held_out(len(clips)) :]
    else:
        sources = [synthetic_clip(task.seed + VALIDATION_SEED, n, HELD_OUT_PROGRAMS) for n in range(VALIDATED_CLIPS)]
    found = []
    for number, source in enumerate(sources[:VALIDATED_CLIPS]):
        rng = np.random.default_rng([task.seed, 1, number])
        sample = draw_clip_sample(source, rng, size=task.config.size, reach=5, warping=still, by_points=task.by_points)
        if sample is not None:
            found.append(sample)
    return found


def _object_ious(found_HW: Tensor, labels_HW: Tensor, num_objects: int) -> list[float]:
    """Return the IoU of each object that is there, ignored pixels left out."""
    valid = labels_HW != IGNORE
    ious = []
    for number in range(1, num_objects + 1):
        truth, own = (labels_HW == number) & valid, (found_HW == number) & valid
        if bool(truth.any()):
            ious.append(float((truth & own).sum() / (truth | own).sum()))
    return ious


def _points_of(samples: Sequence[ClipSample], frame: int) -> PointLabels:
    """Return the points of one frame of all samples."""
    image, rows = [], []
    for number, sample in enumerate(samples):
        chosen = sample.points[sample.points[:, 0] == frame]
        image += [number] * len(chosen)
        rows.append(chosen)
    together = torch.from_numpy(np.concatenate(rows))
    return PointLabels(
        image_N=torch.tensor(image, dtype=torch.int64),
        channel_N=together[:, 1].long(),
        xy_N2=together[:, 2:4],
        positive_N=together[:, 4] == 1,
    )


def _num_held_out(num_clips: int) -> int:
    return max(1, round(HELD_OUT_SHARE * num_clips)) if num_clips > 1 else 0


def _in_random_order(clips: Sequence[AnnotatedClip], seed: int, index: int) -> AnnotatedClip:
    """Return the clip of a place in an endless row that goes through all clips, in another order each time."""
    epoch, place = divmod(index, len(clips))
    return clips[int(np.random.default_rng([seed, 2, epoch]).permutation(len(clips))[place])]
