"""STCN: space-time correspondence networks, with the official state-dict names.

Source: STCN (Cheng, Tai, Tang 2021); facts of the official implementation: BN statistics are frozen always, the
bottleneck's stride sits on its 3x3 convolution, value-encoder convolutions carry biases, the decoder works at
strides 16, 8 and 4.

Departs from the official code in the order of sums only: what objects of a frame share (the skip convolutions, the
key-feature halves of `fuser.block1` and `decoder.compress`) is computed once and added, not once per object.

Layouts: B images, K objects, C channels, H W pixels, h w pixels at stride 16, N = memory positions, T memory frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayvos.errors import WeightsError
from rayvos.models.winograd import WinogradConv2d

__all__ = ["DEVIATION", "MEAN", "STCN", "FrameFeatures", "aggregate", "build_stcn", "normalise_images"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
KEY_CHANNELS = 64
WIDTH = 64  # channels of the first convolution; all others are multiples of it
PROBABILITY_EPSILON = 1e-7  # official soft aggregation
OBJECTS_AT_ONCE = 8  # in one pass: bounds the activations, about 0.2 GB an object on a GPU at 480x864


def normalise_images(images_HWC: Tensor) -> Tensor:
    """Return RGB uint8 images (…, H, W, 3) as the networks take them: (…, 3, H, W) float32, on the same device."""
    mean, deviation = _statistics(images_HWC.device)
    return ((images_HWC.float() / 255 - mean) / deviation).movedim(-1, -3).contiguous()


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation; kept, since a GPU would be waited for each time that they are copied to it."""
    with torch.inference_mode(False):  # whoever asks first may be labelling, and the next one training
        return torch.tensor(MEAN, device=device), torch.tensor(DEVIATION, device=device)


class FrameFeatures(NamedTuple):
    """What the key encoder gives of images; everything else is computed from it."""

    key_BChw: Tensor
    thin_BChw: Tensor
    """Compressed features, 512 channels, for the decoder."""
    f16_BChw: Tensor
    """1024 channels, for the value encoder: needed on memory frames only."""
    f8_BCHW: Tensor
    f4_BCHW: Tensor


class _Bottleneck(nn.Module):
    """ResNet bottleneck without biases, stride on the 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = None
        if stride != 1 or in_channels != 4 * channels:
            convolution = nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)))
        out = F.relu(self.bn2(self.conv2(out)))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        merged: Tensor = F.relu(self.bn3(self.conv3(out)) + shortcut)
        return merged


class _BasicBlock(nn.Module):
    """ResNet basic block; its convolutions have biases here."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        merged: Tensor = F.relu(self.bn2(self.conv2(out)) + shortcut)
        return merged


