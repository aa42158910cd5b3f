"""Labels of the engine `stcn` from what its passes found on a frame, which may still be on its way from a GPU.

Why so: whoever waits for each frame's masks leaves the GPU idle while they are made. They are fetched into pinned
memory, and looked at when the next frame's work has been handed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import Label
from rayvos.engines.scores import predicted_iou
from rayvos.engines.stcn.anchors import Anchors
from rayvos.engines.stcn.fusion import name_qualities

__all__ = ["Found", "arrival", "frame_labels", "given_label", "to_host"]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was found on one frame; a GPU may still be at work on it."""

    frame: int
    given: Mapping[int, MaskPrompt]
    """Masks that people gave, by position."""
    known: Sequence[int]
    """Positions of the objects that were looked for."""
    winners: Tensor | None
    """uint8 (height, width) on the CPU, see `label_map`."""
    numbers: Tensor | None
    """On the CPU, see `mask_qualities`."""
    arrived: torch.cuda.Event | None
    """Happens when both are there; None: they are."""


def to_host(found: Tensor) -> Tensor:
    """Return a tensor on the CPU; one from a GPU arrives later."""
    if found.device.type != "cuda":
        return found
    return torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)


def arrival(device: torch.device) -> torch.cuda.Event | None:
    """Return what happens when all that a GPU was asked for so far is there; None on a CPU, where it is."""
    if device.type != "cuda":
        return None
    happens = torch.cuda.Event()  # type: ignore[no-untyped-call]
    happens.record(torch.cuda.current_stream(device))
    return happens


def frame_labels(clip: Clip, anchors: Anchors, found: Found) -> Iterator[Label]:
    """Yield the labels of one frame."""
    if found.arrived is not None:
        found.arrived.synchronize()
    winners = None if found.winners is None else found.winners.numpy()
    rows = [] if found.numbers is None else list(found.numbers.numpy())
    quality = {position: name_qualities(row) for position, row in zip(found.known, rows, strict=True)}
    positions = {object_id: position for position, object_id in enumerate(anchors.object_ids)}
    for object_id in clip.object_ids():
        position = positions.get(object_id, -1)
        if position in found.given:
            yield given_label(clip, found.given[position])
            continue
        mask = winners == position + 1 if winners is not None and position in quality else None
        if mask is None or not mask.any():
            yield Label(found.frame, object_id, None)
            continue
        terms = quality[position]
        score = predicted_iou(terms["expected_iou"], 1 - terms["entropy"], terms.get("agreement"))
        yield Label(found.frame, object_id, mask, score, terms)


def given_label(clip: Clip, prompt: MaskPrompt) -> Label:
    """Return the label of a mask that a person gave: as it is, with score 1; absent where it says so."""
    from rayvos.masks.rle import rle_to_mask

    if prompt.rle is None:
        return Label(prompt.frame, prompt.object_id, None)
    mask = rle_to_mask(prompt.rle, clip.height, clip.width)
    return Label(prompt.frame, prompt.object_id, mask, 1.0, {"given": 1.0})
