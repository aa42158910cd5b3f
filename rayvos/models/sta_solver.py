"""The few-shot filter of STA: steepest descent with exact step lengths, from zero, a fixed number of steps.

Minimises `sum_t ||w_t o (x_t * z - e_t)||^2 + lambda^2 ||z||^2` over a filter z (16, 512, 3, 3) per object. After 5
or 15 steps it is far from converged, so only this very descent gives the official results.

Source: STA; facts of the official implementation: lambda enters squared, there is no 1/T, and no factor 2.
Differs in the order of sums only, and does half of the work: residual and response follow a recurrence, so a step
costs two products with the features instead of four. A product with a 3x3 filter is one matrix product over
channels, of 9 x 16 rows, and a shifted sum of its rows; the features are never unfolded.

Layouts: S objects, T frames, C = 16 channels of the code, D channels of the features, h w positions at stride 16,
N = h w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Solution", "correlate", "solve"]

TAPS = 9
MIN_DENOMINATOR = 1e-8  # official implementation


class Solution(NamedTuple):
    """What the descent ends with, and how it got there."""

    response_STChw: Tensor
    """x * z of every frame: what the decoder reads."""
    loss_SK: Tensor
    """The objective before each step and after the last: K = steps + 1."""
    step_SK: Tensor
    """Length of each step."""
    filters_SKCDij: Tensor | None
    """z before each step and after the last, if asked for."""


def solve(
    x_STDhw: Tensor, e_STChw: Tensor, w_STChw: Tensor, strength: Tensor, *, steps: int, keep_filters: bool = False
) -> Solution:
    """Fit one filter per object to its frames. Differentiable in every argument, step lengths included.

    Args:
        x_STDhw: features. A frame of zeros with weight zero changes nothing.
        e_STChw: the code that the filter shall give.
        w_STChw: its weights; enter squared, so may be negative.
        strength: lambda, (1,).
        steps: 5 in training, 15 at inference, as the authors use it.
        keep_filters: return the filter before and after each step.

    Returns:
        the solution; float32 whatever an autocast around the call says.
    """
    with torch.autocast(x_STDhw.device.type, enabled=False):
        return _descend(
            x_STDhw.float(), e_STChw.float(), w_STChw.float(), strength.float().square(), steps, keep_filters
        )


def _descend(x_STDhw: Tensor, e: Tensor, w: Tensor, squared: Tensor, steps: int, keep_filters: bool) -> Solution:
    num_objects, num_frames, channels, height, width = x_STDhw.shape
    # All frames of an object side by side: one matrix product a step in each direction.
    x_SDN = x_STDhw.transpose(1, 2).reshape(num_objects, channels, num_frames * height * width)
    z_SRD = x_SDN.new_zeros(num_objects, TAPS * e.shape[2], channels)
    y, r = torch.zeros_like(e), -(w * e)
    losses, lengths, filters = [_objective(r, z_SRD, squared)], [], [z_SRD]
    for _ in range(steps):
        g_SRD = _transposed(x_SDN, w * r) + squared * z_SRD
        response = _product(x_SDN, g_SRD, e.shape)
        h = w * response
        gg = _energy(g_SRD)
        alpha = gg / (_energy(h) + squared * gg).clamp(min=MIN_DENOMINATOR)
        step = alpha.reshape(-1, 1, 1, 1, 1)
        z_SRD = z_SRD - alpha.reshape(-1, 1, 1) * g_SRD
        y = y - step * response
        r = r - step * h
        losses.append(_objective(r, z_SRD, squared))
        lengths.append(alpha)
        if keep_filters:
            filters.append(z_SRD)
    kept = torch.stack([_to_filter(z, e.shape[2]) for z in filters], 1) if keep_filters else None
    return Solution(y, torch.stack(losses, 1), torch.stack(lengths, 1) if lengths else y.new_zeros(len(y), 0), kept)


def correlate(x_STDhw: Tensor, z_SCDij: Tensor) -> Tensor:
    """Return x * z, the cross-correlation with zero padding 1: (S, T, C, h, w)."""
    num_objects, num_frames, channels, height, width = x_STDhw.shape
    x_SDN = x_STDhw.transpose(1, 2).reshape(num_objects, channels, num_frames * height * width)
    z_SRD = z_SCDij.flatten(3).flip(3).permute(0, 1, 3, 2).reshape(num_objects, -1, channels)
    return _product(x_SDN, z_SRD, torch.Size((num_objects, num_frames, z_SCDij.shape[1], height, width)))


def _energy(values: Tensor) -> Tensor:
    return values.square().flatten(1).sum(1)


def _objective(r: Tensor, z_SRD: Tensor, squared: Tensor) -> Tensor:
    return _energy(r) + squared * _energy(z_SRD)


def _product(x_SDN: Tensor, z_SRD: Tensor, shape: torch.Size) -> Tensor:
    """Return x * z. Rows of z are (channel, tap), taps mirrored: that is the order in which `fold` shifts and adds."""
    num_objects, num_frames, _, height, width = shape
    taps_SRTN = torch.bmm(z_SRD, x_SDN).reshape(num_objects, -1, num_frames, height * width)
    taps = taps_SRTN.transpose(1, 2).reshape(num_objects * num_frames, -1, height * width)
    return F.fold(taps, (height, width), 3, padding=1).reshape(shape)


def _transposed(x_SDN: Tensor, v_STChw: Tensor) -> Tensor:
    """Return the sum over frames of the transposed product, as a filter in rows (channel, mirrored tap)."""
    num_objects, num_frames = v_STChw.shape[:2]
    shifted = F.unfold(v_STChw.flatten(0, 1), 3, padding=1).reshape(
        num_objects, num_frames, -1, v_STChw[0, 0, 0].numel()
    )
    v_SRN = shifted.transpose(1, 2).reshape(num_objects, shifted.shape[2], -1)
    return torch.bmm(v_SRN, x_SDN.transpose(1, 2))


def _to_filter(z_SRD: Tensor, num_channels: int) -> Tensor:
    num_objects, _, channels = z_SRD.shape
    taps = z_SRD.reshape(num_objects, num_channels, TAPS, channels).flip(2)
    return taps.permute(0, 1, 3, 2).reshape(num_objects, num_channels, channels, 3, 3)
