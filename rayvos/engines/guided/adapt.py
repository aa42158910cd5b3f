"""Adapts the guided segmenter to one clip by its boxes alone, and keeps the result only where the score says it helps.

Half of some boxed frames, spread over the clip, are learnt from by the losses of `box_supervision` beside this
file; on the other half both networks are judged as labels are: by the fit of box and mask, by the agreement of one
frame's mask with the next one's, and by the network's own predicted IoU. All objects of the clip share one network.

What the losses teach is wrong of some clips, and no judge without masks tells which: on seventeen clips the score rose
on all, flow and cuts agreed as well with masks that got worse. So the result goes half the way only, which nearly
halves what such clips lose, and costs the others less than half of what they gain.

Source: specification of the default model, section 5b: batch 8 at 1e-4, batch norms frozen; "never on by default
where it loses: choose by the predicted score". Differs: 60 steps instead of 100, and half the way (WiSE-FT).
Tensor layouts: B batch, H height, W width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from rayvos.annotations.records import Clip
from rayvos.engines.base import FrameReader
from rayvos.engines.finetune import object_generator, tune_objects
from rayvos.engines.guided.box_supervision import (
    BoxCrop,
    BoxLossWeights,
    box_losses,
    box_pairs,
    read_box_crops,
    stack_crops,
    total_loss,
)
from rayvos.engines.guided.guidance import UNIT
from rayvos.engines.guided.network import GuidedSegmenter
from rayvos.engines.scores import overlap, predicted_iou
from rayvos.errors import UsageError
from rayvos.masks.agreement import box_agreement
from rayvos.models.guided import GuidedOutput

__all__ = ["Adaptation", "adapt_network", "adapt_segmenter", "box_score", "check_share", "part_of_the_way"]

logger = logging.getLogger(__name__)

MOST_PAIRS = 40  # of a frame and the next; 20 are learnt from: 60 steps of batch 8 see each some twenty times
FEWEST_PAIRS = 4
BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Adaptation:
    """A segmenter after a clip was looked at."""

    segmenter: GuidedSegmenter
    """The adapted one where it was kept, else the one before."""
    kept: bool
    score_before: float
    """Mean score of the frames that were not learnt from; 0 where there are too few to say."""
    score_after: float


def check_share(name: str, share: float) -> None:
    """Check how far an engine shall go from old to new weights.

    Raises:
        UsageError: it is not a share.
    """
    if not 0 < share <= 1:
        raise UsageError(f"{name} {share}: expected a number above 0 and up to 1")


def adapt_segmenter(
    base: GuidedSegmenter,
    clip: Clip,
    images: FrameReader,
    *,
    steps: int,
    learning_rate: float,
    share: float,
    seed: int,
    weights: BoxLossWeights | None = None,
) -> Adaptation:
    """Adapt a segmenter to a clip's boxes; it stays as it is, and is returned where adapting did not help.

    Args:
        base: where it starts.
        clip: with boxes.
        images: its frames.
        steps: of the optimiser.
        learning_rate: of Adam.
        share: how far from the old weights to the adapted ones, see `part_of_the_way`.
        seed: with the clip, of the random numbers.
        weights: of the losses; None: the defaults.

    Raises:
        InputError: a frame cannot be read.
    """
    crops = list(read_box_crops(clip, images, box_pairs(clip, MOST_PAIRS), base.size))
    if len(crops) < FEWEST_PAIRS:
        return Adaptation(base, False, 0.0, 0.0)
    learnt, judged = crops[::2], crops[1::2]

    def job() -> nn.Module:
        adapted = adapt_network(
            base.network, learnt,
            steps=steps, learning_rate=learning_rate, weights=weights or BoxLossWeights(),
            generator=object_generator(seed, clip.clip_id, 0),
        )  # fmt: skip
        return part_of_the_way(base.network, adapted, share)

    adapted = base.with_network(tune_objects({0: job}, base.device)[0])
    before, after = (
        float(np.mean([box_score(network, crop, base.device) for crop in judged]))
        for network in (base.network, adapted.network)
    )
    kept = after > before
    logger.info("adapted clip=%s kept=%s score_before=%.4f score_after=%.4f", clip.clip_id, kept, before, after)
    return Adaptation(adapted if kept else base, kept, before, after)


def adapt_network(
    network: nn.Module,
    crops: Sequence[BoxCrop],
    *,
    steps: int,
    learning_rate: float,
    weights: BoxLossWeights,
    generator: np.random.Generator,
) -> nn.Module:
    """Return a copy of a network that learnt from boxed crops; the network itself is the anchor.

    Args:
        network: in evaluation mode, its batch norms folded or frozen.
        crops: of one clip or many.
        steps: of the optimiser, each of some crops drawn at random.
        learning_rate: of Adam.
        weights: of the losses.
        generator: of the draws.
    """
    learner = copy.deepcopy(network).requires_grad_(True)
    for module in learner.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    device = next(learner.parameters()).device
    optimiser = torch.optim.Adam((p for p in learner.parameters() if p.requires_grad), lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = generator.choice(len(crops), min(BATCH, len(crops)), replace=False)
            batch = stack_crops([crops[position] for position in chosen]).to(device)
            optimiser.zero_grad(set_to_none=True)
            total_loss(box_losses(learner, network, batch, weights)).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return learner.requires_grad_(False)


def part_of_the_way(old: nn.Module, new: nn.Module, share: float) -> nn.Module:
    """Return the new network, changed in place to lie so far from the old one to where it is; learnt no further.

    Halfway, a small network that a few frames of one clip have sharpened keeps most of what that gains, and half of
    what it spoils elsewhere. Source: WiSE-FT (Wortsman et al., 2022).
    """
    new.requires_grad_(False)
    if share < 1:
        for to, start in zip(new.parameters(), old.parameters(), strict=True):
            to.copy_(start.lerp(to, share))
    return new


def box_score(network: nn.Module, crop: BoxCrop, device: torch.device) -> float:
    """Return the predicted IoU of what a network finds on a crop: the score of engine `guided`, in [0, 1]."""
    planes_BCHW = torch.from_numpy(np.stack([crop.planes, crop.partner])).to(device).float() / UNIT
    grid_BHW2 = torch.from_numpy((2 * crop.places + 1) / np.float32(crop.planes.shape[1]) - 1)[None].to(device)
    with torch.inference_mode():
        output: GuidedOutput = network(planes_BCHW)
        found_BHW = torch.sigmoid(output.logits_BHW.float())
        moved_BHW = F.grid_sample(found_BHW[1:, None], grid_BHW2, align_corners=False)[:, 0]
        quality = float(torch.sigmoid(output.quality_B[0].float()))
    own: NDArray[np.float32] = (found_BHW[0] > 0.5).float().cpu().numpy()
    moved: NDArray[np.float32] = (moved_BHW[0] > 0.5).float().cpu().numpy()
    return predicted_iou(box_agreement(own > 0.5, crop.box), quality, overlap(own, moved))
