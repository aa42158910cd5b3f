"""Propagation by an STCN: masks on some frames in, soft masks on the frames after them out.

Source: STCN, evaluation; facts of the official implementation: objects may first appear on any frame, an annotated
frame stays in memory, every n-th predicted frame enters it, probabilities (not hard masks) are remembered.
Differs: a second annotation of an object replaces its prediction there and becomes one more permanent memory, where
the official code would list the object twice.

Frames come one by one and leave one by one: nothing but the memory grows with the clip.

Layouts: K objects, H W pixels padded to multiples of 16, h w at stride 16, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayvos.engines.stcn.memory_bank import MemoryBank
from rayvos.engines.stcn.steps import Features, Network, Steps, make_steps
from rayvos.models.stcn import aggregate

__all__ = ["MemoryRule", "pad_to_stride", "propagate", "unpad"]

STRIDE = 16
PAPER_MEMORY_EVERY, PAPER_TOP_K = 5, 20  # STCN, evaluation defaults


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """What enters the memory."""

    every: int = PAPER_MEMORY_EVERY
    """A predicted frame enters when so many frames have passed since the last one that did."""
    top_k: int = PAPER_TOP_K
    """Memory positions that a query position reads."""
    include_last: bool = False
    """Remember the frame before, too, until the next one."""
    max_frames: int | None = None
    """Predicted frames kept at most, and annotated ones besides each object's first; None: all."""
    phase: int | None = None
    """None: count from the last memory frame. A number: frames whose position plus it divides by `every` enter, as in
    the official DAVIS script."""


def pad_to_stride(image_CHW: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Pad with zeros to multiples of 16, half on each side, the larger half right and below.

    Returns:
        the padded tensor and the padding (left, right, top, bottom).
    """
    height, width = image_CHW.shape[-2:]
    vertical, horizontal = -height % STRIDE, -width % STRIDE
    padding = (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2)
    return torch.nn.functional.pad(image_CHW, padding), padding


def unpad(image_CHW: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Undo `pad_to_stride`."""
    left, right, top, bottom = padding
    return image_CHW[..., top : image_CHW.shape[-2] - bottom, left : image_CHW.shape[-1] - right]


def propagate(
    network: Network,
    encode: Callable[[int], tuple[Tensor, Features]],
    frames: Sequence[int],
    annotations: Mapping[int, Mapping[int, Tensor]],
    num_objects: int,
    *,
    rule: MemoryRule | None = None,
    wanted: Collection[int] | None = None,
    limits: Callable[[int], Tensor | None] | None = None,
    sparse: bool = False,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (frame, probability) from the first annotated frame on, in the order of `frames`.

    Args:
        network: the network.
        encode: gives a frame's padded, normalised image (1, 3, H, W) and its features; called once a frame, in order.
        frames: the frames to go through, ascending for forward, descending for backward propagation.
        annotations: {frame: {object position 0…K-1: mask (H, W), padded, 0/1}}.
        num_objects: K.
        rule: what enters the memory; the paper's by default.
        wanted: frames to yield; frames that are neither wanted nor remembered are not computed, unless the network
            has to see every one. None: all.
        limits: gives 1 where objects may lie on a frame and 0 elsewhere, (K, H, W), padded, or None. None: anywhere.
        sparse: masks are points: they are remembered as they are, and their frame is predicted by what it remembers.

    Yields:
        probability: (K + 1, H, W) after soft aggregation, background first; 0 for objects not annotated yet.
    """
    rule = rule or MemoryRule()
    steps = make_steps(network, num_objects)
    bank = MemoryBank(num_objects, max_frames=rule.max_frames)
    enabled: list[int] = []
    last = 0
    for position, frame in enumerate(frames):
        masks = annotations.get(frame, {})
        if not enabled and not masks:
            continue
        ends = position == len(frames) - 1
        due = position - last >= rule.every if rule.phase is None else (position + rule.phase) % rule.every == 0
        remembers = bool(enabled) and not masks and not ends and due
        is_wanted = wanted is None or frame in wanted
        if not (is_wanted or masks or remembers or rule.include_last or steps.needs_every_frame):
            continue
        image, features = encode(frame)
        limit = None if limits is None else limits(frame)
        # Where every object's mask is given, there is nothing to predict.
        unknown = [known for known in enabled if known not in masks]
        probability = _predict(steps, bank, features, enabled if unknown else [], num_objects, rule.top_k, image, limit)
        if masks:
            enabled = sorted({*enabled, *masks})
            last = position
            probability = _place(probability, masks) if sparse else _annotate(probability, masks)
        if (masks and (sparse or not ends)) or (not ends and (remembers or rule.include_last)):
            value_KChw = steps.values(image, features, _of(probability[1:], enabled))
            bank.add(
                features.key_BChw[0].flatten(1).T, value_KChw.flatten(2).transpose(1, 2), enabled,
                permanent=bool(masks), temporary=not (masks or remembers),
            )  # fmt: skip
        if masks and sparse:
            probability = _predict(steps, bank, features, enabled, num_objects, rule.top_k, image, limit)
        steps.take_note(image, probability[1:], masks)
        if is_wanted:
            yield frame, probability
        if remembers:
            last = position


def _predict(
    steps: Steps,
    bank: MemoryBank,
    features: Features,
    enabled: list[int],
    num_objects: int,
    top_k: int,
    image: Tensor,
    limit_KHW: Tensor | None,
) -> Tensor:
    """Return the aggregated probabilities (K + 1, H, W) of a frame by what the memory holds."""
    probability = image.new_zeros(num_objects + 1, *image.shape[-2:], dtype=torch.float32)
    if not enabled:
        probability[0] = 1
        return probability
    query_QC = features.key_BChw[0].flatten(1).T
    readout_KQC = bank.read(query_QC, enabled, top_k)
    readout_KChw = readout_KQC.transpose(1, 2).reshape(len(enabled), -1, *features.key_BChw.shape[-2:])
    found_KHW = steps.predict(readout_KChw, image, features, enabled)
    if limit_KHW is not None:
        found_KHW = found_KHW * _of(limit_KHW, enabled)
    aggregated = aggregate(found_KHW)
    if len(enabled) == num_objects:
        return aggregated
    probability[0] = aggregated[0]
    probability[[position + 1 for position in enabled]] = aggregated[1:]
    return probability


def _of(maps_KHW: Tensor, objects: list[int]) -> Tensor:
    """Return the maps of some objects; of all, without an index, for whose copy a GPU would be waited for."""
    return maps_KHW if len(objects) == len(maps_KHW) else maps_KHW[objects]


def _annotate(probability: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    """Let given masks overrule a frame's prediction: their pixels belong to nobody else, then all is aggregated."""
    objects = probability[1:].clone()
    covered = torch.stack(list(masks.values())).amax(0) > 0.5
    objects[:, covered] = 0
    for position, mask in masks.items():
        objects[position] = mask.float()
    return aggregate(objects)


def _place(probability: Tensor, points: Mapping[int, Tensor]) -> Tensor:
    """Return a frame's prediction with points in place of some objects'; the background is not used."""
    placed = probability.clone()
    for position, mask in points.items():
        placed[position + 1] = mask.float()
    return placed
