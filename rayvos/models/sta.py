"""STA: masks from boxes by spatio-temporal aggregation, with the official state-dict names.

Two encoders turn the box of a frame into a code; a filter is fitted to all frames of a window, so that it predicts
the code from the image alone (`rayvos.models.sta_solver`); the decoder reads the filter's response. The masks that it
draws are encoded again, a second filter is fitted to them, and the same decoder draws the final masks.

Source: STA (Zhao et al., "Generating Masks from Boxes by Mining Spatio-Temporal Consistencies in Videos"); facts of
the authors' implementation where paper and code differ: the ResNet-50 is Caffe's (stride on the first 1x1
convolution, BGR minus mean), features are normalised per image, m stands before s, m stays in the second pass, and
all batch norms keep their statistics in training, too.

Departs from the authors' code in the order of sums only: what the decoder computes of a frame and its box alone is
computed once (`encode`) and added where the filter's response comes in, not once per window and pass.

A second set of widths, `compact`, makes a network of 2.9 million weights for people who train their own on a CPU. It is
the same network otherwise, its box encoders and its filter included.

Layouts: B images, S objects, T frames, C channels, D feature channels, H W pixels of the crop, h w at stride 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.errors import UsageError, choose
from rayvos.models.configuration import known_fields
from rayvos.models.layers import resize_bilinear
from rayvos.models.sta_solver import Solution, solve

__all__ = [
    "LEVELS", "STA", "STRIDE", "FrameCode", "StaModel", "StaOutput", "StaWidths", "Variant", "build_sta",
    "normalise_bgr",
]  # fmt: skip

MEAN_BGR = (102.9801, 115.9465, 122.7717)  # Caffe's ImageNet models
CODE_CHANNELS = 16
NORM_EPSILON = 1e-5
INITIAL_STRENGTH = 0.01  # lambda before training
LEVELS = ("layer4", "layer3", "layer2", "layer1")  # deepest first
STRIDE = 32  # of the deepest features: crops of other sizes would not line up with them

Variant = Literal["official", "compact"]


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


VARIANTS: Mapping[Variant, StaWidths] = {
    "official": StaWidths((64, 128, 256, 512), (3, 4, 6, 3), 512, (256, 128, 128, 64)),
    "compact": StaWidths((16, 32, 48, 64), (2, 2, 3, 2), 96, (64, 48, 32, 32)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StaModel:
    """What makes an STA network, stored with its weights."""

    variant: Variant = "official"
    """Widths of the network: `official`, or `compact` for training on a CPU."""
    height: int = 480
    """Height of the crops that the network learns from."""
    width: int = 832
    """Width of the crops that the network learns from."""

    def __post_init__(self) -> None:
        choose("variant", self.variant, VARIANTS)
        for name in ("height", "width"):
            value = getattr(self, name)
            if value < 2 * STRIDE or value % STRIDE:
                raise UsageError(f"{name}: expected a multiple of {STRIDE} from {2 * STRIDE}, found {value}")

    @property
    def widths(self) -> StaWidths:
        """Channels of the parts."""
        return VARIANTS[self.variant]

    def configuration(self) -> dict[str, Any]:
        """Return what differs from the authors' network, as a weights file stores it."""
        standard = asdict(StaModel())
        return {name: value for name, value in asdict(self).items() if value != standard[name]}


class FrameCode(NamedTuple):
    """All that windows and passes need of one frame and its box; small enough to keep for many frames."""

    x_BDhw: Tensor
    """Normalised features."""
    e_BChw: Tensor
    """Code of the box that the first filter shall give."""
    w_BChw: Tensor
    """Weights of that code."""
    levels: tuple[Tensor, ...]
    """What the decoder's levels, deepest first, add to the filter's response: o + 32 channels at strides 32 to 4."""
    pooled_BC11: Tensor
    """Mean of the deepest features."""


class StaOutput(NamedTuple):
    """Both passes over a window."""

    logits1_TSHW: Tensor
    logits2_TSHW: Tensor
    first: Solution
    second: Solution


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


class _Backbone(nn.Module):
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


class _TargetModel(nn.Module):
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


class _BoxEncoder(_MaskEncoder):
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


