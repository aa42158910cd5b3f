"""The tasks `stcn` and `point-stcn`: propagation networks learn from masks, pseudo-masks, points, or both.

Source: STCN (clips of three frames, bootstrapped cross entropy, Adam, schedules), Point-VOS (sparse reference, losses
at points, Huberised loss for pseudo-masks, hybrid: points given, masks learnt), Box2Seg (Huberised loss, ignored
boxes). The papers' schedules are recipes; `--steps` scales them.
Differs: where no data is given, generated clips are learnt from; networks that start from random weights have their
last gain of each residual block turned down, because their BN statistics are frozen and would not tame them.
Tensor layouts: see `stcn_forward`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from rayvos.errors import UsageError
from rayvos.models.stcn import STCN, normalise_images
from rayvos.models.stcn_checkpoint import load_stcn
from rayvos.training.datasets import TrainingData
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
from rayvos.training.stcn_forward import propagate_clip
from rayvos.training.stcn_samples import ClipSample, SampleRule, draw_clip_sample
from rayvos.training.task import LossResult
from rayvos.training.vos_clips import GeneratedClips, GeneratedSettings, Supervision, VosClips, open_clips
from rayvos.training.vos_validation import validate_propagation

__all__ = ["ClipBatch", "StcnTask", "StcnTraining", "initial_stcn"]

Loss = Literal["bootstrapped", "ce", "huberised"]
BLOCK_GAIN = 0.2  # last gain of residual blocks in new networks
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class StcnTraining:
    """Options of `rayvos train stcn` and `rayvos train point-stcn`."""

    supervision: Supervision = "masks"
    """What is learnt from: `masks`; `points`, given and learnt; `hybrid`: points are given, masks are learnt."""
    loss: Loss = "bootstrapped"
    """Of masks: the hardest pixels, all pixels, or all with confidently contradicted ones held back. At points
    `bootstrapped` means all of them."""
    tau: float = 3.0
    """Of the Huberised loss."""
    tau_warmup: float = 0.05
    """Share of the run that uses cross entropy before the Huberised loss."""
    hardest: float = 0.15
    """Share of the pixels that count in the end, bootstrapped."""
    balance: Literal["none", "class"] = "none"
    """Weight of positive and negative points: each the same, or each kind the same."""
    width: int = 64
    """Channels of the network's first convolution; 64 is the published network."""
    size: int = 384
    """Pixels along a side of samples, a multiple of 16."""
    max_objects: int = 2
    """Objects of a sample."""
    static: bool = False
    """Learn from three warps of one frame: pre-training on still pictures."""
    simulate: bool = False
    """Draw points from masks, as Point-VOS does, instead of taking those given."""
    frames: int | None = None
    """Annotated frames used of a clip, evenly spaced; none: all."""
    points: int = 10
    """Points of each kind, object and frame that are learnt from."""
    reference_points: int = 10
    """Points of an object that the reference frame shows, in training."""
    radius_px: int = 0
    """Of the discs that reference points become; 0: single pixels."""
    min_score: float = 0.0
    """Labels of a run below this score are ignored."""
    corrupted: float = 0.0
    """Share of wrong labels in generated clips, for experiments."""
    clips: int = 64
    """Generated clips, where no data is given."""
    validated_clips: int = 8
    """Held-out clips that validation propagates through."""
    validated_points: int = 10
    """Reference points of an object in validation, where points are given."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 16:
            raise UsageError(f"size: expected a multiple of 16 from 32, found {self.size}")
        if self.frames is not None and self.frames < 2:
            raise UsageError(f"frames: expected at least 2, found {self.frames}; a sample needs two of a clip")
        for name in ("points", "reference_points", "max_objects", "clips", "validated_clips", "validated_points"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected a number from 1, found {getattr(self, name)}")
        for name in ("tau_warmup", "hardest", "min_score", "corrupted"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}: expected a number from 0 to 1, found {getattr(self, name)}")
        if not self.tau >= 1:
            raise UsageError(f"tau: expected a number from 1, or inf, found {self.tau}")

    @property
    def from_points(self) -> bool:
        """Whether the reference frame shows points."""
        return self.supervision != "masks"

    def rule(self) -> SampleRule:
        """Return how samples are cut."""
        return SampleRule(
            size=self.size,
            max_objects=self.max_objects,
            static=self.static,
            from_points=self.from_points,
            reference_points=self.reference_points,
            target_points=self.points,
            radius_px=self.radius_px,
        )


def initial_stcn(width: int, seed: int) -> STCN:
    """Return a network whose weights are drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = STCN(width=width)
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d) and name.endswith(("bn3", "bn2")):
                nn.init.constant_(module.weight, BLOCK_GAIN)
        for block in (network.decoder.compress, network.decoder.up_16_8.out_conv, network.decoder.up_8_4.out_conv):
            nn.init.normal_(block.conv2.weight, std=1e-2)
        nn.init.normal_(network.decoder.pred.weight, std=1e-2)
    return network


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """Samples put together."""

    images_BTCHW: Tensor
    """Normalised."""
    labels_BTHW: Tensor
    """uint8."""
    reference_NHW: Tensor
    owner_N: Tensor
    points: tuple[PointLabels, ...]
    """Of frames 1 and 2."""

    def to(self, device: torch.device) -> ClipBatch:
        """Return the batch on a device."""
        return ClipBatch(
            self.images_BTCHW.to(device, non_blocking=True),
            self.labels_BTHW.to(device, non_blocking=True),
            self.reference_NHW.to(device, non_blocking=True),
            self.owner_N.to(device, non_blocking=True),
            tuple(points.to(device) for points in self.points),
        )


