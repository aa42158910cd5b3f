"""The box-guided segmenter: DeepLabv3+ on a crop with a fourth channel that shows the box.

Source: Box2Seg (Reducing the Annotation Effort for Video Object Segmentation Datasets) and, where it is silent,
the refinement network of PReMVOS it re-uses: output stride 16, ASPP rates 6, 12, 18 with image pooling, decoder at
stride 4, separable convolutions, two logits resized to the input before the softmax.
Differs: the backbone is chosen by name, because an Xception-65 is slow on a CPU.

Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayvos.errors import UsageError
from rayvos.models.backbones import Backbone, build_backbone, widen_first_conv
from rayvos.models.configuration import known_fields
from rayvos.models.layers import ASPP, ConvNormAct, SeparableConv, resize_bilinear

__all__ = ["Box2Seg", "Box2SegModel", "DeepLabV3Plus", "build_box2seg", "normalise_crops"]

ASPP_RATES = (6, 12, 18)  # DeepLabv3+ at output stride 16
HEAD_CHANNELS = 256  # DeepLabv3+: ASPP and decoder
LOW_CHANNELS = 48  # DeepLabv3+: the stride-4 map, projected before it enters the decoder
DROPOUT = 0.1  # DeepLabv3+, after the ASPP
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision and timm: statistics their ImageNet weights were trained with
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box2SegModel:
    """What makes a box-guided segmenter, stored with its weights."""

    backbone: str = "tiny"
    """Name of the image encoder."""
    size: int = 385
    """Height and width of the crop in pixels: 16n + 1 aligns the corners of all maps, 16n their outer edges."""
    margin: str = "abs:50"
    """Context around the box that the network was trained with: `abs:PIXELS` or `rel:SHARE,minPIXELS`."""

    @property
    def align_corners(self) -> bool:
        """Whether maps are resized with their corners aligned."""
        return self.size % 16 == 1


class DeepLabV3Plus(nn.Module):
    """A backbone and the DeepLabv3+ head: images in, two logits (background, object) of the same size out."""

    def __init__(self, backbone: Backbone, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.backbone = backbone
        self.aspp = ASPP(backbone.high_channels, HEAD_CHANNELS, ASPP_RATES, dropout=DROPOUT)
        self.low = ConvNormAct(backbone.low_channels, LOW_CHANNELS)
        self.decoder = nn.Sequential(
            SeparableConv(HEAD_CHANNELS + LOW_CHANNELS, HEAD_CHANNELS), SeparableConv(HEAD_CHANNELS, HEAD_CHANNELS)
        )
        self.logits = nn.Conv2d(HEAD_CHANNELS, 2, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits (B, 2, H, W) of normalised images."""
        low, high = self.backbone(images_BCHW)
        meaning = resize_bilinear(self.aspp(high), low.shape[-2:], align_corners=self.align_corners)
        logits = self.logits(self.decoder(torch.cat([meaning, self.low(low)], dim=1)))
        return resize_bilinear(logits, images_BCHW.shape[-2:], align_corners=self.align_corners)


class Box2Seg(DeepLabV3Plus):
    """DeepLabv3+ whose first convolution also reads the guidance: 1 inside the box, 0 outside.

    The new filter starts at zero, so a fresh network equals the RGB network it was made from.
    """

    def __init__(self, model: Box2SegModel) -> None:
        backbone = build_backbone(model.backbone)
        if not backbone.fits(model.size):
            raise UsageError(
                f"size: backbone {model.backbone!r} needs {backbone.sizes} pixels, found {model.size}; try 384 or 385"
            )
        super().__init__(backbone, align_corners=model.align_corners)
        widen_first_conv(self.backbone)
        self.model = model

    def forward(self, inputs_BCHW: Tensor) -> Tensor:
        """Return logits (B, 2, H, W) of inputs (B, 4, H, W) as `normalise_crops` makes them."""
        return super().forward(inputs_BCHW)

    def configuration(self) -> dict[str, Any]:
        """Return what `build_box2seg` needs to build this network again."""
        return asdict(self.model)


def build_box2seg(configuration: Mapping[str, Any]) -> Box2Seg:
    """Return a network with random weights.

    Args:
        configuration: fields of `Box2SegModel`, as a weights file stores them.

    Raises:
        WeightsError: the configuration has a field that this version does not know.
        UsageError: a value is not possible.
    """
    return Box2Seg(Box2SegModel(**known_fields(configuration, Box2SegModel, "box2seg")))


def normalise_crops(crops_BHWC: Tensor) -> Tensor:
    """Turn crops into the network's input.

    Args:
        crops_BHWC: uint8 (B, height, width, 4): RGB 0…255, then guidance 0 or 1.

    Returns:
        float32 (B, 4, height, width), channels last in memory: RGB with ImageNet's mean and deviation, guidance as is.
    """
    mean = torch.tensor([255 * value for value in IMAGENET_MEAN] + [0.0], device=crops_BHWC.device)
    deviation = torch.tensor([255 * value for value in IMAGENET_STD] + [1.0], device=crops_BHWC.device)
    return ((crops_BHWC.float() - mean) / deviation).permute(0, 3, 1, 2)
