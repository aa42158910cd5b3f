"""Runs the STA network on frames and windows, so that no result depends on what else is computed.

On a CPU a frame is encoded by itself and a window solved by itself. On a GPU kernels are chosen by the shape of what
they get, so frames and windows are taken in groups of one size, filled up with zeros: a frame of zeros without weight
adds nothing to a window. The filters are fitted in float32 always. Convolutions may be in half precision where parity
holds, measured on the authors' tensors: float16 moves 0.1 % of a crop's pixels, and so does bfloat16 in what is
computed once per frame; in the decoder its eight digits would move 0.8 %, so that keeps float32.

Layouts: S windows, T frames of a window, B frames, C channels, D feature channels, H W pixels, h w at stride 16.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rayvos.models.layers import fold_batch_norms
from rayvos.models.sta import STA, FrameCode, normalise_bgr
from rayvos.models.sta_parts import CODE_CHANNELS, StaWidths

__all__ = ["ALONE", "ON_GPU", "FrameInput", "Grouping", "Precision", "Solved", "StaRunner", "Window", "code_bytes"]

Precision = Literal["float32", "bfloat16", "float16"]
Item = TypeVar("Item")

# Decoding several frames of a window in one pass saves a tenth of the time at 192x320 and nothing at 480x832, where
# memory counts. A pass holds what the window and the size of crops say, never what else is to be done.
CPU_PIXELS = 1 << 17


@dataclass(frozen=True, slots=True)
class Grouping:
    """How many frames and windows share a pass, always the same numbers."""

    frames: int
    windows: int


ALONE = Grouping(frames=1, windows=1)
ON_GPU = Grouping(frames=8, windows=8)


@dataclass(frozen=True, slots=True, eq=False)
class FrameInput:
    """One object on one frame, as it is cut out."""

    pixels: NDArray[np.uint8]
    """(height, width, 3) RGB, not resized yet."""
    painted: NDArray[np.bool_]
    """(H, W): the box."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What to solve, and what to return of it."""

    codes: Sequence[FrameCode]
    """Of its frames."""
    labels: Sequence[int]
    """Positions in `codes` whose final logits are wanted."""
    checks: Sequence[int]
    """Positions whose first masks are wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class Solved:
    """What is known of a window."""

    first: dict[int, NDArray[np.bool_]]
    """First masks (H, W) of labels and checks, by position."""
    logits: dict[int, NDArray[np.float32]]
    """Final logits (H, W) of labels, by position."""
    loss: float
    """The second filter's objective at the end, as a share of what it was without a filter."""


def code_bytes(size: tuple[int, int], precision: Precision, widths: StaWidths) -> int:
    """Return the memory of one frame's code for crops of `size` (height, width)."""
    half_or_single = 4 if precision == "float32" else 2
    area = size[0] * size[1]
    strides = (32, 16, 8, 4)
    levels = sum(
        (width + 2 * CODE_CHANNELS) * area // stride**2 for width, stride in zip(widths.decoder, strides, strict=True)
    )
    return 4 * widths.features * area // 256 + half_or_single * (levels + 2 * CODE_CHANNELS * area // 256)


