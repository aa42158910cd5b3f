"""Puts the two passes of the engine `stcn` together: a mixture per pixel, its label map, and what speaks for it.

Layouts: K objects, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["fuse_passes", "label_map", "mask_qualities", "name_qualities", "scale_probability"]

NEAR_PROBABILITY = 0.05  # an object's entropy is taken where it may be at all


def fuse_passes(forward: Tensor | None, backward: Tensor | None, shares: Sequence[float | None]) -> Tensor:
    """Return the mixture (K + 1, H, W) of two passes: (K + 1, H, W) forward, (K, H, W) backward.

    The background gets what the objects leave. With one share for all objects that is the mixture of the two
    distributions; with several, objects may claim more than there is, and the largest claim wins all the same.
    """
    if forward is not None and all(share is None or share == 1 for share in shares):
        return forward
    like = backward if forward is None else forward
    assert like is not None, "an object that is known was seen by a pass"
    objects = torch.zeros((len(shares), *like.shape[-2:]), device=like.device)
    for position, share in enumerate(shares):
        if share:
            assert forward is not None, "a share above 0 asks for the forward pass"
            objects[position] += share * forward[position + 1]
        if share is not None and share < 1:
            assert backward is not None, "a share below 1 asks for the backward pass"
            objects[position] += (1 - share) * backward[position]
    return torch.cat([(1 - objects.sum(0, keepdim=True)).clamp(min=0), objects])


def label_map(fused: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the most probable position + 1 of each pixel at some size, uint8, 0 background; ties go to the lower one.

    Objects are scaled up one by one: all of them at once would take gigabytes for many objects on large frames.
    """
    labels = torch.zeros(size, dtype=torch.uint8, device=fused.device)
    best: Tensor | None = None
    for number, probability in enumerate(fused):
        probability = scale_probability(probability, size)
        if best is None:
            best = probability
            continue
        better = probability > best
        labels[better] = number
        best = torch.where(better, probability, best)
    return labels


def scale_probability(probability: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a map (H, W) at another size, bilinearly."""
    if probability.shape == size:
        return probability
    return F.interpolate(probability[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def mask_qualities(
    fused: Tensor,
    winners: Tensor,
    forward: Tensor | None,
    backward: Tensor | None,
    shares: Mapping[int, float | None],
) -> Tensor:
    """Return what is known of each object's label without truth: (objects, 3) float64, in the order of `shares`.

    The numbers stay on the device, so that nobody waits for them yet; `name_qualities` names them.

    `expected_iou`: of the mask with a truth drawn pixel by pixel with these probabilities, mean intersection over
    mean union. `entropy`: mean over the pixels where the object may be, in bits. `agreement`: soft IoU of the two
    passes, where both know the object; NaN elsewhere.
    """
    rows = []
    for position, share in shares.items():
        probability, mask = fused[position + 1], winners == position + 1
        inside = torch.where(mask, probability, 0).sum()
        union = mask.sum() + probability.sum() - inside
        near = mask | (probability >= NEAR_PROBABILITY)
        bits = _surprise(probability) + _surprise(1 - probability)
        numbers = [inside / union.clamp(min=1e-9), torch.where(near, bits, 0).sum() / near.sum().clamp(min=1)]
        if forward is not None and backward is not None and share is not None and 0 < share < 1:
            first, second = forward[position + 1], backward[position]
            numbers.append(torch.minimum(first, second).sum() / torch.maximum(first, second).sum().clamp(min=1e-9))
        else:
            numbers.append(torch.full_like(inside, math.nan))
        rows.append(torch.stack([number.double() for number in numbers]))
    return torch.stack(rows)


def _surprise(probability: Tensor) -> Tensor:
    """Return -p log2 p, 0 for 0: in a fourth of the time that `torch.special.entr` takes on a CPU."""
    return -probability * torch.log2(probability.clamp(min=torch.finfo(probability.dtype).tiny))


def name_qualities(numbers: NDArray[np.float64]) -> dict[str, float]:
    """Return one object's row of `mask_qualities` by name, in [0, 1], without what is not known."""
    names = ("expected_iou", "entropy", "agreement")
    known = [(name, number) for name, number in zip(names, numbers.tolist(), strict=True) if not math.isnan(number)]
    return {name: min(1.0, max(0.0, number)) for name, number in known}
