"""The guided segmenter: a compact U-Net that reads a crop, what a person drew on it, and what colour and motion say.

Its input is one stack of planes (`PLANES` names them; `rayvos.engines.guided.guidance` computes them, for training and
for labelling alike); a plane that is absent is zero. Its output is a logit per pixel and one more that predicts the IoU
of the mask. A global step compares the mean features inside the box with those outside: cheap "what is in, what is
out", which a small network cannot see through its convolutions alone.

Source: specification of the default model, section 1a.
Differs: strides 2 to 32 on smaller crops, and the stem reads space-to-depth blocks, because full-resolution
convolutions take most of the time on a CPU; the planes of motion and of the cuts are input, too (section 5c).

Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.errors import UsageError
from rayvos.models.configuration import known_fields
from rayvos.models.layers import ConvNormAct, ResidualBlock

__all__ = ["PLANES", "Guided", "GuidedModel", "GuidedOutput", "build_guided"]

PLANES = (
    "red",
    "green",
    "blue",
    "box",
    "region",
    "positives",
    "negatives",
    "trace",
    "previous",
    "color_likelihood",
    "color_cut",
    "motion_cuts",
    "mixed_cuts",
    "vote",
    "near_before_x",
    "near_before_y",
    "near_after_x",
    "near_after_y",
    "far_before_x",
    "far_before_y",
    "far_after_x",
    "far_after_y",
)
"""What the input holds, in order; `rayvos.engines.guided.guidance` says what each is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedModel:
    """What makes a guided segmenter, stored with its weights."""

    size: int = 128
    """Height and width of the crop in pixels, a multiple of 32."""
    widths: tuple[int, ...] = (32, 64, 96, 128, 192)
    """Channels at strides 2, 4, 8, 16 and 32."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 32:
            raise UsageError(f"size: expected a multiple of 32, found {self.size}")
        if len(self.widths) != 5 or any(width < 4 for width in self.widths):
            raise UsageError(f"widths: expected five numbers from 4, found {list(self.widths)}")


@dataclass(frozen=True, slots=True, eq=False)
class GuidedOutput:
    """What the network says of a batch."""

    logits_BHW: Tensor
    """Of the object, at the input's size."""
    quality_B: Tensor
    """Logit of the mask's predicted IoU."""


class _Up(nn.Module):
    """Doubles the size, and adds the encoder's map of that size."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.above = ConvNormAct(channels_in, channels_out)
        self.skip = ConvNormAct(channels_skip, channels_out)
        self.mix = ConvNormAct(channels_out, channels_out, 3)

    def forward(self, above_BCHW: Tensor, skip_BCHW: Tensor) -> Tensor:
        """Return maps of the size of `skip_BCHW`."""
        raised = F.interpolate(self.above(above_BCHW), scale_factor=2, mode="bilinear", align_corners=False)
        mixed: Tensor = self.mix(raised + self.skip(skip_BCHW))
        return mixed


class Guided(nn.Module):
    """The network; see the module's docstring."""

    def __init__(self, model: GuidedModel) -> None:
        super().__init__()
        self.model = model
        w2, w4, w8, w16, w32 = model.widths
        self.stem = ConvNormAct(4 * len(PLANES), w2, 3)
        self.stages = nn.ModuleList(
            [
                ResidualBlock(w2, w4, stride=2),
                ResidualBlock(w4, w8, stride=2),
                nn.Sequential(ResidualBlock(w8, w16, stride=2), ResidualBlock(w16, w16)),
                nn.Sequential(ResidualBlock(w16, w32, stride=2), ResidualBlock(w32, w32)),
            ]
        )
        self.compare = nn.Linear(2 * w32, w32)
        self.ups = nn.ModuleList([_Up(w32, w16, w16), _Up(w16, w8, w8), _Up(w8, w4, w4), _Up(w4, w2, w2)])
        self.mask = nn.Conv2d(w2, 4, 3, padding=1)
        self.judge = nn.Sequential(nn.Linear(2 * w32 + 2 * w4, 64), nn.ReLU(), nn.Linear(64, 1))

    def configuration(self) -> dict[str, Any]:
        """Return what `build_guided` needs to build this network again."""
        return {**asdict(self.model), "widths": list(self.model.widths)}

    def forward(self, planes_BCHW: Tensor) -> GuidedOutput:
        """Return logits of planes (B, len(PLANES), size, size)."""
        region_B1HW = planes_BCHW[:, 4:5]
        maps = self.stem(F.pixel_unshuffle(planes_BCHW, 2))
        skips = [maps]
        for stage in self.stages:
            maps = stage(maps)
            skips.append(maps)
        inside, outside = _means(maps, region_B1HW)
        maps = maps + self.compare(torch.cat([inside, outside], dim=1))[:, :, None, None]
        for up, skip in zip(self.ups, skips[-2::-1], strict=True):
            maps = up(maps, skip)
            if up is self.ups[2]:
                fine = maps
        logits_BHW = F.pixel_shuffle(self.mask(maps), 2)[:, 0]
        found = torch.sigmoid(logits_BHW.detach())[:, None]
        judged = torch.cat([inside, outside, *_means(fine, found)], dim=1)
        return GuidedOutput(logits_BHW, self.judge(judged)[:, 0])


def _means(maps_BCHW: Tensor, weight_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean features where the weight is, and where it is not, each (B, C)."""
    weight = F.adaptive_avg_pool2d(weight_B1HW, (maps_BCHW.shape[2], maps_BCHW.shape[3])).to(maps_BCHW.dtype)
    inside = (maps_BCHW * weight).sum(dim=(2, 3)) / (weight.sum(dim=(2, 3)) + 1e-3)
    outside = (maps_BCHW * (1 - weight)).sum(dim=(2, 3)) / ((1 - weight).sum(dim=(2, 3)) + 1e-3)
    return inside, outside


def build_guided(configuration: Mapping[str, Any]) -> Guided:
    """Return a network with random weights.

    Args:
        configuration: fields of `GuidedModel`, as a weights file stores them.

    Raises:
        WeightsError: the configuration has a field that this version does not know.
        UsageError: a value is not possible.
    """
    values = known_fields(configuration, GuidedModel, "guided")
    if "widths" in values:
        values["widths"] = tuple(values["widths"])
    return Guided(GuidedModel(**values))
