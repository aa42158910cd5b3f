"""The official STCN on a CPU: batch norms folded, channels last, convolutions by the algorithm that is faster there.

Measured on one core at 480x864, float32: by Winograd's algorithm, convolutions of 256 and more channels take half the
direct time, those of 128 three quarters, and those of 64 the same; the decoder's last convolution, to a single
channel, takes a fourth as one matrix product. Maps of some 30 MB come and go for every object; where glibc returned
them to the system each time, the decoder spent a quarter of its time on page faults.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayvos.models.layers import fold_batch_norms
from rayvos.models.stcn import STCN
from rayvos.models.winograd import use_winograd

__all__ = ["prepare_for_cpu"]

MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h
KEPT_BYTES = 512 << 20  # of freed memory, at most
SYSTEM_BYTES = 32 << 20  # larger pieces come from the system each time; the most that glibc takes


def prepare_for_cpu(network: STCN) -> None:
    """Change a network in place for inference in float32; results change by rounding only. Twice does no more.

    The process keeps up to half a gigabyte of freed memory from then on, where its allocator is glibc's.
    """
    _keep_freed_memory()
    fold_batch_norms(network)
    network.to(memory_format=torch.channels_last)
    use_winograd(network)
    network.decoder.pred = _NarrowConv2d(network.decoder.pred)


def _keep_freed_memory() -> None:
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # other systems' allocators have no such option
        set_option(MALLOC_TRIM_THRESHOLD, KEPT_BYTES)
        set_option(MALLOC_MMAP_THRESHOLD, SYSTEM_BYTES)


class _NarrowConv2d(nn.Conv2d):
    """A 3x3 convolution of stride and padding 1 to few channels: one product for its nine taps, which fold together."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 3, padding=1, device="meta")
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x_BCHW: Tensor) -> Tensor:
        taps = self.weight.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, self.in_channels)
        pixels_BPC = x_BCHW.permute(0, 2, 3, 1).flatten(1, 2)
        folded = F.fold((pixels_BPC @ taps.T).transpose(1, 2), x_BCHW.shape[-2:], 3, padding=1)
        return folded if self.bias is None else folded + self.bias[:, None, None]
