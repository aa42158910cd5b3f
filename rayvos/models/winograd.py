"""3x3 convolutions with a quarter of the multiplications, for inference on CPUs.

Source: Lavin and Gray 2016, F(4x4, 3x3): tiles of 6x6 inputs give 4x4 outputs; transforms turn the convolution into
36 matrix products. Differs: the points of the transform are 0, ±2/3, ±3/2 and infinity, where the usual ±1, ±2 lose
digits: measured with 256 channels, the largest error is 8e-7 of the largest output (5e-6 for the usual points, 3e-7
for the direct convolution).

Measured on one core (AVX-512), float32, beside the convolution of oneDNN: 1.8 to 2.1 times as fast for 256 and more
channels on maps of 30x54 and larger, 1.4 times for 128 channels, no faster for 64.

Layouts: B images, C input channels, O output channels, H W pixels, T tiles, A the six points.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WinogradConv2d", "use_winograd"]

POINTS = (Fraction(0), Fraction(2, 3), Fraction(-2, 3), Fraction(3, 2), Fraction(-3, 2))
TILE, KERNEL = 4, 3  # output pixels and taps along one side
NUM_POINTS = TILE + KERNEL - 1
LEAST_CHANNELS = 128
LEAST_TILES = 24  # below, reading the transformed weights takes longer than the convolution
OUTPUTS_AT_ONCE = 32  # whose weights are transformed at once, in float64
TILES_AT_ONCE = 432  # keeps the transformed tiles in the cache; 200 to 900 measure alike


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Return the transforms of tiles (A, A), of kernels (A, 3), and of products (4, A), in float64."""
    inputs, kernels = [], []
    for point in POINTS:
        others = [other for other in POINTS if other != point]
        inputs.append([*_coefficients(others), Fraction(0)])
        norm = math.prod((point - other for other in others), start=Fraction(1))
        kernels.append([point**power / norm for power in range(KERNEL)])
    inputs.append(_coefficients(list(POINTS)))
    kernels.append([Fraction(0), Fraction(0), Fraction(1)])
    outputs = [[*(point**power for point in POINTS), Fraction(power == TILE - 1)] for power in range(TILE)]
    return tuple(  # type: ignore[return-value]
        torch.tensor([[float(value) for value in row] for row in matrix], dtype=torch.float64)
        for matrix in (inputs, kernels, outputs)
    )


def _coefficients(roots: list[Fraction]) -> list[Fraction]:
    """Return the coefficients of the polynomial with these roots, the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [low - root * high for low, high in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


class WinogradConv2d(nn.Conv2d):
    """Stands for a 3x3 convolution of stride 1 and padding 1, with the same parameters under the same names.

    Small maps take the direct way. Weights must not change afterwards. Takes 16 bytes a weight on top.
    """

    transformed_AOC: Tensor
    input_AA: Tensor
    output_4A: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over the parameters of a convolution."""
        super().__init__(conv.in_channels, conv.out_channels, KERNEL, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.train(conv.training)
        inputs, kernels, outputs = _transforms()
        transformed_AOC = torch.empty(NUM_POINTS**2, self.out_channels, self.in_channels)
        rows = torch.split(torch.arange(self.out_channels), OUTPUTS_AT_ONCE)
        for part in rows:
            weight = conv.weight.detach()[part].double()
            found = torch.einsum("ij,ocjk,lk->iloc", kernels, weight, kernels)
            transformed_AOC[:, part] = found.reshape(NUM_POINTS**2, len(part), self.in_channels).float()
        self.register_buffer("transformed_AOC", transformed_AOC, persistent=False)
        self.register_buffer("input_AA", inputs.float(), persistent=False)
        self.register_buffer("output_4A", outputs.float(), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution, (B, O, H, W)."""
        out_BOHW = self.convolve(x_BCHW, slice(None))
        return out_BOHW if self.bias is None else out_BOHW.add_(self.bias[:, None, None])

    def convolve(self, x_BCHW: Tensor, channels: slice) -> Tensor:
        """Return the part of the convolution that some input channels make, without the bias.

        Args:
            x_BCHW: float32, on a CPU; only these channels.
            channels: which of all input channels they are.
        """
        tiles_high, tiles_wide = (-(-size // TILE) for size in x_BCHW.shape[-2:])
        if tiles_high * tiles_wide < LEAST_TILES:
            return F.conv2d(x_BCHW, self.weight[:, channels], padding=1)
        num_images, _, height, width = x_BCHW.shape
        right, below = 1 + tiles_wide * TILE - width, 1 + tiles_high * TILE - height
        padded_BCHW = F.pad(x_BCHW, (1, right, 1, below)).contiguous()
        weight_AOC = self.transformed_AOC[:, :, channels]
        out_BOHW = x_BCHW.new_empty(num_images, self.out_channels, tiles_high * TILE, tiles_wide * TILE)
        rows = max(1, TILES_AT_ONCE // tiles_wide)
        for image_CHW, out_OHW in zip(padded_BCHW, out_BOHW, strict=True):
            for top in range(0, tiles_high, rows):
                bottom = min(tiles_high, top + rows)
                stripe_CHW = image_CHW[:, top * TILE : bottom * TILE + KERNEL - 1]
                self._convolve_stripe(stripe_CHW, weight_AOC, out_OHW[:, top * TILE : bottom * TILE])
        return out_BOHW[:, :, :height, :width]

    def _convolve_stripe(self, x_CHW: Tensor, weight_AOC: Tensor, out_OHW: Tensor) -> None:
        num_channels, num_outputs = len(x_CHW), len(out_OHW)
        high, wide = out_OHW.shape[1] // TILE, out_OHW.shape[2] // TILE
        # A view of overlapping tiles, their two inner axes first: each transform is then one matrix product.
        channel, row, column = x_CHW.stride()
        tiles = x_CHW.as_strided(
            (NUM_POINTS, NUM_POINTS, num_channels, high, wide), (row, column, channel, row * TILE, column * TILE)
        )
        half = (self.input_AA @ tiles.reshape(NUM_POINTS, -1)).reshape(NUM_POINTS, NUM_POINTS, -1)
        tile_ACT = torch.matmul(self.input_AA, half).reshape(NUM_POINTS**2, num_channels, high * wide)
        product = torch.bmm(weight_AOC, tile_ACT).reshape(NUM_POINTS, NUM_POINTS, -1)
        half = torch.matmul(self.output_4A, product).reshape(NUM_POINTS, -1)
        pixels = (self.output_4A @ half).reshape(TILE, TILE, num_outputs, high, wide)
        out_OHW.view(num_outputs, high, TILE, wide, TILE).copy_(pixels.permute(2, 3, 0, 4, 1))


def use_winograd(module: nn.Module) -> None:
    """Replace the convolutions inside a module that are faster this way, in place; CPU, float32, inference only."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and _is_eligible(child):
            setattr(module, name, WinogradConv2d(child))
        else:
            use_winograd(child)


def _is_eligible(conv: nn.Conv2d) -> bool:
    plain = (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
    wide = min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
    return plain and wide and conv.groups == 1 and conv.padding_mode == "zeros"
