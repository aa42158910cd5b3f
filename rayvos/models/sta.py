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
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rayvos.errors import UsageError, choose
from rayvos.models.configuration import known_fields
from rayvos.models.sta_parts import Backbone, BoxEncoder, Decoder, SegmEncoder, StaWidths, TargetModel
from rayvos.models.sta_solver import Solution, solve

__all__ = [
    "STA", "STRIDE", "FrameCode", "StaModel", "StaOutput", "Variant", "build_sta", "normalise_bgr",
]  # fmt: skip

MEAN_BGR = (102.9801, 115.9465, 122.7717)  # Caffe's ImageNet models
STRIDE = 32  # of the deepest features: crops of other sizes would not line up with them

Variant = Literal["official", "compact"]


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


class STA(nn.Module):
    """The whole network, always in evaluation mode (its BN statistics are frozen, in training too).

    Crops are as `normalise_bgr` makes them, their sides multiples of 32 (the authors': 480x832).
    """

    def __init__(self, model: StaModel | None = None) -> None:
        super().__init__()
        self.model = model or StaModel()
        widths = self.model.widths
        self.feature_extractor = Backbone(widths)
        self.target_model = TargetModel(widths)
        self.target_model_segm = TargetModel()
        self.decoder = Decoder(widths)
        self.label_encoder = BoxEncoder(widths.features)
        self.bbox_encoder = BoxEncoder(widths.features)
        self.segm_encoder = SegmEncoder()
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
