"""The task behind the packaged weights: the guided segmenter learns from generated scenes alone.

Samples are costly to draw and cheap to learn from, so each is used several times: visit i takes one of the last
`window` samples, and the window moves on by one sample every `reuse` visits. With a `cache` folder drawn samples are
kept there as files, which several processes may fill (`fill_cache`); results are the same with and without.

Source: specification of the default model, sections 3 and 5c.
Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.engines.guided.guidance import UNIT
from rayvos.engines.options import fill_options
from rayvos.errors import UsageError, choose
from rayvos.models.guided import PLANES, Guided, GuidedModel, GuidedOutput
from rayvos.models.registry import load_model
from rayvos.models.weights import load_state
from rayvos.training.guided_samples import GENERATOR_VERSION, GuidedSample, draw_sample
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.task import LossResult, Optimisation

__all__ = [
    "HELD_OUT_PROGRAMS",
    "PROGRAMS",
    "RECIPES",
    "GuidedBatch",
    "GuidedOptions",
    "GuidedTask",
    "fill_cache",
    "plan_guided",
    "planes_to_input",
]

PROGRAMS = ("fractal", "dead_leaves", "stripes", "gradient", "foliage", "strokes")
HELD_OUT_PROGRAMS = ("cells", "bricks")
"""Texture programs that validation uses and training never sees."""
HEAD_START = 512  # samples among which the first visit chooses
QUALITY_WEIGHT = 0.1  # specification of the default model, section 3
VALIDATION_SEED = 1_000_003
FLIPPED = tuple(PLANES.index(name) for name in PLANES if name.endswith("_x"))
MOTION = tuple(PLANES.index(name) for name in PLANES if name[-2:] in ("_x", "_y"))
DROPPED = ((*MOTION,), *((PLANES.index(name),) for name in ("color_likelihood", "color_cut", "motion_cuts")))
DROP_SHARE = 0.06  # of the visits, for each group: no plane may become indispensable

RECIPES: Mapping[str, Optimisation] = {
    "default": Optimisation(
        steps=3_900,
        batch_size=8,
        learning_rate=1.5e-3,
        weight_decay=1e-4,
        warmup_steps=200,
        ema_decay=0.999,
        clip_norm=5.0,
    ),
    "short": Optimisation(
        steps=1_500, batch_size=8, learning_rate=1.5e-3, weight_decay=1e-4, warmup_steps=100, ema_decay=0.99
    ),
}
"""Recipes of `rayvos train guided`; `default` made the packaged weights, but for the rate of some steps: metadata."""


@dataclass(frozen=True, slots=True, eq=False)
class GuidedBatch:
    """Crops and their masks."""

    planes_BCHW: Tensor
    """int8."""
    masks_BHW: Tensor
    """uint8, 1 on the object."""

    def to(self, device: torch.device) -> GuidedBatch:
        """Return the batch on a device."""
        return GuidedBatch(self.planes_BCHW.to(device, non_blocking=True), self.masks_BHW.to(device, non_blocking=True))


def planes_to_input(planes_BCHW: Tensor) -> Tensor:
    """Return int8 planes as the network's input: float32, channels last in memory."""
    return (planes_BCHW.float() / UNIT).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedTask:
    """Learning from generated scenes; a `TrainingTask`."""

    architecture: str = field(default="guided", init=False)
    seed: int = 0
    """Of the initial weights, the samples and their order."""
    model: GuidedModel = field(default_factory=GuidedModel)
    """The network."""
    reuse: int = 6
    """Visits per sample, on average."""
    window: int = 4096
    """Samples among which a visit chooses."""
    num_validation: int = 256
    """Samples of held-out programs that say how good the network is."""
    cache: str | None = None
    """Folder for drawn samples, 0.4 MB each; None: they are drawn at every visit. Changes no result."""
    initial: str | None = None
    """Weights to begin with, of the same network; None: random ones."""

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on besides the optimisation."""
        return {
            "seed": self.seed,
            "generator": GENERATOR_VERSION,
            "programs": list(PROGRAMS),
            "reuse": self.reuse,
            "window": self.window,
            "num_validation": self.num_validation,
            "initial": None if self.initial is None else load_model(self.initial, architecture="guided")[1].digest,
        }

    def model_config(self) -> Mapping[str, Any]:
        """Return the network's configuration."""
        return {**asdict(self.model), "widths": list(self.model.widths)}

    def build(self) -> nn.Module:
        """Return the network with its initial weights, or with weights drawn from the seed.

        Raises:
            WeightsError: the initial weights are missing, damaged or of another network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Guided(self.model).to(memory_format=torch.channels_last)
        if self.initial is not None:
            loaded, _ = load_model(self.initial, architecture="guided")
            load_state(network, loaded.state_dict(), where=self.initial)
        return network

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return all weights, in one group."""
        return [{"params": list(model.parameters())}]

    def sample(self, index: int) -> GuidedSample:
        """Return a sample as this visit shows it: mirrored or not, in other light, without some planes."""
        rng = np.random.default_rng([self.seed, index, 3])
        newest = HEAD_START + index // self.reuse
        drawn = self.drawn_sample(int(rng.integers(max(0, newest - self.window), newest)))
        planes, mask = drawn.planes.copy(), drawn.mask
        if rng.uniform() < 0.5:
            planes, mask = planes[:, :, ::-1].copy(), mask[:, ::-1].copy()
            planes[FLIPPED, :, :] *= -1
        planes[:3] = _relit(rng, planes[:3])
        for group in DROPPED:
            if rng.uniform() < DROP_SHARE:
                planes[group, :, :] = 0
        return GuidedSample(planes, mask)

    def drawn_sample(self, number: int) -> GuidedSample:
        """Return a sample before augmentation, from the cache where it is there."""
        return self._drawn(self.seed, number, PROGRAMS)

    def _drawn(self, seed: int, number: int, programs: tuple[str, ...]) -> GuidedSample:
        if self.cache is None:
            return draw_sample(seed, number, self.model.size, programs)
        kind = "" if programs == PROGRAMS else "held-out-"
        path = Path(self.cache) / f"{kind}{seed}-{self.model.size}-{GENERATOR_VERSION}-{number:08d}.npy"
        if path.exists():
            stack = np.load(path)
            return GuidedSample(stack[:-1], stack[-1].view(np.uint8))
        drawn = draw_sample(seed, number, self.model.size, programs)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{np.random.default_rng().integers(1 << 62)}.part")
        with part.open("wb") as file:
            np.save(file, np.concatenate([drawn.planes, drawn.mask[None].view(np.int8)]))
        part.replace(path)
        return drawn

    def collate(self, samples: Sequence[GuidedSample]) -> GuidedBatch:
        """Put samples together."""
        return GuidedBatch(
            torch.from_numpy(np.stack([sample.planes for sample in samples])),
            torch.from_numpy(np.stack([sample.mask for sample in samples])),
        )

    def loss(self, model: nn.Module, batch: GuidedBatch, step: int) -> LossResult:
        """Return cross entropy plus Dice of the mask, plus the square error of the predicted IoU."""
        output: GuidedOutput = model(planes_to_input(batch.planes_BCHW))
        truth_BHW = batch.masks_BHW.float()
        logits_BHW, quality_B = output.logits_BHW.float(), output.quality_B.float()
        entropy = F.binary_cross_entropy_with_logits(logits_BHW, truth_BHW)
        probability_BHW = torch.sigmoid(logits_BHW)
        shared = (probability_BHW * truth_BHW).sum(dim=(1, 2))
        dice = 1 - ((2 * shared + 1) / (probability_BHW.sum(dim=(1, 2)) + truth_BHW.sum(dim=(1, 2)) + 1)).mean()
        iou_B = _iou(logits_BHW.detach() > 0, batch.masks_BHW > 0)
        quality = F.mse_loss(torch.sigmoid(quality_B), iou_B)
        terms = {"entropy": entropy, "dice": dice, "quality": quality, "iou": iou_B.mean()}
        stats = {name: float(term.detach()) for name, term in terms.items()}
        return LossResult(entropy + dice + QUALITY_WEIGHT * quality, stats)

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return mean IoU and error of the predicted IoU on scenes of held-out texture programs."""
        device = next(model.parameters()).device
        ious, predicted = [], []
        for first in range(0, self.num_validation, 16):
            numbers = range(first, min(first + 16, self.num_validation))
            samples = [self._drawn(VALIDATION_SEED, number, HELD_OUT_PROGRAMS) for number in numbers]
            batch = self.collate(samples).to(device)
            with torch.inference_mode():
                output = cast(GuidedOutput, model(planes_to_input(batch.planes_BCHW)))
            ious.append(_iou(output.logits_BHW > 0, batch.masks_BHW > 0))
            predicted.append(torch.sigmoid(output.quality_B))
        iou, score = torch.cat(ious).double(), torch.cat(predicted).double()
        return {
            "iou": float(iou.mean()),
            "recall_70": float((iou >= 0.7).double().mean()),
            "quality_error": float((iou - score).abs().mean()),
            "quality_spearman": _rank_correlation(iou, score),
        }


def _relit(rng: np.random.Generator, rgb: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the picture planes in another light."""
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
    shift = rng.normal(0, 10)
    levels = np.arange(-128, 128)[None] * gain[:, None] + shift
    table = np.clip(np.rint(levels), -UNIT, UNIT).astype(np.int8)
    return np.stack([table[channel][rgb[channel].astype(np.int16) + 128] for channel in range(3)])