class StaRunner:
    """The network on a device, folded for inference."""

    def __init__(self, network: STA, *, size: tuple[int, int], steps: int, precision: Precision) -> None:
        """Take the network over: its batch norms are folded, it cannot be trained afterwards.

        Args:
            network: on the CPU.
            size: (height, width) of crops.
            steps: of each filter.
            precision: of convolutions.
        """
        fold_batch_norms(network)
        self._network = network.requires_grad_(False)
        self._size = size
        self._steps = steps
        self._half = None if precision == "float32" else getattr(torch, precision)
        self._decoder_half = torch.float16 if precision == "float16" else None

    def move_to(self, device: torch.device, *, longest: int, grouping: Grouping | None = None) -> None:
        """Use a device from now on.

        Args:
            device: where to compute.
            longest: frames of a window at most.
            grouping: what shares a pass; None: nothing on a CPU, `ON_GPU` on a GPU.
        """
        self._device = device
        self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.grouping = grouping or (ON_GPU if device.type == "cuda" else ALONE)
        # Alone, a window has its own length; in a group all have the same.
        self._longest = None if self.grouping == ALONE else longest

    def encode(self, inputs: Sequence[FrameInput]) -> list[FrameCode]:
        """Return the codes of at most `grouping.frames` frames; may be called from any thread."""
        images_BCHW = torch.zeros(self.grouping.frames, 3, *self._size, device=self._device)
        boxes_B1HW = torch.zeros(self.grouping.frames, 1, *self._size, device=self._device)
        for position, given in enumerate(inputs):
            pixels_1CHW = torch.from_numpy(given.pixels).to(self._device).permute(2, 0, 1)[None].float()
            resized = F.interpolate(pixels_1CHW, size=self._size, mode="bilinear", align_corners=False)
            images_BCHW[position] = normalise_bgr(resized)[0]
            boxes_B1HW[position, 0] = torch.from_numpy(given.painted).to(self._device)
        with torch.inference_mode(), self._exact(), self._autocast(self._half):
            together = self._network.encode(images_BCHW, boxes_B1HW)
            if self.grouping == ALONE:
                return [together]
            # Copies: a view would keep the whole pass in memory for as long as one of its frames is needed.
            return [_pick(together, position) for position in range(len(inputs))]

    def solve(self, windows: Sequence[Window]) -> list[Solved]:
        """Return what is known of at most `grouping.windows` windows; may be called from any thread."""
        with torch.inference_mode(), self._exact():
            return self._solve(windows)

    def _solve(self, windows: Sequence[Window]) -> list[Solved]:
        length = self._longest or len(windows[0].codes)
        places = [
            number * length + position for number, window in enumerate(windows) for position in range(len(window.codes))
        ]
        codes = dict(zip(places, itertools.chain.from_iterable(window.codes for window in windows), strict=True))

        def spread(maps: Sequence[Tensor]) -> Tensor:
            """Put maps (1, …) of `places` where their window is, zeros elsewhere: (S, T, …)."""
            spread_out = maps[0].new_zeros(self.grouping.windows * length, *maps[0].shape[1:])
            spread_out[places] = torch.cat(list(maps))
            return spread_out.reshape(self.grouping.windows, length, *maps[0].shape[1:])

        x = spread([code.x_BDhw for code in codes.values()])
        first = self._network.aggregate(
            x,
            spread([code.e_BChw for code in codes.values()]),
            spread([code.w_BChw for code in codes.values()]),
            steps=self._steps,
            second=False,
        )
        together = self.grouping.frames
        if self.grouping == ALONE:
            together = max(1, CPU_PIXELS // (self._size[0] * self._size[1]))
        logits1 = self._decode(codes, first.response_STChw, places, together)
        e2, w2 = self._encode_masks([logits1[place] for place in places], together)
        second = self._network.aggregate(x, spread(e2), spread(w2), steps=self._steps, second=True)
        wanted = [number * length + place for number, window in enumerate(windows) for place in window.labels]
        logits2 = self._decode(codes, second.response_STChw, wanted, self.grouping.frames)
        loss = (second.loss_SK[:, -1] / second.loss_SK[:, 0].clamp(min=1e-12)).tolist()
        return [
            Solved(
                {place: _numpy(logits1[number * length + place] > 0) for place in {*window.labels, *window.checks}},
                {place: _numpy(logits2[number * length + place]) for place in window.labels},
                loss[number],
            )
            for number, window in enumerate(windows)
        ]

    def _decode(
        self, codes: dict[int, FrameCode], response_STChw: Tensor, places: Sequence[int], together: int
    ) -> dict[int, Tensor]:
        """Return the logits (1, 1, H, W) of places, drawn `together` at a time."""
        responses = response_STChw.flatten(0, 1)
        drawn: dict[int, Tensor] = {}
        for chunk in _chunks(places, together):
            filled = self._filled(chunk, together)
            levels, pooled = _join([codes[place] for place in filled])
            if self._decoder_half is None:
                levels, pooled = [maps.float() for maps in levels], pooled.float()
            with self._autocast(self._decoder_half):
                logits = self._network.decode(levels, pooled, responses[filled], self._size)
            drawn |= {place: logits[index : index + 1] for index, place in enumerate(chunk)}
        return drawn

    def _encode_masks(self, logits: Sequence[Tensor], together: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the second codes and weights (1, C, h, w) of first logits (1, 1, H, W)."""
        codes: list[Tensor] = []
        weights: list[Tensor] = []
        for chunk in _chunks(logits, together):
            with self._autocast(self._half):
                e, w = self._network.encode_masks(torch.cat(self._filled(chunk, together)))
            codes += [e[index : index + 1] for index in range(len(chunk))]
            weights += [w[index : index + 1] for index in range(len(chunk))]
        return codes, weights

    def _filled(self, items: Sequence[Item], size: int) -> list[Item]:
        """Return a pass of the size that all passes have; alone, a window's own frames are all that it depends on."""
        missing = 0 if self.grouping == ALONE else size - len(items)
        return [*items, *[items[-1]] * missing]

    def _exact(self) -> AbstractContextManager[None]:
        """On a GPU: one kernel for one shape, and no TF32 behind float32."""
        if self._device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def _autocast(self, half: torch.dtype | None) -> AbstractContextManager[None]:
        return torch.autocast(self._device.type, dtype=half, enabled=half is not None)


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _pick(code: FrameCode, position: int) -> FrameCode:
    """Return a copy of one frame's code."""
    x, e, w, *levels, pooled = (
        maps[position : position + 1].clone()
        for maps in (code.x_BDhw, code.e_BChw, code.w_BChw, *code.levels, code.pooled_BC11)
    )
    return FrameCode(x, e, w, tuple(levels), pooled)


def _join(codes: Sequence[FrameCode]) -> tuple[Sequence[Tensor], Tensor]:
    """Return what the decoder reads of several frames."""
    if len(codes) == 1:
        return codes[0].levels, codes[0].pooled_BC11
    levels = [torch.cat(maps) for maps in zip(*(code.levels for code in codes), strict=True)]
    return levels, torch.cat([code.pooled_BC11 for code in codes])


def _numpy(maps_11HW: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = maps_11HW[0, 0].cpu().numpy()
    return found
