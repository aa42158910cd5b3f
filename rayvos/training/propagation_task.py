"""Training of the compact propagation network on generated clips.

Three frames of a clip, or more: the first one's masks are given; the second is predicted from it, the third from both,
with the second's *predicted* mask in memory and carried on by flow, as in the official training of STCN. Differs:
what the second frame is told of the mask before is distorted in most samples, so that the network learns to put right
what drifted, from the memory, and not only to carry it on; the loss is bootstrapped cross entropy plus Dice.

Layouts: B samples, N objects of all samples (`owner_N`: whose), T frames, H W pixels, h w at stride 8, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayvos.engines.options import fill_options
from rayvos.errors import UsageError, choose
from rayvos.models.registry import load_model
from rayvos.models.stcn import normalise_images
from rayvos.models.stcn_compact import CompactFeatures, CompactStcn
from rayvos.models.stcn_hints import Previous, color_histogram, hint_planes
from rayvos.training.losses import Bootstrap, dice_loss, hardest_loss
from rayvos.training.propagation_samples import PropagationSample, SampleDrawer, SampleSettings
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.task import LossResult, Optimisation

__all__ = [
    "RECIPES",
    "PropagationBatch",
    "PropagationOptions",
    "PropagationTask",
    "aggregate_objects",
    "forward_clip",
    "plan_propagation",
]

EPSILON = 1e-6
VALIDATION_SEED, VALIDATION_BATCH = 1_000_003, 16

RECIPES: Mapping[str, Optimisation] = {
    "default": Optimisation(
        steps=1_280,
        batch_size=16,
        learning_rate=2e-3,
        weight_decay=1e-4,
        schedule="multistep",
        decay_at=(0.5, 0.9, 0.95),
        decay_factor=0.4,
        warmup_steps=50,
        ema_decay=0.995,
        clip_norm=5.0,
    ),
    "continued": Optimisation(
        steps=1_070,
        batch_size=24,
        learning_rate=1.5e-3,
        weight_decay=1e-4,
        schedule="cosine",
        warmup_steps=100,
        ema_decay=0.999,
        clip_norm=10.0,
    ),
}
"""Recipes of `rayvos train propagation`. The packaged weights came from `default`, but for the rates after its first
half, and went on by `continued` with `size=160 frames=5 clip_frames=16 window=24 uses=40`; their file says more."""
BOOTSTRAP_BORDERS = {
    "default": (0.16, 0.78),
    "continued": (0.02, 0.3),
}  # shares of the run, between which pixels drop out


@dataclass(frozen=True, slots=True, eq=False)
class PropagationBatch:
    """Samples put together."""

    images_BT3HW: Tensor
    """Normalised."""
    labels_BTHW: Tensor
    """0 background, 1… the sample's objects."""
    flows_BT2HW: Tensor
    """(B, T - 1, 2, H, W)."""
    owner_N: Tensor
    number_N: Tensor
    """The label of each object in its sample."""
    previous_NHW: Tensor

    def to(self, device: torch.device) -> PropagationBatch:
        """Return the batch on a device."""
        return PropagationBatch(*(getattr(self, name).to(device) for name in self.__slots__))


