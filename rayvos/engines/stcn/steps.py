"""What a propagation asks of a network, and how each network does it: the official STCN, and the compact one.

The official network sees a frame and what it reads in memory. The compact one also sees what the frame before says
(`models/stcn_hints.py`), so that it has to go through every frame, and remembers that frame between two steps.

Layouts: K objects, H W pixels padded to multiples of 16, h w pixels of the key, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, TypeAlias

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rayvos.engines.motion import dense_flow
from rayvos.engines.stcn.recorded import RecordedStcn
from rayvos.models.stcn import DEVIATION, MEAN, STCN, FrameFeatures
from rayvos.models.stcn_compact import CompactFeatures, CompactStcn
from rayvos.models.stcn_hints import Previous, color_histogram, hint_planes

__all__ = ["Features", "Network", "Steps", "make_steps"]

Network: TypeAlias = STCN | RecordedStcn | CompactStcn
Features: TypeAlias = FrameFeatures | CompactFeatures


class Steps(Protocol):
    """One propagation's use of a network; holds what it must know of frames before."""

    needs_every_frame: bool
    """A frame cannot be left out, though nobody wants it and the memory does not take it."""

    def values(self, image_1CHW: Tensor, features: Any, masks_KHW: Tensor) -> Tensor:
        """Return what the memory keeps of a frame for each object, (K, C, h, w)."""
        ...

    def predict(self, readout_KChw: Tensor, image_1CHW: Tensor, features: Any, objects: Sequence[int]) -> Tensor:
        """Return the probabilities (K, H, W) of some objects by what they read in memory, each for itself."""
        ...

    def take_note(self, image_1CHW: Tensor, masks_KHW: Tensor, given: Collection[int]) -> None:
        """Take note of a frame's final probabilities, of all objects, and of whose were given by people."""
        ...


def make_steps(network: Network, num_objects: int) -> Steps:
    """Return the steps of a network for one propagation of so many objects."""
    return _CompactSteps(network, num_objects) if isinstance(network, CompactStcn) else _OfficialSteps(network)


class _OfficialSteps:
    needs_every_frame = False

    def __init__(self, network: STCN | RecordedStcn) -> None:
        self._network = network

    def values(self, image_1CHW: Tensor, features: FrameFeatures, masks_KHW: Tensor) -> Tensor:
        return self._network.encode_value(image_1CHW, features.f16_BChw, masks_KHW)

    def predict(
        self, readout_KChw: Tensor, image_1CHW: Tensor, features: FrameFeatures, objects: Sequence[int]
    ) -> Tensor:
        return torch.sigmoid(self._network.decode(readout_KChw, features))

    def take_note(self, image_1CHW: Tensor, masks_KHW: Tensor, given: Collection[int]) -> None:
        pass


class _CompactSteps:
    needs_every_frame = True

    def __init__(self, network: CompactStcn, num_objects: int) -> None:
        self._network, self._num_objects = network, num_objects
        self._image: Tensor | None = None
        self._masks_KHW = torch.empty(0)
        self._given_K2S = torch.empty(0)
        self._latest_K2S = torch.empty(0)

    def values(self, image_1CHW: Tensor, features: CompactFeatures, masks_KHW: Tensor) -> Tensor:
        owner = torch.zeros(len(masks_KHW), dtype=torch.long, device=masks_KHW.device)
        return self._network.encode_values(features, masks_KHW, masks_KHW.sum(0) - masks_KHW, owner)

    def predict(
        self, readout_KChw: Tensor, image_1CHW: Tensor, features: CompactFeatures, objects: Sequence[int]
    ) -> Tensor:
        assert self._image is not None, "an object is predicted after a frame that knows it"
        owner = torch.zeros(len(objects), dtype=torch.long, device=image_1CHW.device)
        flow_HW2 = dense_flow(_grey(image_1CHW), _grey(self._image))
        flow_12HW = torch.from_numpy(flow_HW2).to(image_1CHW.device).permute(2, 0, 1)[None]
        own = self._masks_KHW if len(objects) == self._num_objects else self._masks_KHW[list(objects)]
        with torch.autocast(image_1CHW.device.type, enabled=False):
            before = Previous(self._image, flow_12HW, own, self._masks_KHW.sum(0) - own)
            hints = hint_planes(image_1CHW, before, self._colors()[list(objects)], owner)
        return torch.sigmoid(self._network.decode(readout_KChw, features, hints, owner).float())

    def _colors(self) -> Tensor:
        """Return each object's colours: the mean of what the given masks and the latest one hold."""
        return (self._given_K2S + self._latest_K2S) / 2

    def take_note(self, image_1CHW: Tensor, masks_KHW: Tensor, given: Collection[int]) -> None:
        owner = torch.zeros(self._num_objects, dtype=torch.long, device=masks_KHW.device)
        half = F.avg_pool2d(masks_KHW[:, None].float(), 2)[:, 0]
        self._latest_K2S = color_histogram(F.avg_pool2d(image_1CHW, 2), half, owner)
        if given:
            if self._image is None:
                self._given_K2S = torch.zeros_like(self._latest_K2S)
            self._given_K2S[list(given)] = self._latest_K2S[list(given)]
        self._image, self._masks_KHW = image_1CHW, masks_KHW


def _grey(image_1CHW: Tensor) -> NDArray[np.uint8]:
    """Return the grey picture (H, W) of a normalised image."""
    deviation, mean = (torch.tensor(numbers, device=image_1CHW.device)[:, None, None] for numbers in (DEVIATION, MEAN))
    picture = ((image_1CHW[0] * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(cv2.cvtColor(picture.permute(1, 2, 0).cpu().numpy(), cv2.COLOR_RGB2GRAY), np.uint8)
