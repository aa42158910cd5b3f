"""The parts of the STA network: backbone, encoders of boxes and masks, the target model's features, the decoder.

`rayvos.models.sta` puts them together, and says where they are from and what they depart in. Attribute names are those
of the official state dict.

Layouts: B images, C channels, D feature channels, H W pixels of the crop, h w at stride 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.models.layers import resize_bilinear

__all__ = [
    "CODE_CHANNELS", "LEVELS", "Backbone", "BoxEncoder", "Decoder", "SegmEncoder", "StaWidths", "TargetModel",
    "enlarge_bicubic",
]  # fmt: skip

CODE_CHANNELS = 16
NORM_EPSILON = 1e-5
INITIAL_STRENGTH = 0.01  # lambda before training
LEVELS = ("layer4", "layer3", "layer2", "layer1")  # deepest first


@dataclass(frozen=True, slots=True)
class StaWidths:
    """Channels of a network's parts."""

    blocks: tuple[int, int, int, int]
    """Bottlenecks of `layer1` … `layer4`, at strides 4 to 32; each gives four times as many channels."""
    depths: tuple[int, int, int, int]
    """Number of bottlenecks of each."""
    features: int
    """Features that the filter reads."""
    decoder: tuple[int, int, int, int]
    """The decoder's levels, deepest first."""

    def of_backbone(self) -> dict[str, int]:
        """Return the channels of the backbone's layers, deepest first."""
        return {name: 4 * width for name, width in zip(LEVELS, reversed(self.blocks), strict=True)}

    def of_decoder(self) -> dict[str, int]:
        """Return the channels of the decoder's levels, deepest first."""
        return dict(zip(LEVELS, self.decoder, strict=True))