def aggregate_objects(probability_NHW: Tensor, owner_N: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """Return the soft aggregation of objects of several samples: (N, H, W), and the background's (B, H, W).

    The softmax of log-odds over background and objects, as `models.stcn.aggregate` does for one frame.
    """
    probability = probability_NHW.float().clamp(EPSILON, 1 - EPSILON)
    logs = torch.zeros(num_samples, *probability.shape[1:], device=probability.device)
    background = torch.exp(logs.index_add(0, owner_N, torch.log1p(-probability))).clamp(EPSILON, 1 - EPSILON)
    odds = probability / (1 - probability)
    background_odds = background / (1 - background)
    total = background_odds.index_add(0, owner_N, odds)
    return odds / total[owner_N], background_odds / total


def forward_clip(network: CompactStcn, batch: PropagationBatch) -> list[tuple[Tensor, Tensor]]:
    """Return the aggregated probabilities of frames 1, 2, …: of objects (N, H, W), of the background (B, H, W)."""
    num_samples, num_frames = batch.images_BT3HW.shape[:2]
    owner, images = batch.owner_N, batch.images_BT3HW.transpose(0, 1)
    encoded = network.encode_key(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
    by_frame = [torch.unflatten(maps, 0, (num_frames, num_samples)) for maps in encoded]
    features = [CompactFeatures(*(maps[frame] for maps in by_frame)) for frame in range(num_frames)]
    own = (batch.labels_BTHW[owner, 0] == batch.number_N[:, None, None]).float()
    histogram = color_histogram(F.avg_pool2d(images[0], 2), F.avg_pool2d(own[:, None], 2)[:, 0], owner)
    keys, values, found = [], [], []
    told = batch.previous_NHW
    for frame in range(1, num_frames):
        keys.append(features[frame - 1].key_BChw.flatten(2))
        value = network.encode_values(features[frame - 1], own, _others(own, owner, num_samples), owner)
        values.append(value.flatten(2))
        readout = _read(
            torch.cat(keys, 2), torch.cat([value.flatten(2) for value in values], 2), features[frame], owner
        )
        before = Previous(images[frame - 1], batch.flows_BT2HW[:, frame - 1], told, _others(told, owner, num_samples))
        half, told_half = F.avg_pool2d(images[frame - 1], 2), F.avg_pool2d(told[:, None], 2)[:, 0]
        colors = (histogram + color_histogram(half, told_half.detach(), owner)) / 2
        hints = hint_planes(images[frame], before, colors, owner)
        logits = network.decode(readout, features[frame], hints, owner)
        own, background = aggregate_objects(torch.sigmoid(logits.float()), owner, num_samples)
        told = own
        found.append((own, background))
    return found


def _others(own_NHW: Tensor, owner_N: Tensor, num_samples: int) -> Tensor:
    total = torch.zeros(num_samples, *own_NHW.shape[1:], device=own_NHW.device).index_add(0, owner_N, own_NHW)
    return total[owner_N] - own_NHW


def _read(key_BCM: Tensor, value_NCM: Tensor, query: CompactFeatures, owner_N: Tensor) -> Tensor:
    """Return what each place reads in memory (N, C, h, w): all of it, softmax-weighted by similarity."""
    height, width = query.key_BChw.shape[-2:]
    with torch.autocast(key_BCM.device.type, enabled=False):
        key, place = key_BCM.float(), query.key_BChw.float().flatten(2)
        affinity_BQM = 2 * place.transpose(1, 2) @ key - key.square().sum(1)[:, None]
        weight_BQM = torch.softmax(affinity_BQM * key.shape[1] ** -0.5, 2)
    readout = value_NCM @ weight_BQM.to(value_NCM.dtype)[owner_N].transpose(1, 2)
    return torch.unflatten(readout, 2, (height, width))


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationTask:
    """Trains `stcn_compact` on generated clips."""

    architecture: str = "stcn_compact"
    seed: int = 0
    """Of the first weights and the samples."""
    initial: str | None = None
    """Weights to begin with; None: random ones."""
    samples: SampleSettings = field(default_factory=SampleSettings)
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    """How the share of pixels that count falls."""
    num_validation: int = 64
    """Samples of other clips to validate on."""
    drawer: SampleDrawer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "drawer", SampleDrawer(self.seed, self.samples))

    def options(self) -> Mapping[str, Any]:
        """Return what the weights depend on besides `Optimisation`."""
        return {
            "seed": self.seed,
            "initial": self.initial,
            "samples": asdict(self.samples),
            "bootstrap": asdict(self.bootstrap),
            "num_validation": self.num_validation,
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return nothing: the network has no options."""
        return {}

    def build(self) -> nn.Module:
        """Return the network, its weights drawn from the seed or loaded."""
        if self.initial is not None:
            return load_model(self.initial, architecture=self.architecture)[0].train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return CompactStcn()

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return one group with all parameters."""
        return [{"params": list(model.parameters())}]

    def sample(self, index: int) -> PropagationSample:
        """Return a sample."""
        return self.drawer.draw(index)

    def collate(self, samples: Sequence[PropagationSample]) -> PropagationBatch:
        """Put samples together."""
        counts = [len(sample.previous) for sample in samples]
        return PropagationBatch(
            normalise_images(torch.from_numpy(np.stack([sample.images for sample in samples]))),
            torch.from_numpy(np.stack([sample.labels for sample in samples])),
            torch.from_numpy(np.stack([sample.flows for sample in samples])),
            torch.tensor([number for number, count in enumerate(counts) for _ in range(count)]),
            torch.tensor([number + 1 for count in counts for number in range(count)], dtype=torch.uint8),
            torch.from_numpy(np.concatenate([sample.previous for sample in samples])),
        )

    def loss(self, model: nn.Module, batch: PropagationBatch, step: int) -> LossResult:
        """Return bootstrapped cross entropy plus Dice, summed over the predicted frames."""
        share, terms, stats = self.bootstrap.share_at(step), [], {}
        for frame, (own, background) in enumerate(forward_clip(cast(CompactStcn, model), batch), start=1):
            labels = batch.labels_BTHW[:, frame]
            truth = labels[batch.owner_N] == batch.number_N[:, None, None]
            right = ((labels == 0) * background).index_add(0, batch.owner_N, truth * own)
            entropy = hardest_loss(-torch.log(right.clamp(min=EPSILON)), labels, share)
            terms += [entropy, dice_loss(own, truth)]
            stats[f"entropy_{frame}"], stats[f"iou_{frame}"] = float(entropy.detach()), _mean_iou(own, truth)
        return LossResult(torch.stack(terms).sum(), stats)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return the mean IoU of the predicted frames on samples of clips that nobody trains on."""
        device = next(model.parameters()).device
        drawer = SampleDrawer(VALIDATION_SEED, replace(self.samples, window=VALIDATION_BATCH))
        names = [f"iou_{frame}" for frame in range(1, self.samples.frames)]
        found: dict[str, list[float]] = {name: [] for name in ("iou", *names)}
        for first in range(0, self.num_validation, VALIDATION_BATCH):
            numbers = range(first, min(first + VALIDATION_BATCH, self.num_validation))
            batch = self.collate([drawer.draw(number) for number in numbers]).to(device)
            with torch.inference_mode():
                stats = self.loss(model, batch, 0).stats
            for name in names:
                found[name].append(stats[name])
            found["iou"].append(sum(stats[name] for name in names) / len(names))
        return {name: float(np.mean(values)) for name, values in found.items()}


def _mean_iou(own: Tensor, truth: Tensor) -> float:
    mask = own.detach() > 0.5
    union = (mask | truth).sum((1, 2))
    return float(((mask & truth).sum((1, 2)) / union.clamp(min=1))[union > 0].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagationOptions:
    """Options of the task `propagation`."""

    size: int = 128
    """Height and width of a sample in pixels, a multiple of 16."""
    frames: int = 3
    """Frames of a sample: the first one's masks are given, the others predicted one after the other."""
    clip_frames: int = 10
    """Frames of a generated clip."""
    window: int = 48
    """Generated clips that samples are drawn from at a time."""
    uses: int = 36
    """Samples drawn from a clip."""
    num_validation: int = 64
    """Samples of other clips to validate on."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 16:
            raise UsageError(f"size: expected a multiple of 16 from 32, found {self.size}")
        if not 1 < self.frames < self.clip_frames:
            raise UsageError(f"frames: expected from 2 to below clip_frames ({self.clip_frames}), found {self.frames}")
        for name in ("window", "uses", "num_validation"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, found {getattr(self, name)}")


def plan_propagation(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train propagation`.

    Raises:
        UsageError: the recipe or an option is unknown, a value is not possible, or data are given.
        WeightsError: the initial weights are missing, damaged or of another network.
    """
    if request.data or request.validation:
        raise UsageError("task 'propagation' learns from generated clips; leave out the data")
    options = fill_options(PropagationOptions, request.options, kind="option of task 'propagation'")
    optimisation = request.optimisation(RECIPES[choose("recipe", request.recipe, RECIPES)])
    start, end = BOOTSTRAP_BORDERS[request.recipe]
    task = PropagationTask(
        seed=request.seed,
        initial=request.weights,
        samples=SampleSettings(
            size=options.size,
            frames=options.frames,
            clip_frames=options.clip_frames,
            window=options.window,
            uses=options.uses,
        ),
        bootstrap=Bootstrap.scaled(optimisation.steps, start=start, end=end, share=0.25),
        num_validation=options.num_validation,
    )
    return TrainingPlan(task=task, optimisation=optimisation)
