"""What the previous frame and the given masks say about an object's place in a frame, as planes beside the image.

A network that learnt on generated clips alone knows little of the look of real things, but motion and colours need
no knowledge: the mask before is carried on by optical flow, pixels move like the object or like what surrounds it,
and have colours of the object or of the rest. Five planes at stride 2 say so; the network learns when to believe
which.

Layouts: B images, N objects of all images (`owner_N`: whose image), H W pixels, P planes, 2 (x, y) of a flow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NUM_HINTS", "Previous", "color_histogram", "hint_planes", "warp"]

NUM_HINTS = 5
COLOR_BINS = (16, 12, 12)  # lightness, red-green, yellow-blue
LIGHTNESS = (-2.1, 2.7)  # of an ImageNet-normalised image
CHROMA = 1.5  # largest signed root of a colour difference that has a bin of its own
LIKELIHOOD_LIMIT = 2.0
MOTION_CELL, MOTION_WINDOW = 8, 11  # pixels; cells: motions are compared with those in a window around
STILL = 0.25  # squared pixels: motions that differ less tell nothing


class Previous(NamedTuple):
    """The frame before, as an image's objects see it."""

    image_B3HW: Tensor
    flow_B2HW: Tensor
    """Where each pixel of this frame was on the frame before, relative to itself, in pixels."""
    own_NHW: Tensor
    """Probabilities of the objects on the frame before."""
    others_NHW: Tensor
    """Probability of the other objects together."""


def warp(picture_NCHW: Tensor, flow_N2HW: Tensor) -> Tensor:
    """Return pictures read at each pixel plus its flow, bilinearly; beyond the edge the border repeats."""
    height, width = picture_NCHW.shape[-2:]
    x = torch.arange(width, device=flow_N2HW.device, dtype=flow_N2HW.dtype)
    y = torch.arange(height, device=flow_N2HW.device, dtype=flow_N2HW.dtype)[:, None]
    grid_NHW2 = torch.stack(
        [(2 * (x + flow_N2HW[:, 0]) + 1) / width - 1, (2 * (y + flow_N2HW[:, 1]) + 1) / height - 1], -1
    )
    warped: Tensor = F.grid_sample(picture_NCHW, grid_NHW2, padding_mode="border", align_corners=False)
    return warped


def _color_bins(image_B3HW: Tensor) -> Tensor:
    """Return the bin (B, H·W) of each pixel of ImageNet-normalised images."""
    red, green, blue = image_B3HW.unbind(1)
    lightness = (red + green + blue) / 3
    # The root gives the many pale colours of real pictures as many bins as the few strong ones.
    chroma = [d.sign() * d.abs().sqrt() / CHROMA for d in (red - green, (red + green) / 2 - blue)]
    places = [(lightness - LIGHTNESS[0]) / (LIGHTNESS[1] - LIGHTNESS[0]), *((c + 1) / 2 for c in chroma)]
    found = torch.zeros_like(lightness, dtype=torch.long)
    for place, count in zip(places, COLOR_BINS, strict=True):
        found = found * count + (place * count).long().clamp(0, count - 1)
    return found.flatten(1)


def color_histogram(image_B3HW: Tensor, own_NHW: Tensor, owner_N: Tensor) -> Tensor:
    """Return the colours inside and outside each object: (N, 2, bins), each summing to 1, or 0 without pixels.

    Args:
        image_B3HW: ImageNet-normalised images, at any size.
        own_NHW: probabilities at the same size.
        owner_N: the image of each object.
    """
    own_NP = own_NHW.flatten(1).float()
    bins_NP = _color_bins(image_B3HW)[owner_N]
    size = COLOR_BINS[0] * COLOR_BINS[1] * COLOR_BINS[2]
    histogram = own_NP.new_zeros(len(own_NP), 2, size)
    histogram[:, 0].scatter_add_(1, bins_NP, own_NP)
    histogram[:, 1].scatter_add_(1, bins_NP, 1 - own_NP)
    return histogram / histogram.sum(2, keepdim=True).clamp(min=1)


def _color_plane(histogram_N2S: Tensor, image_B3HW: Tensor, owner_N: Tensor) -> Tensor:
    """Return the halved log-likelihood ratio (N, H, W) of each pixel's colour, within -2 and 2."""
    smooth = histogram_N2S.reshape(-1, 1, *COLOR_BINS)
    for _ in range(2):
        smooth = F.avg_pool3d(smooth, 3, 1, 1)
    inside, outside = (smooth.reshape(histogram_N2S.shape) + 2e-5).unbind(1)
    ratio = (0.5 * torch.log(inside / outside)).clamp(-LIKELIHOOD_LIMIT, LIKELIHOOD_LIMIT)
    found = ratio.gather(1, _color_bins(image_B3HW)[owner_N])
    return found.reshape(-1, *image_B3HW.shape[-2:])


def _motion_plane(flow_N2HW: Tensor, own_N1HW: Tensor) -> Tensor:
    """Return (N, 1, H, W) in [-1, 1]: 1 where pixels move like the object nearby, -1 like what surrounds it."""
    cell_flow, cell_own = F.avg_pool2d(flow_N2HW, MOTION_CELL), F.avg_pool2d(own_N1HW, MOTION_CELL)
    distances = []
    for weight in (1 - cell_own, cell_own):
        total = F.avg_pool2d(torch.cat([weight * cell_flow, weight], 1), MOTION_WINDOW, 1, MOTION_WINDOW // 2)
        mean = total[:, :2] / (total[:, 2:] + 1e-4)
        mean = F.interpolate(mean, size=flow_N2HW.shape[-2:], mode="bilinear", align_corners=False)
        distances.append((flow_N2HW - mean).square().sum(1, keepdim=True))
    around, object_ = distances
    return (around - object_) / (around + object_ + STILL)


def hint_planes(image_B3HW: Tensor, previous: Previous, histogram_N2S: Tensor, owner_N: Tensor) -> Tensor:
    """Return the planes (N, 5, H/2, W/2) of each object.

    They are: the mask before carried on by the flow, that of the other objects, the likeness of motion, that of
    colour, and how badly the flow explains the image. No gradient flows through the last three.

    Args:
        image_B3HW: ImageNet-normalised, its sides multiples of 16.
        previous: the frame before.
        histogram_N2S: colours of each object, as `color_histogram` gives them.
        owner_N: the image of each object.
    """
    flow_N2HW = previous.flow_B2HW[owner_N]
    carried_N2HW = warp(torch.stack([previous.own_NHW, previous.others_NHW], 1), flow_N2HW)
    own_N1HW = carried_N2HW[:, :1].detach()
    half_B3HW = F.avg_pool2d(image_B3HW, 2)
    change_B1HW = (image_B3HW - warp(previous.image_B3HW, previous.flow_B2HW)).abs().mean(1, keepdim=True)
    with torch.no_grad():
        motion = F.avg_pool2d(_motion_plane(flow_N2HW, own_N1HW), 2)
        color = _color_plane(histogram_N2S, half_B3HW, owner_N)[:, None]
        change = F.avg_pool2d(change_B1HW, 2).clamp(max=2.0)[owner_N]
    return torch.cat([F.avg_pool2d(carried_N2HW, 2), motion, color, change], 1)