def _iou(found_BHW: Tensor, truth_BHW: Tensor) -> Tensor:
    both = (found_BHW & truth_BHW).sum(dim=(1, 2)).float()
    either = (found_BHW | truth_BHW).sum(dim=(1, 2)).float()
    return both / either.clamp(min=1)


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedOptions:
    """Options of the task `guided`."""

    supervision: Literal["masks", "boxes"] = "masks"
    """`masks` of generated clips, or the `boxes` of your own (see `training/box_supervision_task.py`)."""
    size: int = 128
    """Height and width of the crop in pixels, a multiple of 32."""
    reuse: int = 6
    """Visits per generated sample."""
    window: int = 4096
    """Samples among which a visit chooses."""
    num_validation: int = 256
    """Samples of held-out texture programs to validate on."""
    cache: str | None = None
    """Folder for generated samples, 0.4 MB each; none: they are drawn at every visit. Changes no result."""


def plan_guided(request: TrainingRequest) -> TrainingPlan:
    """Return the plan of `rayvos train guided`.

    Raises:
        UsageError: the recipe or an option is unknown, a value is not possible, or data are given.
        WeightsError: the initial weights are missing, damaged or of another network.
    """
    supervision = choose("supervision", str(request.options.get("supervision", "masks")), ("masks", "boxes"))
    if supervision == "boxes":
        from rayvos.training.box_supervision_task import plan_box_supervision

        return plan_box_supervision(request)
    if request.data or request.validation:
        raise UsageError(
            "task 'guided' learns from generated clips; leave out the data, or learn from their boxes with "
            "--supervision boxes"
        )
    options = fill_options(GuidedOptions, request.options, kind="option of task 'guided'")
    task = GuidedTask(
        seed=request.seed,
        model=GuidedModel(size=options.size),
        reuse=options.reuse,
        window=options.window,
        num_validation=options.num_validation,
        cache=options.cache,
        initial=request.weights,
    )
    recipe = RECIPES[choose("recipe", request.recipe, RECIPES)]
    return TrainingPlan(task=task, optimisation=request.optimisation(recipe))


def fill_cache(task: GuidedTask, numbers: range) -> None:
    """Draw samples into the task's cache; several processes may do so for different numbers."""
    for number in numbers:
        task.drawn_sample(number)