class _ResBlock(nn.Module):
    """Pre-activation residual block; the shortcut convolution sees the raw input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(in_channels, out_channels, 3, padding=1) if in_channels != out_channels else None
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        inner = _convolve(self.conv1, x_BCHW, rectified=True)
        return _convolve(self.conv2, inner, rectified=True, onto_BCHW=shortcut)

    def share(self, shared_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the last input channels, common to all objects, give to `conv1` and to the shortcut.

        ReLU acts elementwise before `conv1`, so a convolution of concatenated channels is a sum of two.
        """
        if self.downsample is None:
            raise ValueError("a split block changes the number of channels")
        channels = slice(-shared_BCHW.shape[1], None)
        first = _convolve(self.conv1, shared_BCHW, channels, rectified=True)
        return first, _convolve(self.downsample, shared_BCHW, channels)

    def forward_split(self, own_KCHW: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        """Return `forward` of the channel-wise concatenation of own and shared channels, the latter by `share`."""
        assert self.downsample is not None, "`share` refused"
        channels = slice(None, own_KCHW.shape[1])
        first = _convolve(self.conv1, own_KCHW, channels, rectified=True, biased=False).add_(shared[0])
        shortcut = _convolve(self.downsample, own_KCHW, channels, biased=False).add_(shared[1])
        return _convolve(self.conv2, first, rectified=True, onto_BCHW=shortcut)


def _convolve(
    conv: nn.Conv2d,
    x_BCHW: Tensor,
    channels: slice = slice(None),
    *,
    rectified: bool = False,
    biased: bool = True,
    onto_BCHW: Tensor | None = None,
) -> Tensor:
    """Return the part of a 3x3 convolution that some input channels make, with or without a ReLU before it.

    It is added to `onto_BCHW`, if that is given; nobody may need these maps afterwards.
    """
    if isinstance(conv, WinogradConv2d):
        return conv.convolve(x_BCHW, channels, rectified=rectified, biased=biased, onto_BCHW=onto_BCHW)
    x_BCHW = F.relu(x_BCHW) if rectified else x_BCHW
    found = F.conv2d(x_BCHW, conv.weight[:, channels], conv.bias if biased else None, padding=1)
    return found if onto_BCHW is None else found.add_(onto_BCHW)


class _KeyEncoder(nn.Module):
    """ResNet-50 up to stage 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.res2 = _stage(width, width, 3, 1)
        self.layer2 = _stage(4 * width, 2 * width, 4, 2)
        self.layer3 = _stage(8 * width, 4 * width, 6, 2)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image_BCHW))), 3, 2, 1)
        f4 = self.res2(x)
        f8 = self.layer2(f4)
        return self.layer3(f8), f8, f4


def _stage(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    blocks = [_Bottleneck(in_channels, channels, stride)]
    return nn.Sequential(*blocks, *(_Bottleneck(4 * channels, channels, 1) for _ in range(depth - 1)))


class _ChannelGate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        attention = self.mlp(x_BCHW.mean((2, 3))) + self.mlp(x_BCHW.amax((2, 3)))
        return x_BCHW * torch.sigmoid(attention)[:, :, None, None]


class _SpatialConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)


class _SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spatial = _SpatialConv()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pooled = torch.cat([x_BCHW.amax(1, keepdim=True), x_BCHW.mean(1, keepdim=True)], 1)
        return x_BCHW * torch.sigmoid(self.spatial.conv(pooled))


class _CBAM(nn.Module):
    """Channel gate, then spatial gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate = _ChannelGate(channels)
        self.SpatialGate = _SpatialGate()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = self.SpatialGate(self.ChannelGate(x_BCHW))
        return out


class _FeatureFuser(nn.Module):
    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        channels = 8 * width
        self.block1 = _ResBlock(4 * width + 16 * width, channels)
        self.attention = _CBAM(channels) if attention else None
        self.block2 = _ResBlock(channels, channels)

    def forward(self, value_KChw: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        x = self.block1.forward_split(value_KChw, shared)
        if self.attention is not None:
            x = x + self.attention(x)
        out: Tensor = self.block2(x)
        return out


class _ValueEncoder(nn.Module):
    """ResNet-18 up to stage 3 on image, own mask and the other objects' mask, fused with the key features."""

    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        w4, w8, w16 = width, 2 * width, 4 * width
        self.conv1 = nn.Conv2d(5, w4, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(w4)
        self.layer1 = nn.Sequential(_BasicBlock(w4, w4, 1), _BasicBlock(w4, w4, 1))
        self.layer2 = nn.Sequential(_BasicBlock(w4, w8, 2), _BasicBlock(w8, w8, 1))
        self.layer3 = nn.Sequential(_BasicBlock(w8, w16, 2), _BasicBlock(w16, w16, 1))
        self.fuser = _FeatureFuser(width, attention)

    def share(self, image_BCHW: Tensor, f16_BChw: Tensor) -> tuple[Tensor, ...]:
        """Return what all objects of an image have in common: the image's part of `conv1`, and of the fuser."""
        image = F.conv2d(image_BCHW, self.conv1.weight[:, :3], stride=2, padding=3)
        return image, *self.fuser.block1.share(f16_BChw)

    def forward(self, mask_K1HW: Tensor, others_K1HW: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        out: Tensor = self.fuser(self.embed(mask_K1HW, others_K1HW, shared), shared[1:])
        return out

    def embed(self, mask_K1HW: Tensor, others_K1HW: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        """Return what the fuser takes of each object, (K, 256, h, w)."""
        own = F.conv2d(torch.cat([mask_K1HW, others_K1HW], 1), self.conv1.weight[:, 3:], self.conv1.bias, 2, 3)
        x = F.max_pool2d(F.relu(self.bn1(own + shared[0])), 3, 2, 1)
        out: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return out


class _KeyProjection(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.key_proj = nn.Conv2d(16 * width, KEY_CHANNELS, 3, padding=1)

    def forward(self, f16_BChw: Tensor) -> Tensor:
        out: Tensor = self.key_proj(f16_BChw)
        return out


class _UpsampleBlock(nn.Module):
    def __init__(self, skip_channels: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.skip_conv = nn.Conv2d(skip_channels, in_channels, 3, padding=1)
        self.out_conv = _ResBlock(in_channels, out_channels)

    def forward(self, skip_BCHW: Tensor, x_KChw: Tensor) -> Tensor:
        """Return maps twice as large; `skip_BCHW` is what `skip_conv` gave, once for all objects."""
        up = F.interpolate(x_KChw, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.out_conv(up.add_(skip_BCHW))
        return out


class _Decoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.compress = _ResBlock(16 * width, 8 * width)
        self.up_16_8 = _UpsampleBlock(8 * width, 8 * width, 4 * width)
        self.up_8_4 = _UpsampleBlock(4 * width, 4 * width, 4 * width)
        self.pred = nn.Conv2d(4 * width, 1, 3, padding=1)

    def share(self, features: FrameFeatures) -> tuple[Tensor, ...]:
        """Return what all objects of an image have in common: both skips, and a part of `compress`."""
        skips = self.up_16_8.skip_conv(features.f8_BCHW), self.up_8_4.skip_conv(features.f4_BCHW)
        return *skips, *self.compress.share(features.thin_BChw)

    def forward(self, readout_KChw: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        """Return the logits (K, 1, H, W); `shared` holds one image for all objects, or one for each."""
        return self.expand(self.compress.forward_split(readout_KChw, shared[2:]), shared)

    def expand(self, compressed_KChw: Tensor, shared: tuple[Tensor, ...]) -> Tensor:
        """Return `forward` from what `compress` gave."""
        x = self.up_8_4(shared[1], self.up_16_8(shared[0], compressed_KChw))
        logits = self.pred(x.relu_())
        return F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)


class STCN(nn.Module):
    """The whole network, always in evaluation mode (its BN statistics are frozen, in training too).

    Images are RGB, normalised by the ImageNet mean and deviation, their sides multiples of 16.
    """

    short_side = 480
    """Pixels of the frame's shorter side that the network is made for."""
    remembers_last = False
    """Whether the frame before is in its memory."""

    def __init__(self, *, attention: bool = True, width: int = WIDTH) -> None:
        """Make a network with random weights.

        Args:
            attention: gate the fused values (CBAM); off: the official branch that has none.
            width: channels of the first convolution, a multiple of 8; the official network has 64. Channels are
                stated for 64 everywhere else.
        """
        super().__init__()
        if width < 8 or width % 8:
            raise WeightsError(f"stcn: width {width!r}: expected a multiple of 8")
        self.model = {"attention": attention, **({} if width == WIDTH else {"width": width})}
        self.key_encoder = _KeyEncoder(width)
        self.value_encoder = _ValueEncoder(width, attention)
        self.key_proj = _KeyProjection(width)
        self.key_comp = nn.Conv2d(16 * width, 8 * width, 3, padding=1)
        self.decoder = _Decoder(width)
        self.eval()

    def configuration(self) -> dict[str, Any]:
        """Return what `build_stcn` needs to build this network again."""
        return dict(self.model)

    def train(self, mode: bool = True) -> STCN:
        """Stay in evaluation mode; gradients flow all the same."""
        return super().train(False)

    def encode_key(self, image_BCHW: Tensor) -> FrameFeatures:
        """Return the features of images: (B, 3, H, W) float to key (B, 64, H/16, W/16) and the rest."""
        f16, f8, f4 = self.key_encoder(image_BCHW)
        return FrameFeatures(self.key_proj(f16), self.key_comp(f16), f16, f8, f4)

    def encode_value(self, image_1CHW: Tensor, f16_1Chw: Tensor, masks_KHW: Tensor) -> Tensor:
        """Return the values (K, 512, H/16, W/16) of all objects of one frame.

        Args:
            image_1CHW: (1, 3, H, W), normalised.
            f16_1Chw: the frame's `FrameFeatures.f16_BChw`.
            masks_KHW: aggregated probabilities of the objects, background left out, in [0, 1].
        """
        mask_K1HW = masks_KHW[:, None]
        others_K1HW = mask_K1HW.sum(0, keepdim=True) - mask_K1HW if len(mask_K1HW) > 1 else torch.zeros_like(mask_K1HW)
        shared = self.value_encoder.share(image_1CHW, f16_1Chw)
        parts = zip(_parts(mask_K1HW), _parts(others_K1HW), strict=True)
        embedded = torch.cat([self.value_encoder.embed(masks, others, shared) for masks, others in parts])
        return torch.cat(
            [self.value_encoder.fuser(part, shared[1:]) for part in torch.split(embedded, OBJECTS_AT_ONCE)]
        )

    def decode(self, readout_KChw: Tensor, features: FrameFeatures) -> Tensor:
        """Return the logits (K, H, W) of all objects of one frame from what they read in memory (K, 512, h, w)."""
        shared = self.decoder.share(features)
        compress = self.decoder.compress.forward_split
        compressed = torch.cat([compress(part, shared[2:]) for part in torch.split(readout_KChw, OBJECTS_AT_ONCE)])
        return torch.cat([self.decoder.expand(part, shared) for part in _parts(compressed)])[:, 0]


def _parts(objects_KCHW: Tensor) -> tuple[Tensor, ...]:
    # On a CPU one after the other: their large maps stay in the cache, and nothing is won by more.
    at_once = 1 if objects_KCHW.device.type == "cpu" else OBJECTS_AT_ONCE
    parts: tuple[Tensor, ...] = torch.split(objects_KCHW, at_once)
    return parts


def build_stcn(model: Mapping[str, Any]) -> STCN:
    """Return a network with random weights.

    Args:
        model: `{"attention": true}`, or false for the official branch without it; `width`, where it is not 64.

    Raises:
        WeightsError: another key is there, from a newer version.
    """
    unknown = sorted(set(model) - {"attention", "width"})
    if unknown:
        raise WeightsError(f"stcn: unknown model keys {', '.join(unknown)}; upgrade rayvos")
    return STCN(attention=bool(model.get("attention", True)), width=int(model.get("width", WIDTH)))


def aggregate(probability_KHW: Tensor) -> Tensor:
    """Return the soft aggregation of the objects' probabilities: (K, H, W) to (K + 1, H, W), background first.

    Source: STM/STCN; float32 always, since 1 - 1e-7 is 1 in half precision.
    """
    probability_KHW = probability_KHW.float()
    background = torch.prod(1 - probability_KHW, 0, keepdim=True)
    stacked = torch.cat([background, probability_KHW]).clamp(PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    return torch.softmax(torch.logit(stacked), 0)