@dataclass(frozen=True, kw_only=True)
class StcnTask:
    """Learning to propagate; a `TrainingTask`."""

    config: StcnTraining
    steps: int
    """Of the whole run, for schedules inside loss and samples."""
    batch_size: int
    """Samples of a step, for the same."""
    seed: int = 0
    data: TrainingData | None = None
    """What to learn from; None: generated clips."""
    validation: TrainingData | None = None
    """What to validate on; None: generated clips of another seed."""
    weights: str | None = None
    """Initial weights."""
    weights_digest: str | None = None
    architecture: str = field(default="stcn", init=False)

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on besides the optimisation."""
        tau = "inf" if math.isinf(self.config.tau) else self.config.tau
        return {
            **asdict(self.config),
            "tau": tau,
            "seed": self.seed,
            "data": None if self.data is None else self.data.digest,
            "validation": None if self.validation is None else self.validation.digest,
            "initial_weights": self.weights_digest,
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return the network's configuration."""
        return STCN(width=self.config.width).configuration() if self.weights is None else self._loaded().configuration()

    def build(self) -> nn.Module:
        """Return the network with its initial weights."""
        return initial_stcn(self.config.width, self.seed) if self.weights is None else self._loaded()

    def _loaded(self) -> STCN:
        assert self.weights is not None, "asked for weights that were not given"
        return cast(STCN, load_stcn(self.weights)[0])

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return all weights, in one group; BN gains and biases are learnt, its statistics are not."""
        return [{"params": list(model.parameters())}]

    def clips(self) -> VosClips:
        """Return the training set."""
        if self.data is not None:
            return open_clips(self.data, self.config.supervision, self.config.simulate, self.config.frames)
        return _generated(self.seed, self.config.clips, self.config.frames, self.config.corrupted)

    def sample(self, index: int) -> ClipSample:
        """Return a sample."""
        share_done = min(1.0, index / (self.steps * self.batch_size))
        return draw_clip_sample(self.clips(), self.config.rule(), self.seed, index, share_done)

    def collate(self, samples: Sequence[ClipSample]) -> ClipBatch:
        """Put samples together."""
        counts = [len(sample.reference) for sample in samples]
        return ClipBatch(
            normalise_images(torch.from_numpy(np.stack([sample.images for sample in samples]))),
            torch.from_numpy(np.stack([sample.labels for sample in samples])),
            torch.from_numpy(np.concatenate([sample.reference for sample in samples])),
            torch.tensor([number for number, count in enumerate(counts) for _ in range(count)]),
            tuple(_points_of(samples, frame) for frame in (1, 2)),
        )

    def loss(self, model: nn.Module, batch: ClipBatch, step: int) -> LossResult:
        """Return the mean over samples of the loss of frames 1 and 2, summed."""
        found = propagate_clip(cast(STCN, model), batch.images_BTCHW, batch.reference_NHW, batch.owner_N)
        total, stats = torch.zeros((), device=batch.images_BTCHW.device), dict[str, float]()
        for frame, logits_BKHW in enumerate(found, start=1):
            if self.config.supervision == "points":
                loss = self._loss_at_points(logits_BKHW, batch.points[frame - 1], step)
            else:
                loss = self._loss_of_masks(logits_BKHW, batch.labels_BTHW[:, frame], step)
            stats[f"loss_{frame}"] = float(loss.detach())
            total = total + loss
        return LossResult(total, stats)

    def _tau(self, step: int) -> float:
        if self.config.loss != "huberised":
            return math.inf
        return tau_at(step, self.steps, self.config.tau, warmup_share=self.config.tau_warmup)

    def _loss_of_masks(self, logits_BKHW: Tensor, labels_BHW: Tensor, step: int) -> Tensor:
        if self.config.loss == "bootstrapped":
            share = Bootstrap.scaled(self.steps, share=self.config.hardest).share_at(step)
            return hardest_loss(cross_entropy_losses(logits_BKHW, labels_BHW), labels_BHW, share)
        return mean_loss(huberised_losses(logits_BKHW, labels_BHW, self._tau(step)), labels_BHW, per_image=True)

    def _loss_at_points(self, logits_BKHW: Tensor, points: PointLabels, step: int) -> Tensor:
        probability_BKHW = logits_BKHW.softmax(1)
        return point_loss(probability_BKHW, points, tau=self._tau(step), balance=self.config.balance, per_image=True)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return J, F and their mean on clips that are not learnt from, the first annotated frame given."""
        config = self.config
        if self.validation is not None:
            clips: VosClips = open_clips(self.validation)
        else:
            clips = _generated(self.seed + HELD_OUT_SEED, config.validated_clips, None, 0.0)
        return validate_propagation(
            cast(STCN, model),
            clips,
            num_clips=config.validated_clips,
            num_points=config.validated_points if config.from_points else None,
            radius_px=config.radius_px,
        )


@lru_cache(maxsize=4)
def _generated(seed: int, num_clips: int, frames: int | None, corrupted: float) -> GeneratedClips:
    """Return generated clips, kept in a process."""
    settings = GeneratedSettings(seed=seed, num_clips=num_clips, max_frames=frames, corrupted=corrupted)
    return GeneratedClips(settings=settings)


def _points_of(samples: Sequence[ClipSample], frame: int) -> PointLabels:
    chosen = [sample.point_frame == frame for sample in samples]
    pairs = list(zip(samples, chosen, strict=True))
    image = [np.full(int(mask.sum()), number, np.int64) for number, mask in enumerate(chosen)]
    return PointLabels(
        image_N=torch.from_numpy(np.concatenate(image)),
        channel_N=torch.from_numpy(np.concatenate([sample.point_number[mask] for sample, mask in pairs])),
        xy_N2=torch.from_numpy(np.concatenate([sample.point_xy[mask] for sample, mask in pairs])),
        positive_N=torch.from_numpy(np.concatenate([sample.point_positive[mask] for sample, mask in pairs])),
    )
