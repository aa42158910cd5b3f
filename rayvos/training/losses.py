"""Losses of dense labels and of points.

A dense loss has two steps: a map of losses, one number a pixel (`cross_entropy_losses`, `huberised_losses`), and what
is made of the map (`mean_loss`, `hardest_loss`). Lovász, Dice and points are whole by themselves. Everywhere:

- A pixel labelled `ignore` has loss 0 and gradient 0, and counts in no mean, no top-k and no sort.
- Images without a valid pixel give 0 with a connected graph, never NaN.
- Arithmetic is float32 or, for float64 input, float64, whatever autocast says; logarithms are taken of logits.

Sources: bootstrapping as in STCN and in the refinement network of PReMVOS; the partially Huberised cross entropy of
Menon et al. 2020 (threshold at p = 1/τ); Lovász losses of Berman et al. 2018; points as in Point-VOS.
Tensor layouts: B images, C classes, H height, W width, N points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rayvos.errors import UsageError
from rayvos.masks.ignore import IGNORE

__all__ = [
    "Bootstrap", "PointLabels", "binary_logits", "cross_entropy_losses", "dice_loss", "hardest_loss",
    "huberised_losses", "lovasz_hinge", "lovasz_probability", "lovasz_softmax", "mean_loss", "point_loss",
    "points_at_stride", "sample_at_points", "tau_at",
]  # fmt: skip

POINT_EPSILON = 1e-7  # probabilities at points are kept away from 0 and 1 before the logarithm
DICE_SMOOTHING = 1.0  # keeps an empty mask's Dice defined


def binary_logits(logits_BHW: Tensor) -> Tensor:
    """Return the two-class logits (B, 2, H, W) whose softmax is the sigmoid of one logit."""
    return torch.stack([torch.zeros_like(logits_BHW), logits_BHW], dim=1)


def cross_entropy_losses(logits_BCHW: Tensor, labels_BHW: Tensor, *, ignore: int = IGNORE) -> Tensor:
    """Return -log p of the labelled class (B, H, W), 0 where it is ignored.

    Args:
        logits_BCHW: any floating dtype.
        labels_BHW: integers, classes 0 … C - 1 or `ignore`.
        ignore: label of pixels that nobody learns from.
    """
    return torch.where(labels_BHW == ignore, 0.0, -_log_probability(logits_BCHW, labels_BHW, ignore))


def huberised_losses(logits_BCHW: Tensor, labels_BHW: Tensor, tau: float, *, ignore: int = IGNORE) -> Tensor:
    """Return the partially Huberised cross entropy (B, H, W): linear where the labelled class has p <= 1/tau.

    A pixel whose label the network confidently contradicts pulls hardly at all, so wrong labels are not learnt.

    Args:
        logits_BCHW: any floating dtype.
        labels_BHW: integers, classes 0 … C - 1 or `ignore`.
        tau: above 1; 1 is the linear loss 1 - p, infinity is cross entropy.
        ignore: label of pixels that nobody learns from.

    Raises:
        UsageError: tau is below 1.
    """
    log_p_BHW = _log_probability(logits_BCHW, labels_BHW, ignore)
    return torch.where(labels_BHW == ignore, 0.0, _huberised(log_p_BHW, tau))


def _log_probability(logits_BCHW: Tensor, labels_BHW: Tensor, ignore: int) -> Tensor:
    classes = torch.where(labels_BHW == ignore, 0, labels_BHW).long()
    return _precise(logits_BCHW).log_softmax(dim=1).gather(1, classes[:, None])[:, 0]


def _huberised(log_p: Tensor, tau: float) -> Tensor:
    if not tau >= 1:
        raise UsageError(f"tau {tau}: expected a number from 1; at most 1/tau is the probability that counts as wrong")
    if math.isinf(tau):
        return -log_p
    linear = math.log(tau) + 1 - tau * log_p.exp()
    return torch.where(log_p <= -math.log(tau), linear, -log_p)


def tau_at(step: int, steps: int, tau: float, *, warmup_share: float = 0.05) -> float:
    """Return the tau of a step: infinite, which is cross entropy, during the first share of a run.

    A network that starts badly contradicts most labels; Huberised from the start it would learn from none.

    Args:
        step: finished steps.
        steps: of the whole run.
        tau: after the warm-up.
        warmup_share: 0 is the paper's way.
    """
    return math.inf if step < warmup_share * steps else tau


def mean_loss(losses_BHW: Tensor, labels_BHW: Tensor, *, per_image: bool = False, ignore: int = IGNORE) -> Tensor:
    """Return the mean over the valid pixels of the batch, or of each image and then over images.

    Only `per_image` does not depend on how a step is cut into pieces: an image without a valid pixel counts as 0.
    """
    valid_BHW = labels_BHW != ignore
    if not per_image:
        return losses_BHW.sum() / valid_BHW.sum().clamp(min=1)
    return (losses_BHW.flatten(1).sum(1) / valid_BHW.flatten(1).sum(1).clamp(min=1)).mean()


def hardest_loss(
    losses_BHW: Tensor,
    labels_BHW: Tensor,
    share: float,
    *,
    rounding: Literal["down", "half-even"] = "down",
    ignore: int = IGNORE,
) -> Tensor:
    """Return the mean of each image's largest losses, then the mean over images.

    Args:
        losses_BHW: a map of losses.
        labels_BHW: where it is valid.
        share: of an image's valid pixels, above 0; 1 takes them all.
        rounding: of their number: `down` as STCN does, `half-even` as Box2Seg does; at least one.
        ignore: label of pixels that nobody learns from.
    """
    means = [
        _mean_of_hardest(losses[labels != ignore], share, rounding)
        for losses, labels in zip(losses_BHW, labels_BHW, strict=True)
    ]
    return torch.stack(means).mean()


def _mean_of_hardest(losses: Tensor, share: float, rounding: Literal["down", "half-even"]) -> Tensor:
    count = losses.numel()
    if count == 0:
        return losses.sum()
    wanted = count * share
    k = max(1, math.floor(wanted) if rounding == "down" else round(wanted))
    return losses.mean() if k >= count else losses.topk(k, sorted=False).values.mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """How the share of the hardest pixels falls during a run.

    Source: hkchengrex/STCN; steps 20 000 and 70 000 belong to runs of 150 000 and more, so scale them with the run.
    """

    start: int = 20_000
    """Step until which all pixels count."""
    end: int = 70_000
    """Step from which only the final share counts."""
    share: float = 0.15
    """The final share."""

    @classmethod
    def scaled(cls, steps: int, *, start: float = 20 / 150, end: float = 70 / 150, share: float = 0.15) -> Bootstrap:
        """Return the schedule of a run of `steps`, its borders given as shares of the run."""
        return cls(start=round(start * steps), end=max(round(end * steps), round(start * steps) + 1), share=share)

    def share_at(self, step: int) -> float:
        """Return the share of a step."""
        left = min(max((self.end - step) / (self.end - self.start), 0.0), 1.0)
        return self.share + (1 - self.share) * left


def lovasz_hinge(logits_BHW: Tensor, labels_BHW: Tensor, *, per_image: bool = False, ignore: int = IGNORE) -> Tensor:
    """Return the Lovász extension of 1 - IoU of the hinge errors of one logit; labels 0, 1 or `ignore`."""
    logits, truth = _precise(logits_BHW), labels_BHW == 1
    errors = 1 - logits * (2 * truth.to(logits.dtype) - 1)
    return _lovasz(errors, truth, labels_BHW != ignore, per_image=per_image).mean()


def lovasz_probability(
    probability_BHW: Tensor,
    labels_BHW: Tensor,
    *,
    per_image: bool = False,
    present_only: bool = False,
    ignore: int = IGNORE,
) -> Tensor:
    """Return the Lovász extension of 1 - IoU of one class's probability: exactly 1 - IoU where it is 0 or 1.

    Without a labelled pixel it is the largest single error, unless `present_only`, which gives 0 then.

    Args:
        probability_BHW: of the class.
        labels_BHW: 0, 1 or `ignore`.
        per_image: the mean over images, instead of all pixels sorted together, as STA does.
        present_only: skip images (or the batch) without the class.
        ignore: label of pixels that nobody learns from.
    """
    probability, truth = _precise(probability_BHW), labels_BHW == 1
    errors = torch.where(truth, 1 - probability, probability)
    losses = _lovasz(errors, truth, labels_BHW != ignore, per_image=per_image)
    if present_only:
        losses = losses * (truth.flatten(1).any(1) if per_image else truth.any())
    return losses.mean()


def lovasz_softmax(
    probability_BCHW: Tensor,
    labels_BHW: Tensor,
    *,
    classes: Literal["present", "all"] | Sequence[int] = "present",
    per_image: bool = False,
    ignore: int = IGNORE,
) -> Tensor:
    """Return the mean of `lovasz_probability` over classes: those present in the labels, all, or the given ones."""
    if per_image:
        pairs = zip(probability_BCHW[:, None], labels_BHW[:, None], strict=True)
        return torch.stack([lovasz_softmax(*pair, classes=classes, ignore=ignore) for pair in pairs]).mean()
    chosen = range(probability_BCHW.shape[1]) if isinstance(classes, str) else classes
    terms = []
    for number in chosen:
        truth = torch.where(labels_BHW == ignore, ignore, (labels_BHW == number).to(labels_BHW.dtype))
        if classes != "present" or bool((truth == 1).any()):
            terms.append(lovasz_probability(probability_BCHW[:, number], truth, ignore=ignore))
    return torch.stack(terms).mean() if terms else _precise(probability_BCHW).sum() * 0


def _lovasz(errors_BHW: Tensor, truth_BHW: Tensor, valid_BHW: Tensor, *, per_image: bool) -> Tensor:
    """Return the Lovász extension of the Jaccard loss: of each image (B,), or of all pixels together (1,)."""
    errors, truth, valid = (
        maps.flatten(1) if per_image else maps.reshape(1, -1) for maps in (errors_BHW, truth_BHW, valid_BHW)
    )
    # Pixels that do not count come last, where they change no other pixel's weight.
    order = errors.detach().masked_fill(~valid, -math.inf).argsort(dim=1, descending=True, stable=True)
    truth_sorted = truth.gather(1, order).to(errors.dtype)
    total = truth_sorted.sum(1, keepdim=True)
    jaccard = 1 - (total - truth_sorted.cumsum(1)) / (total + (1 - truth_sorted).cumsum(1))
    weights = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], 1)
    # Errors below 0 (of the hinge) are right with a margin; probabilities have none.
    return (weights * torch.where(valid & (errors >= 0), errors, 0.0).gather(1, order)).sum(1)


def dice_loss(probability_BHW: Tensor, labels_BHW: Tensor, *, ignore: int = IGNORE) -> Tensor:
    """Return the soft Dice loss of each image's object, then the mean over images; labels 0, 1 or `ignore`."""
    valid_BHW = labels_BHW != ignore
    probability = torch.where(valid_BHW, _precise(probability_BHW), 0.0).flatten(1)
    truth = (labels_BHW == 1).to(probability.dtype).flatten(1)
    both, sizes = (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
    return (1 - (2 * both + DICE_SMOOTHING) / (sizes + DICE_SMOOTHING)).mean()


@dataclass(frozen=True, slots=True, kw_only=True)
class PointLabels:
    """Annotated points of a batch, ambiguous ones left out."""

    image_N: Tensor
    """int64, which image."""
    channel_N: Tensor
    """int64, which channel of the probability map the point speaks of."""
    xy_N2: Tensor
    """float, pixels of the map; the centre of the upper left pixel is (0, 0)."""
    positive_N: Tensor
    """bool: the channel's object is there, or is not."""

    def to(self, device: torch.device) -> PointLabels:
        """Return the points on a device."""
        return PointLabels(
            image_N=self.image_N.to(device),
            channel_N=self.channel_N.to(device),
            xy_N2=self.xy_N2.to(device),
            positive_N=self.positive_N.to(device),
        )


def points_at_stride(xy_N2: Tensor, stride: float) -> Tensor:
    """Return points of an image on a map whose pixels are `stride` image pixels wide."""
    return (xy_N2 + 0.5) / stride - 0.5


def sample_at_points(probability_BCHW: Tensor, points: PointLabels) -> Tensor:
    """Return the points' channels at their places (N,), bilinearly, clamped to the border.

    Equals `grid_sample(align_corners=False, padding_mode="border")`.
    """
    probability = _precise(probability_BCHW)
    height, width = probability.shape[-2:]
    x = points.xy_N2[:, 0].to(probability.dtype).clamp(0, width - 1)
    y = points.xy_N2[:, 1].to(probability.dtype).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    share_x, share_y = x - left, y - top

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        return probability[points.image_N, points.channel_N, rows, columns]

    upper = (1 - share_x) * at(top, left) + share_x * at(top, right)
    lower = (1 - share_x) * at(bottom, left) + share_x * at(bottom, right)
    return (1 - share_y) * upper + share_y * lower


def point_loss(
    probability_BCHW: Tensor,
    points: PointLabels,
    *,
    tau: float = math.inf,
    balance: Literal["none", "class"] = "none",
    per_image: bool = False,
) -> Tensor:
    """Return the mean over points of -log q for a positive and -log(1 - q) for a negative, q sampled at the point.

    With aggregated probabilities a positive of one object is a negative of all others by construction.

    Args:
        probability_BCHW: of each object; the paper interpolates probabilities, not logits.
        points: on the map.
        tau: Huberised if finite; see `huberised_losses`.
        balance: `class` weighs positives together as much as negatives together.
        per_image: the mean of each image, 0 without points, and then over images: only so the loss does not depend on
            how a step is cut into pieces.
    """
    found = sample_at_points(probability_BCHW, points).clamp(POINT_EPSILON, 1 - POINT_EPSILON)
    if found.numel() == 0:
        return _precise(probability_BCHW).sum() * 0
    losses = _huberised(torch.where(points.positive_N, found, 1 - found).log(), tau)
    image_N = points.image_N if per_image else torch.zeros_like(points.image_N)
    num_images = len(probability_BCHW) if per_image else 1
    kind_N = points.positive_N.long() if balance == "class" else torch.zeros_like(image_N)
    counts = torch.bincount(2 * image_N + kind_N, minlength=2 * num_images).reshape(num_images, 2)
    num_kinds = (counts > 0).sum(1)
    return (losses / (counts[image_N, kind_N] * num_kinds[image_N])).sum() / num_images


def _precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
