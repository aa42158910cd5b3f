"""A compact STCN: the network of the packaged weights of engine `stcn`.

Keys and values are read from a memory as in STCN (Cheng, Tai, Tang 2021). Differs, because it has 1 M parameters and
saw generated clips only: keys lie at stride 8, of frames half as large; each value also holds the mask itself, so
that a match carries the mask over before anything is learnt; and the decoder sees the hints of `stcn_hints.py`,
what motion and colours say, and draws at stride 2.

Layouts: B images, N objects of all images (`owner_N`: whose image), C channels, H W pixels, h w pixels at stride 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayvos.errors import WeightsError
from rayvos.models.stcn_hints import NUM_HINTS

__all__ = ["CompactFeatures", "CompactStcn", "build_stcn_compact"]

WIDTHS = (16, 32, 64, 128)  # at strides 2, 4, 8, 16
KEY_CHANNELS = 32
LEARNT_VALUES, MASK_VALUES = 48, 5  # the mask's: four quarters of each cell, and the other objects
DECODER_WIDTHS = (24, 40, 64)  # at strides 2, 4, 8
TRUST = 6.0  # in the mask before, at first: a sure pixel gets the logit 3
GROUP = 8  # channels normalised together: statistics of generated clips must not be baked in


class CompactFeatures(NamedTuple):
    """What the key encoder gives of images; everything else is computed from it."""

    key_BChw: Tensor
    f16_BCHW: Tensor
    f8_BChw: Tensor
    f4_BCHW: Tensor
    f2_BCHW: Tensor


class _Block(nn.Module):
    """A residual block, with group norms (in the key encoder) or without."""

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1, *, normed: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=not normed)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=not normed)
        self.norm1 = nn.GroupNorm(channels // GROUP, channels) if normed else nn.Identity()
        self.norm2 = nn.GroupNorm(channels // GROUP, channels) if normed else nn.Identity()
        self.shortcut = None if in_channels == channels and stride == 1 else nn.Conv2d(in_channels, channels, 1, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x_BCHW)))
        shortcut = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        merged: Tensor = F.relu(self.norm2(self.conv2(out)) + shortcut)
        return merged


class _KeyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        w2, w4, w8, w16 = WIDTHS
        self.stem = nn.Conv2d(3, w2, 3, 2, 1)
        self.stage4 = _Block(w2, w4, 2, normed=True)
        self.stage8 = nn.Sequential(_Block(w4, w8, 2, normed=True), _Block(w8, w8, normed=True))
        self.stage16 = nn.Sequential(_Block(w8, w16, 2, normed=True), _Block(w16, w16, 1, 2, normed=True))
        self.key = nn.Conv2d(w8 + w16 + 3, KEY_CHANNELS, 3, padding=1)

    def forward(self, image_BCHW: Tensor) -> CompactFeatures:
        f2 = F.relu(self.stem(image_BCHW))
        f4 = self.stage4(f2)
        f8 = self.stage8(f4)
        f16 = self.stage16(f8)
        # Mean colours beside the features: places match by colour from the first step of training on.
        key = self.key(torch.cat([f8, _doubled(f16), F.avg_pool2d(image_BCHW, 8)], 1))
        return CompactFeatures(key, f16, f8, f4, f2)


def _doubled(x_BCHW: Tensor) -> Tensor:
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)


class _ValueEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.masks = nn.Sequential(
            nn.Conv2d(2, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)
        )
        self.fuse = _Block(32 + WIDTHS[2], LEARNT_VALUES)

    def forward(self, f8_NChw: Tensor, own_N1HW: Tensor, others_N1HW: Tensor) -> Tensor:
        learnt = self.fuse(torch.cat([self.masks(torch.cat([own_N1HW, others_N1HW], 1)), f8_NChw], 1))
        quarters = F.pixel_unshuffle(F.avg_pool2d(own_N1HW, 4), 2)
        return torch.cat([learnt, quarters, F.avg_pool2d(others_N1HW, 8)], 1)


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d2, d4, d8 = DECODER_WIDTHS
        self.skip16 = nn.Conv2d(WIDTHS[3], d8, 1)
        self.skip8 = nn.Conv2d(WIDTHS[2], d8, 1)
        self.skip4 = nn.Conv2d(WIDTHS[1], d4, 1)
        self.skip2 = nn.Conv2d(WIDTHS[0], d2, 1)
        self.read = nn.Conv2d(LEARNT_VALUES + MASK_VALUES + NUM_HINTS, d8, 3, padding=1)
        self.block8 = _Block(d8, d8)
        self.down = _Block(d8, d8, 2, 1)
        self.wide = _Block(d8, d8, 1, 2)
        self.narrow4 = nn.Conv2d(d8, d4, 1)
        self.hints4 = nn.Conv2d(NUM_HINTS, d4, 3, padding=1)
        self.block4 = _Block(d4, d4)
        self.narrow2 = nn.Conv2d(d4, d2, 1)
        self.hints2 = nn.Conv2d(NUM_HINTS, d2, 3, padding=1)
        self.block2 = _Block(d2, d2)
        self.pred = nn.Conv2d(d2 + NUM_HINTS, 1, 3, padding=1)
        self.trust = nn.Parameter(torch.tensor(TRUST))

    def forward(self, readout_NChw: Tensor, features: CompactFeatures, hints_NPHW: Tensor, owner_N: Tensor) -> Tensor:
        hints8 = F.avg_pool2d(hints_NPHW, 4)
        shared8 = self.skip8(features.f8_BChw) + _doubled(self.skip16(features.f16_BCHW))
        x = F.relu(self.read(torch.cat([readout_NChw, hints8], 1)) + shared8[owner_N])
        x = self.block8(x)
        x = x + _doubled(self.wide(self.down(x)))
        x = _doubled(self.narrow4(x)) + self.skip4(features.f4_BCHW)[owner_N] + self.hints4(F.avg_pool2d(hints_NPHW, 2))
        x = self.block4(F.relu(x))
        x = _doubled(self.narrow2(x)) + self.skip2(features.f2_BCHW)[owner_N] + self.hints2(hints_NPHW)
        x = self.block2(F.relu(x))
        # What is learnt is how to correct the mask that the flow carried on.
        logits: Tensor = self.pred(torch.cat([x, hints_NPHW], 1)) + self.trust * (hints_NPHW[:, :1] - 0.5)
        return _doubled(logits)[:, 0]


class CompactStcn(nn.Module):
    """The whole network. Images are RGB, normalised by the ImageNet mean and deviation, sides multiples of 16."""

    short_side = 240
    """Pixels of the frame's shorter side that the network is made for."""
    remembers_last = True
    """Whether the frame before is in its memory: it was in training."""

    def __init__(self) -> None:
        """Make a network with random weights."""
        super().__init__()
        self.key_encoder = _KeyEncoder()
        self.value_encoder = _ValueEncoder()
        self.decoder = _Decoder()

    def encode_key(self, image_BCHW: Tensor) -> CompactFeatures:
        """Return the features of images (B, 3, H, W): the key (B, 32, H/8, W/8) and the rest."""
        features: CompactFeatures = self.key_encoder(image_BCHW)
        return features

    def encode_values(self, features: CompactFeatures, own_NHW: Tensor, others_NHW: Tensor, owner_N: Tensor) -> Tensor:
        """Return the values (N, 53, H/8, W/8) of objects.

        Args:
            features: of their images.
            own_NHW: aggregated probabilities of the objects.
            others_NHW: of the other objects of the same image together.
            owner_N: the image of each object.
        """
        values: Tensor = self.value_encoder(features.f8_BChw[owner_N], own_NHW[:, None], others_NHW[:, None])
        return values

    def decode(self, readout_NChw: Tensor, features: CompactFeatures, hints_NPHW: Tensor, owner_N: Tensor) -> Tensor:
        """Return the logits (N, H, W) of objects from what they read in memory and their hints."""
        logits: Tensor = self.decoder(readout_NChw, features, hints_NPHW, owner_N)
        return logits


def build_stcn_compact(model: Mapping[str, Any]) -> CompactStcn:
    """Return a network with random weights; `model` is empty.

    Raises:
        WeightsError: it is not: the weights are those of a newer version.
    """
    if model:
        raise WeightsError(f"stcn_compact: unknown model keys {', '.join(sorted(model))}; upgrade rayvos")
    return CompactStcn()
