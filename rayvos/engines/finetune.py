"""Sharpens a network for one object, with the masks that a person gave of it on some frames of the clip.

A copy of the network is trained for some hundred steps on nothing but these masks; jittered boxes, gamma and flips are
the only variety. It then labels that object on all other frames. Every object starts from the same weights with a
fresh optimiser and its own random numbers, so what an object gets depends on its own masks alone: not on its
neighbours, nor on the order of work.

Source: Box2Seg, fine-tuning on one mask: 300 steps, batch 1, Adam, batch norms frozen, cross entropy of the hardest
25 % of the pixels. The middle one of an object's frames serves best (87.6 mean IoU, the first one 86.7).
Differs: the learning rate falls to zero over the second half, so that the last samples do not decide.

Why one thread per object, and no batch of objects: a convolution grouped over objects sums in another order than one
alone, and labels would depend on who shares a batch. Objects are tuned side by side, each on one core.
Tensor layouts: C channels, H height, W width.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.devices import single_threads
from rayvos.engines.keyframes import middle_frame
from rayvos.errors import UsageError, choose

__all__ = [
    "FinetuneMasks",
    "TuningSample",
    "check_finetuning",
    "finetune_network",
    "gamma_curve",
    "masked_objects",
    "object_generator",
    "tune_objects",
    "tuning_masks",
    "used_options",
]

FinetuneMasks = Literal["none", "all", "middle", "first"]
"""Which of an object's masks it is sharpened with: all in turn, the middle one of its frames, or the first."""

HARDEST_SHARE = 0.25  # Box2Seg: bootstrapped cross entropy
GAMMA_SPREAD = 0.05  # PReMVOS: between 0.82 and 1.23


@dataclass(frozen=True, slots=True, eq=False)
class TuningSample:
    """What one step learns from."""

    inputs_CHW: Tensor
    """As the network takes it."""
    truth_HW: Tensor
    """float32, 1 on the object."""


Draw = Callable[[int, np.random.Generator], TuningSample]
"""Draws a sample of an object's mask of this number, augmented."""


def tuning_masks(clip: Clip, object_id: int, choice: FinetuneMasks) -> list[MaskPrompt]:
    """Return the masks to sharpen an object with, by frame; none where no person drew it.

    `middle` is the middle one of the frames on which the object is known to be visible, or the masked frame nearest
    to it.
    """
    masks = sorted(_peoples_masks(clip, object_id), key=lambda mask: mask.frame)
    if not masks or choice == "none":
        return []
    if choice == "all":
        return masks
    if choice == "first":
        return masks[:1]
    seen = {mask.frame for mask in masks}
    seen |= {box.frame for box in clip.boxes if box.object_id == object_id and box.visible}
    middle = middle_frame(seen)
    return [min(masks, key=lambda mask: (abs(mask.frame - middle), -mask.frame))]


def _peoples_masks(clip: Clip, object_id: int) -> list[MaskPrompt]:
    return [
        mask for mask in clip.masks if mask.object_id == object_id and mask.rle is not None and not mask.machine_made
    ]


def masked_objects(clip: Clip) -> list[int]:
    """Return the ids of the objects of which a person drew a mask, ascending."""
    return [object_id for object_id in clip.object_ids() if _peoples_masks(clip, object_id)]


def object_generator(seed: int, clip_id: str, object_id: int) -> np.random.Generator:
    """Return the random numbers of one object: the same wherever and whenever it is tuned."""
    return np.random.default_rng([seed, zlib.crc32(clip_id.encode()), object_id])


def check_finetuning(masks: FinetuneMasks, steps: int, learning_rate: float) -> None:
    """Check an engine's options.

    Raises:
        UsageError: one of them is not possible.
    """
    choose("finetune", masks, get_args(FinetuneMasks))
    if steps < 1 or not learning_rate > 0:
        raise UsageError(f"finetune_steps {steps}, finetune_rate {learning_rate}: expected numbers above 0")


def used_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return an engine's options without those that labels do not depend on.

    Options of `finetune`, `adapt` and `propagate` start with these words; the seed is used by the first two alone.
    """
    idle = tuple(word for word in ("finetune", "adapt", "propagate") if options.get(word, False) in (False, "none"))
    used = {name: value for name, value in options.items() if not name.startswith(idle)}
    if {"finetune", "adapt"} <= set(idle):
        used.pop("seed", None)
    return used


def gamma_curve(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return a table (256,) of a random gamma. Source: PReMVOS, on pictures in [0, 1]."""
    shift = generator.uniform(-GAMMA_SPREAD, GAMMA_SPREAD) / np.sqrt(2)
    gamma = np.log(0.5 + shift) / np.log(0.5 - shift)
    curve: NDArray[np.uint8] = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return curve


def finetune_network(
    network: nn.Module,
    draw: Draw,
    *,
    num_masks: int,
    logits: Callable[[nn.Module, Tensor], Tensor],
    generator: np.random.Generator,
    steps: int,
    learning_rate: float,
) -> nn.Module:
    """Return a copy of a network that was sharpened for one object; the network itself stays as it is.

    Args:
        network: in evaluation mode, and so is the result: batch norms neither move nor learn.
        draw: gives the sample of a step; masks take turns.
        num_masks: of this object.
        logits: (network, inputs (1, C, H, W)) → logits (1, H, W) of the object.
        generator: of this object.
        steps: of the optimiser.
        learning_rate: of Adam.
    """
    tuned = copy.deepcopy(network).requires_grad_(True)
    for module in tuned.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    optimiser = torch.optim.Adam((p for p in tuned.parameters() if p.requires_grad), lr=learning_rate)
    device = next(tuned.parameters()).device
    with torch.enable_grad():
        for step in range(steps):
            sample = draw(step % num_masks, generator)
            found_HW = logits(tuned, sample.inputs_CHW[None].to(device))[0]
            optimiser.zero_grad(set_to_none=True)
            _hardest_entropy(found_HW.float(), sample.truth_HW.to(device)).backward()  # type: ignore[no-untyped-call]
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * min(1.0, 2 * (steps - step) / steps)
            optimiser.step()
    return tuned.requires_grad_(False)


def _hardest_entropy(logits_HW: Tensor, truth_HW: Tensor) -> Tensor:
    """Return the mean cross entropy of the hardest share of the pixels."""
    losses = F.binary_cross_entropy_with_logits(logits_HW, truth_HW, reduction="none").flatten()
    return losses.topk(max(1, round(HARDEST_SHARE * losses.numel()))).values.mean()


def tune_objects(jobs: Mapping[int, Callable[[], nn.Module]], device: torch.device) -> dict[int, nn.Module]:
    """Return the network of each object, tuned side by side on a CPU, one after the other on a GPU.

    Args:
        jobs: by object id, what tunes it.
        device: where they compute.
    """
    if device.type != "cpu":
        settings = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with settings:
            return {object_id: job() for object_id, job in jobs.items()}
    with single_threads(device, "finetune") as (pool, _):
        pending = {object_id: pool.submit(job) for object_id, job in jobs.items()}
        return {object_id: job.result() for object_id, job in pending.items()}