class _Bottleneck(nn.Module):
    """ResNet bottleneck without biases, stride on the first 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.downsample = None
        if project:
            convolution = nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)))
        out = F.relu(self.bn2(self.conv2(out)))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        merged: Tensor = F.relu(self.bn3(self.conv3(out)) + shortcut)
        return merged


def _stage(in_channels: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(in_channels, channels, stride, project=True)
    return nn.Sequential(first, *(_Bottleneck(4 * channels, channels, 1, project=False) for _ in range(depth - 1)))


class Backbone(nn.Module):
    """ResNet-50 of Caffe, or a narrower one."""

    def __init__(self, widths: StaWidths) -> None:
        super().__init__()
        (w1, w2, w3, w4), (d1, d2, d3, d4) = widths.blocks, widths.depths
        self.conv1 = nn.Conv2d(3, w1, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(w1)
        self.layer1 = _stage(w1, w1, d1, 1)
        self.layer2 = _stage(4 * w1, w2, d2, 2)
        self.layer3 = _stage(4 * w2, w3, d3, 2)
        self.layer4 = _stage(4 * w3, w4, d4, 2)

    def forward(self, image_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the features of every layer by its name."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image_BCHW))), 3, 2, 1)
        layers = {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = getattr(self, name)(x)
            layers[name] = x
        return layers


class _ResidualModule(nn.Module):
    """Holds lambda under its official name."""

    def __init__(self) -> None:
        super().__init__()
        self.filter_reg = nn.Parameter(torch.full((1,), INITIAL_STRENGTH))


class _FilterOptimizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.residual_module = _ResidualModule()


class TargetModel(nn.Module):
    """One pass of aggregation; only the first one has the features."""

    def __init__(self, widths: StaWidths | None = None) -> None:
        super().__init__()
        if widths is not None:
            layer3 = widths.of_backbone()["layer3"]
            self.feature_extractor = nn.Sequential(nn.Conv2d(layer3, widths.features, 3, padding=1, bias=False))
        self.filter_optimizer = _FilterOptimizer()

    @property
    def strength(self) -> Tensor:
        """Lambda, (1,)."""
        return self.filter_optimizer.residual_module.filter_reg

    def features(self, layer3_BChw: Tensor) -> Tensor:
        """Return the features to filter, their energy per image fixed; float32."""
        x = self.feature_extractor(layer3_BChw).float()
        energy = x.square().sum(dim=(1, 2, 3), keepdim=True)
        wanted = 1 / (x.shape[1] * 9)  # official c squared: a 3x3 patch of features has energy 1 on average
        normalised: Tensor = x * (wanted * x[0].numel() / (energy + NORM_EPSILON)).sqrt()
        return normalised


class _EncoderBlock(nn.Module):
    """Residual block without batch norm, its shortcut a 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.downsample = nn.Conv2d(in_channels, channels, 3, stride, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        merged: Tensor = F.relu(self.conv2(F.relu(self.conv1(x_BCHW))) + self.downsample(x_BCHW))
        return merged


class _MaskEncoder(nn.Module):
    """A mask (B, 1, H, W), given or drawn, to 64 channels at stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        self.res1 = _EncoderBlock(16, 32, 2)
        self.res2 = _EncoderBlock(32, 64, 2)

    def encode(self, mask_B1HW: Tensor) -> Tensor:
        code: Tensor = self.res2(self.res1(self.conv_block(mask_B1HW)))
        return code


class BoxEncoder(_MaskEncoder):
    """A box and the features to a code and (in `bbox_encoder`; unused in `label_encoder`) its weights."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.res3 = _EncoderBlock(64 + num_features, 128, 1)
        self.label_pred = nn.Sequential(
            nn.Conv2d(128, CODE_CHANNELS, 3, padding=1), nn.BatchNorm2d(CODE_CHANNELS), nn.ReLU(inplace=True)
        )
        self.samp_w_pred = nn.Conv2d(128, CODE_CHANNELS, 3, padding=1)

    def forward(self, mask_B1HW: Tensor, x_BDhw: Tensor) -> Tensor:
        """Return what both heads read."""
        mixed: Tensor = self.res3(torch.cat([self.encode(mask_B1HW), x_BDhw], 1))
        return mixed


class SegmEncoder(_MaskEncoder):
    """The first pass' probabilities to the second pass' code and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.label_pred = nn.Sequential(nn.Conv2d(64, CODE_CHANNELS, 3, padding=1), nn.ReLU(inplace=True))
        self.samp_w_pred = nn.Conv2d(64, CODE_CHANNELS, 3, padding=1)

    def forward(self, probability_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return code and weights, each (B, CODE_CHANNELS, h, w)."""
        code = self.encode(probability_B1HW)
        return self.label_pred(code), self.samp_w_pred(code)


class _TSE(nn.Module):
    """One level's image features and the code, mixed."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        mixed = width + 2 * CODE_CHANNELS
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1))
        self.transform = nn.Sequential(
            nn.Conv2d(mixed, mixed, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(mixed, mixed, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(mixed, width, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def of_frame(self, reduced_BCHW: Tensor, m_BChw: Tensor) -> Tensor:
        """Return the share of the frame and its box in the first convolution, bias included."""
        own = torch.cat([reduced_BCHW, resize_bilinear(m_BChw, reduced_BCHW.shape[-2:], align_corners=False)], 1)
        first = self._first()
        return F.conv2d(own, first.weight[:, : own.shape[1]], first.bias, padding=1)

    def forward(self, of_frame_BCHW: Tensor, s_BChw: Tensor) -> Tensor:
        response = resize_bilinear(s_BChw, of_frame_BCHW.shape[-2:], align_corners=False)
        x = of_frame_BCHW + F.conv2d(response, self._first().weight[:, -CODE_CHANNELS:], padding=1)
        for layer in list(self.transform)[1:]:
            x = layer(x)
        return x

    def _first(self) -> nn.Conv2d:
        first = self.transform[0]
        assert isinstance(first, nn.Conv2d)
        return first


class _RRB(nn.Module):
    """Residual refinement block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.bblock = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        projected = self.conv1x1(x_BCHW)
        return F.relu(projected + self.bblock(projected))


class _CAB(nn.Module):
    """Channel attention: what a level sees, weighted by what the deeper one saw."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convreluconv = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1)
        )

    def forward(self, shallow_BCHW: Tensor, deep_BChw: Tensor) -> Tensor:
        pooled = [maps.mean(dim=(2, 3), keepdim=True) for maps in (shallow_BCHW, deep_BChw)]
        weight: Tensor = torch.sigmoid(self.convreluconv(torch.cat(pooled, 1)))
        return shallow_BCHW * weight + resize_bilinear(deep_BChw, shallow_BCHW.shape[-2:], align_corners=False)


def enlarge_bicubic(maps_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps bicubically by two matrix products, one along each side; differs by rounding from `interpolate`.

    Measured on one core (AVX-512), doubling 64 maps: an eighth of its time at 32x56, half of it at 120x208.
    """
    down, across = (_bicubic_matrix(old, new, maps_BCHW) for old, new in zip(maps_BCHW.shape[-2:], size, strict=True))
    if not maps_BCHW.is_contiguous(memory_format=torch.channels_last):
        enlarged: Tensor = down @ maps_BCHW @ across.T
        return enlarged
    # Channels stay last in memory: the convolution behind this would copy anything else.
    num_images, channels, height, width = maps_BCHW.shape
    rows = down @ maps_BCHW.permute(0, 2, 3, 1).reshape(num_images, height, width * channels)
    rows = rows.reshape(-1, width, channels)
    enlarged = torch.bmm(across.expand(len(rows), -1, -1), rows)
    return enlarged.reshape(num_images, *size, channels).permute(0, 3, 1, 2)


def _bicubic_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """Return (new, old): what each old pixel gives to each new one along a side."""
    unit = torch.eye(old, device=like.device)[None, None]
    return F.interpolate(unit, size=(new, old), mode="bicubic", align_corners=False)[0, 0].to(like.dtype)


class _Upsampler(nn.Module):
    """To the crop's size: twice bicubic, then a convolution.

    The last convolution has one output: its nine products over channels are taken first and enlarged instead of 32
    channels, then shifted and added. Measured on one core: a fifth of the time for the last enlargement.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 2, 1, 3, padding=1)

    def forward(self, x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
        doubled = [2 * side for side in x_BCHW.shape[-2:]]
        x = enlarge_bicubic(x_BCHW, doubled)
        # `fold` adds what tap k says of a pixel k - 1 further on: mirrored, that is a convolution.
        taps = self.conv2.weight[0].flatten(1).flip(1).T[:, :, None, None]
        taps_B9HW = F.conv2d(F.relu(self.conv1(x)), taps)
        with torch.autocast(x.device.type, enabled=False):
            enlarged = enlarge_bicubic(taps_B9HW.float().contiguous(), size)
        logits = F.fold(enlarged.flatten(2), tuple(size), 3, padding=1)
        assert self.conv2.bias is not None
        return logits + self.conv2.bias


class Decoder(nn.Module):
    """Draws masks from a filter's response and the backbone's features."""

    def __init__(self, of_network: StaWidths) -> None:
        super().__init__()
        widths, given = of_network.of_decoder(), of_network.of_backbone()
        self.TSE = nn.ModuleDict({name: _TSE(given[name], width) for name, width in widths.items()})
        self.RRB1 = nn.ModuleDict({name: _RRB(width) for name, width in widths.items()})
        self.CAB = nn.ModuleDict({name: _CAB(width) for name, width in widths.items()})
        self.RRB2 = nn.ModuleDict({name: _RRB(width) for name, width in widths.items()})
        names = list(widths)
        self.proj = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Conv2d(widths[deeper], widths[name], 1), nn.ReLU(inplace=True))
                for deeper, name in pairwise(names)
            }
        )
        self.project = _Upsampler(widths[names[-1]])

    def of_frame(self, layers: Mapping[str, Tensor], m_BChw: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return what depends on a frame and its box alone: see `FrameCode.levels` and `FrameCode.pooled_BC11`."""
        levels, pooled = [], None
        for name, tse in self.TSE.items():
            assert isinstance(tse, _TSE)
            reduced = tse.reduce(layers[name])
            if pooled is None:
                pooled = reduced.mean(dim=(2, 3), keepdim=True)
            levels.append(tse.of_frame(reduced, m_BChw))
        assert pooled is not None, "the decoder has four levels"
        return tuple(levels), pooled

    def forward(self, levels: Sequence[Tensor], pooled_BC11: Tensor, s_BChw: Tensor, size: Sequence[int]) -> Tensor:
        """Return logits (B, 1, H, W)."""
        deep = pooled_BC11
        for position, name in enumerate(LEVELS):
            if position:
                deep = self.proj[name](deep)
            mixed = self.RRB1[name](self.TSE[name](levels[position], s_BChw))
            deep = self.RRB2[name](self.CAB[name](mixed, deep))
        logits: Tensor = self.project(deep, size)
        return logits
