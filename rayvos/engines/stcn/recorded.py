"""The official STCN on a GPU: batch norms folded, channels last, and each of its three parts launched as one graph."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from rayvos.engines.cuda_graphs import RecordedCall
from rayvos.models.layers import fold_batch_norms
from rayvos.models.stcn import STCN, FrameFeatures

__all__ = ["RecordedStcn"]


class RecordedStcn:
    """Computes what `STCN` computes, up to rounding, by the same methods; the network it is made of stays as it is."""

    def __init__(self, network: STCN, device: torch.device) -> None:
        """Copy a network to the device."""
        own = fold_batch_norms(copy.deepcopy(network)).requires_grad_(False)
        own.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        assert isinstance(own, STCN)

        def values(image_1CHW: Tensor, f16_1Chw: Tensor, masks_KHW: Tensor) -> tuple[Tensor]:
            return (own.encode_value(image_1CHW, f16_1Chw, masks_KHW),)

        def logits(readout_KChw: Tensor, thin_1Chw: Tensor, f8_1CHW: Tensor, f4_1CHW: Tensor) -> tuple[Tensor]:
            # The decoder looks at no other features: `thin` stands where they would be.
            return (own.decode(readout_KChw, FrameFeatures(thin_1Chw, thin_1Chw, thin_1Chw, f8_1CHW, f4_1CHW)),)

        self._keys, self._values, self._logits = (RecordedCall(part) for part in (own.encode_key, values, logits))

    def encode_key(self, image_BCHW: Tensor) -> FrameFeatures:
        """Return the features of images, see `STCN.encode_key`."""
        return FrameFeatures(*self._keys(image_BCHW.contiguous(memory_format=torch.channels_last)))

    def encode_value(self, image_1CHW: Tensor, f16_1Chw: Tensor, masks_KHW: Tensor) -> Tensor:
        """Return the values of all objects of one frame, see `STCN.encode_value`."""
        return self._values(image_1CHW, f16_1Chw, masks_KHW)[0]

    def decode(self, readout_KChw: Tensor, features: FrameFeatures) -> Tensor:
        """Return the logits of all objects of one frame, see `STCN.decode`."""
        return self._logits(readout_KChw, features.thin_BChw, features.f8_BCHW, features.f4_BCHW)[0]
