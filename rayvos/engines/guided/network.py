"""The guided segmenter at work: planes in, probability and predicted IoU out; and one prompt answered on one image.

Every forward pass has the same number of crops (missing ones are zero), and on a CPU one thread: what a crop gives
must depend neither on its company nor on the number of cores. A crop is shown as it is and mirrored, and the mean of
both answers counts.
Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rayvos.engines.cut.crop_cuts import Crop
from rayvos.engines.guided.guidance import OFFSETS, UNIT, Guidance, Prompt, guidance_planes, paste_crop
from rayvos.engines.motion import dense_flow, flow_picture
from rayvos.errors import ShapeError
from rayvos.models.guided import PLANES, Guided, GuidedOutput
from rayvos.models.layers import fold_batch_norms
from rayvos.models.registry import load_model

__all__ = ["DEFAULT_WEIGHTS", "MIRRORED", "Found", "GuidedSegmenter", "load_segmenter", "on_grid"]

DEFAULT_WEIGHTS = "guided"
"""Name of the packaged weights."""
CPU_BATCH, GPU_BATCH = 1, 32  # crops per pass; one at a time is fastest on a core (see the engine box2seg)
MIRRORED = [PLANES.index(name) for name in PLANES if name.endswith("_x")]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What the network says of one crop."""

    probability: NDArray[np.float32]
    """(size, size), in [0, 1]."""
    quality: float
    """Predicted IoU, in [0, 1]."""
    crop: Crop
    """Where the crop lies; its working grid is the network's."""


class GuidedSegmenter:
    """A guided network with its weights; see the module's docstring."""

    def __init__(self, network: Guided, *, digest: str = "", device: str = "cpu", flip: bool = True) -> None:
        """Take a network in evaluation mode; it cannot be trained afterwards.

        Args:
            network: with its weights.
            digest: of the weights.
            device: where it computes, as torch writes it.
            flip: show every crop mirrored, too.
        """
        self.size = network.model.size
        self.digest = digest
        self.flip = flip
        self._network = fold_batch_norms(network.eval()).requires_grad_(False)
        self._one_pass = threading.Lock()
        self.device = torch.device("cpu")
        self.move(torch.device(device))

    def move(self, device: torch.device) -> None:
        """Compute on another device from now on."""
        self.device = device
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def network(self) -> nn.Module:
        """The network, its batch norms folded into the convolutions: a copy of it may be trained further."""
        return self._network

    def with_network(self, network: nn.Module) -> GuidedSegmenter:
        """Return a segmenter like this one with a network that was trained further."""
        return GuidedSegmenter(cast(Guided, network), digest=self.digest, device=str(self.device), flip=self.flip)

    @property
    def batch_size(self) -> int:
        """Crops per forward pass."""
        return GPU_BATCH if self.device.type == "cuda" else CPU_BATCH

    @property
    def network_bytes(self) -> int:
        """Size of the weights in memory."""
        return sum(parameter.nbytes for parameter in self._network.parameters())

    def segment(self, guidances: Sequence[Guidance]) -> list[Found]:
        """Return the network's answer to each crop."""
        return [
            found
            for start in range(0, len(guidances), self.batch_size)
            for found in self._pass(guidances[start : start + self.batch_size])
        ]

    def probability(
        self,
        image: NDArray[np.uint8],
        prompt: Prompt,
        neighbours: Mapping[int, NDArray[np.uint8]] | None = None,
    ) -> NDArray[np.float32]:
        """Return the object's probability (height, width), 0 outside the prompt's surroundings.

        Args:
            image: RGB (height, width, 3).
            prompt: a box, points, a trace, a mask that is about right, or several of these.
            neighbours: offset of `OFFSETS` → image of that frame, for motion; others are not looked at.

        Raises:
            InputError: the prompt says nothing of where the object is.
            ShapeError: a neighbour has another size.
        """
        height, width = image.shape[:2]
        grey, scale = flow_picture(image)
        flows = {}
        for offset in OFFSETS:
            if neighbours and offset in neighbours:
                if neighbours[offset].shape != image.shape:
                    raise ShapeError(
                        f"neighbour {offset}: expected the image's size {image.shape}, found {neighbours[offset].shape}"
                    )
                flows[offset] = dense_flow(grey, flow_picture(neighbours[offset])[0])
        guidance = guidance_planes(image, prompt, flows, scale, self.size)
        if guidance is None:
            return np.zeros((height, width), np.float32)
        found = self.segment([guidance])[0]
        return paste_crop(found.probability, found.crop, height, width)

    def _pass(self, guidances: Sequence[Guidance]) -> list[Found]:
        planes = np.zeros((self.batch_size, len(PLANES), self.size, self.size), np.int8)
        for place, guidance in zip(planes, guidances, strict=False):
            place[...] = guidance.planes
        settings = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with self._one_pass, settings, torch.inference_mode():
            inputs_BCHW = torch.from_numpy(planes).to(self.device).float() / UNIT
            if self.flip:
                mirrored_BCHW = inputs_BCHW.flip(3)
                mirrored_BCHW[:, MIRRORED] *= -1
                inputs_BCHW = torch.cat([inputs_BCHW, mirrored_BCHW])
            output = cast(GuidedOutput, self._network(inputs_BCHW.contiguous(memory_format=torch.channels_last)))
            logits_BHW, quality_B = output.logits_BHW, output.quality_B
            if self.flip:
                straight_BHW, back_BHW = logits_BHW.chunk(2)
                logits_BHW = (straight_BHW + back_BHW.flip(2)) / 2
                quality_B = torch.stack(quality_B.chunk(2)).mean(dim=0)
            probabilities = torch.sigmoid(logits_BHW).cpu().numpy()
            qualities = torch.sigmoid(quality_B).cpu().tolist()
        return [
            Found(probability, quality, on_grid(guidance.crop, self.size))
            for probability, quality, guidance in zip(probabilities, qualities, guidances, strict=False)
        ]


def on_grid(crop: Crop, size: int) -> Crop:
    """Return the crop with the network's grid as its working grid."""
    height, width = crop.size
    x0, y0, x1, y1 = crop.inner
    left, right = min(round(x0 * size / width), size - 1), max(1, round(x1 * size / width))
    top, bottom = min(round(y0 * size / height), size - 1), max(1, round(y1 * size / height))
    return replace(crop, inner=(left, top, max(right, left + 1), max(bottom, top + 1)), size=(size, size))


def load_segmenter(weights: str | None = None, *, device: str = "cpu", flip: bool = True) -> GuidedSegmenter:
    """Return the segmenter of a weights file.

    Args:
        weights: path or URL of guided weights, or a name of packaged ones; None: those that come with rayvos.
        device: where it computes, as torch writes it.
        flip: show every crop mirrored, too: twice the time, a little better.

    Raises:
        WeightsError: the weights are missing, damaged or another network's.
    """
    network, info = load_model(weights or DEFAULT_WEIGHTS, architecture="guided")
    return GuidedSegmenter(cast(Guided, network), digest=info.digest, device=device, flip=flip)