class _SegmEncoder(_MaskEncoder):
    """The first pass' probabilities to the second pass' code and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.label_pred = nn.Sequential(nn.Conv2d(64, CODE_CHANNELS, 3, padding=1), nn.ReLU(inplace=True))
        self.samp_w_pred = nn.Conv2d(64, CODE_CHANNELS, 3, padding=1)

    def forward(self, probability_B1HW: Tensor) -> tuple[Tensor, Tensor]:
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


def _enlarge_bicubic(maps_BCHW: Tensor, size: Sequence[int]) -> Tensor:
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
        x = _enlarge_bicubic(x_BCHW, doubled)
        # `fold` adds what tap k says of a pixel k - 1 further on: mirrored, that is a convolution.
        taps = self.conv2.weight[0].flatten(1).flip(1).T[:, :, None, None]
        taps_B9HW = F.conv2d(F.relu(self.conv1(x)), taps)
        with torch.autocast(x.device.type, enabled=False):
            enlarged = _enlarge_bicubic(taps_B9HW.float().contiguous(), size)
        logits = F.fold(enlarged.flatten(2), tuple(size), 3, padding=1)
        assert self.conv2.bias is not None
        return logits + self.conv2.bias


class _Decoder(nn.Module):
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
        deep = pooled_BC11
        for position, name in enumerate(LEVELS):
            if position:
                deep = self.proj[name](deep)
            mixed = self.RRB1[name](self.TSE[name](levels[position], s_BChw))
            deep = self.RRB2[name](self.CAB[name](mixed, deep))
        logits: Tensor = self.project(deep, size)
        return logits


class STA(nn.Module):
    """The whole network, always in evaluation mode (its BN statistics are frozen, in training too).

    Crops are as `normalise_bgr` makes them, their sides multiples of 32 (the authors': 480x832).
    """

    def __init__(self, model: StaModel | None = None) -> None:
        super().__init__()
        self.model = model or StaModel()
        widths = self.model.widths
        self.feature_extractor = _Backbone(widths)
        self.target_model = _TargetModel(widths)
        self.target_model_segm = _TargetModel()
        self.decoder = _Decoder(widths)
        self.label_encoder = _BoxEncoder(widths.features)
        self.bbox_encoder = _BoxEncoder(widths.features)
        self.segm_encoder = _SegmEncoder()
        self.eval()

    def train(self, mode: bool = True) -> STA:
        """Stay in evaluation mode; gradients flow all the same."""
        return super().train(False)

    def encode(self, images_BCHW: Tensor, boxes_B1HW: Tensor) -> FrameCode:
        """Return the code of frames: normalised crops (B, 3, H, W) and their boxes, painted 1 on 0 (B, 1, H, W)."""
        layers = self.feature_extractor(images_BCHW)
        x = self.target_model.features(layers["layer3"])
        m = self.label_encoder.label_pred(self.label_encoder(boxes_B1HW, x))
        mixed = self.bbox_encoder(boxes_B1HW, x)
        levels, pooled = self.decoder.of_frame(layers, m)
        return FrameCode(x, self.bbox_encoder.label_pred(mixed), self.bbox_encoder.samp_w_pred(mixed), levels, pooled)

    def decode(self, levels: Sequence[Tensor], pooled_BC11: Tensor, s_BChw: Tensor, size: Sequence[int]) -> Tensor:
        """Return the logits of frames.

        Args:
            levels: of the frames' `FrameCode`.
            pooled_BC11: of the frames' `FrameCode`.
            s_BChw: the filter's response to them.
            size: (H, W) of the crops.

        Returns:
            (B, 1, H, W), float32.
        """
        logits: Tensor = self.decoder(levels, pooled_BC11, s_BChw, size)
        return logits.float()

    def encode_masks(self, logits_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second pass' code and weights (B, 16, h, w) of the first pass' logits."""
        e, w = self.segm_encoder(torch.sigmoid(logits_B1HW))
        return e, w

    def aggregate(self, x_STDhw: Tensor, e_STChw: Tensor, w_STChw: Tensor, *, steps: int, second: bool) -> Solution:
        """Fit the filters of one pass; see `rayvos.models.sta_solver.solve`."""
        model = self.target_model_segm if second else self.target_model
        return solve(x_STDhw, e_STChw, w_STChw, model.strength, steps=steps)

    def forward(self, images_TSCHW: Tensor, boxes_TSHW: Tensor, steps: int) -> StaOutput:
        """Return both passes' logits of whole windows; gradients flow from the second pass into the first.

        Args:
            images_TSCHW: normalised crops; every object has its own.
            boxes_TSHW: their boxes, painted 1 on 0.
            steps: of each filter: 5 in training, 15 at inference.
        """
        num_frames, num_objects = images_TSCHW.shape[:2]
        size = images_TSCHW.shape[-2:]
        code = self.encode(images_TSCHW.flatten(0, 1), boxes_TSHW.flatten(0, 1)[:, None])

        def by_object(maps_BChw: Tensor) -> Tensor:
            return maps_BChw.reshape(num_frames, num_objects, *maps_BChw.shape[1:]).transpose(0, 1)

        def draw(solution: Solution) -> Tensor:
            s_BChw = solution.response_STChw.transpose(0, 1).flatten(0, 1)
            return self.decode(code.levels, code.pooled_BC11, s_BChw, size)

        x = by_object(code.x_BDhw)
        first = self.aggregate(x, by_object(code.e_BChw), by_object(code.w_BChw), steps=steps, second=False)
        logits1 = draw(first)
        e2, w2 = self.encode_masks(logits1)
        second = self.aggregate(x, by_object(e2), by_object(w2), steps=steps, second=True)
        shape = (num_frames, num_objects, *size)
        return StaOutput(logits1.reshape(shape), draw(second).reshape(shape), first, second)


def build_sta(configuration: Mapping[str, Any]) -> STA:
    """Return a network with random weights.

    Args:
        configuration: fields of `StaModel`, as a weights file stores them; empty: the authors' network.

    Raises:
        WeightsError: the configuration has a field that this version does not know.
        UsageError: a value is not possible.
    """
    return STA(StaModel(**known_fields(configuration, StaModel, "sta")))


def normalise_bgr(crops_BCHW: Tensor) -> Tensor:
    """Turn RGB crops (B, 3, H, W) in 0…255, of any dtype, into the network's input: BGR, float32, minus its mean."""
    mean = torch.tensor(MEAN_BGR, device=crops_BCHW.device).reshape(3, 1, 1)
    return crops_BCHW.flip(1).float() - mean
