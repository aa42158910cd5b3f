"""The samples that the guided segmenter is sharpened with for one object, by the masks that a person gave of it.

The planes of a crop are costly (cuts and flow), so each mask gets a few crops under differently jittered boxes once,
and the steps take turns with them, in other light and mirrored. The mask itself is never among the planes: the
network would learn to copy it.
Array layouts: C planes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import FrameReader
from rayvos.engines.cut.frame_flows import read_frame_flows
from rayvos.engines.finetune import TuningSample, finetune_network, gamma_curve, object_generator, tune_objects
from rayvos.engines.guided.clip_prompts import ClipPrompts
from rayvos.engines.guided.guidance import OFFSETS, UNIT, Prompt, guidance_planes
from rayvos.engines.guided.network import MIRRORED, GuidedSegmenter
from rayvos.masks.boxes import jitter_box, mask_to_box
from rayvos.masks.rle import rle_to_mask
from rayvos.models.guided import GuidedOutput

__all__ = ["GuidedSamples", "MaskCrop", "mirror_planes", "relight_planes", "sharpen_segmenters"]

BOX_JITTER = 0.05  # PReMVOS, fine-tuning
CROPS_PER_OBJECT = 12  # some 0.1 s each


@dataclass(frozen=True, slots=True, eq=False)
class MaskCrop:
    """A mask that a person gave, as one crop shows it."""

    planes: NDArray[np.int8]
    """(C, size, size)."""
    truth: NDArray[np.uint8]
    """(size, size), 1 on the object."""


def sharpen_segmenters(
    base: GuidedSegmenter,
    clip: Clip,
    images: FrameReader,
    masks: Sequence[MaskPrompt],
    *,
    steps: int,
    learning_rate: float,
    seed: int,
) -> dict[int, GuidedSegmenter]:
    """Return a segmenter for each object that has masks, sharpened with them from the same start.

    Args:
        base: where all of them start; it stays as it is.
        clip: the clip.
        images: its frames.
        masks: of people, with pixels.
        steps: per object.
        learning_rate: of Adam.
        seed: with clip and object, of the random numbers.

    Raises:
        InputError: a frame or a mask cannot be read.
    """
    crops = _mask_crops(clip, images, masks, base.size, seed)

    def job(object_id: int) -> Callable[[], nn.Module]:
        draw = GuidedSamples(crops[object_id])
        return lambda: finetune_network(
            base.network, draw,
            num_masks=len(crops[object_id]), logits=_logits, steps=steps, learning_rate=learning_rate,
            generator=object_generator(seed, clip.clip_id, object_id),
        )  # fmt: skip

    networks = tune_objects({object_id: job(object_id) for object_id in crops}, base.device)
    return {object_id: base.with_network(network) for object_id, network in networks.items()}


def _logits(network: nn.Module, planes_BCHW: Tensor) -> Tensor:
    output: GuidedOutput = network(planes_BCHW)
    return output.logits_BHW


def _mask_crops(
    clip: Clip, images: FrameReader, masks: Sequence[MaskPrompt], size: int, seed: int
) -> dict[int, list[list[MaskCrop]]]:
    """Return the crops of each mask of each object; masks without a pixel are left out."""
    wanted: dict[int, list[MaskPrompt]] = {}
    counts: dict[int, int] = {}
    for mask in masks:
        wanted.setdefault(mask.frame, []).append(mask)
        counts[mask.object_id] = counts.get(mask.object_id, 0) + 1
    prompts = ClipPrompts(clip)
    found: dict[int, list[list[MaskCrop]]] = {}
    for shot in read_frame_flows(images, sorted(wanted), OFFSETS):
        given = prompts.on(shot.frame)
        for mask in wanted[shot.frame]:
            assert mask.rle is not None, "the caller chose masks"
            pixels = rle_to_mask(mask.rle, clip.height, clip.width)
            prompt = _without_mask(given.get(mask.object_id), pixels)
            if prompt is None:
                continue
            generator = np.random.default_rng([*_seed_of(seed, clip, mask), 1])
            crops = []
            for number in range(max(2, CROPS_PER_OBJECT // counts[mask.object_id])):
                shown = _jittered(prompt, clip, generator) if number else prompt
                guidance = guidance_planes(shot.image, shown, shot.flows, shot.scale, size)
                if guidance is not None:
                    crops.append(MaskCrop(guidance.planes, _on_crop(pixels, guidance.crop.area, size)))
            if crops:
                found.setdefault(mask.object_id, []).append(crops)
    return found


def _seed_of(seed: int, clip: Clip, mask: MaskPrompt) -> list[int]:
    drawn: list[int] = object_generator(seed, clip.clip_id, mask.object_id).integers(1 << 32, size=2).tolist()
    return [*drawn, mask.frame]


def _without_mask(prompt: Prompt | None, mask: NDArray[np.bool_]) -> Prompt | None:
    """Return what is said of the object besides its mask; where that is nothing, the mask's tight box."""
    if prompt is not None and (prompt.box is not None or prompt.trace or len(_points(prompt))):
        return replace(prompt, previous=None)
    tight = mask_to_box(mask)
    return None if tight is None else Prompt(box=tight)


def _points(prompt: Prompt) -> NDArray[np.float64]:
    return np.zeros((0, 2)) if prompt.positives is None else prompt.positives


def _jittered(prompt: Prompt, clip: Clip, generator: np.random.Generator) -> Prompt:
    if prompt.box is None:
        return prompt
    return replace(prompt, box=jitter_box(prompt.box, BOX_JITTER, clip.height, clip.width, generator))


def _on_crop(mask: NDArray[np.bool_], area: tuple[int, int, int, int], size: int) -> NDArray[np.uint8]:
    x0, y0, x1, y1 = area
    shown = cv2.resize(mask[y0:y1, x0:x1].astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(shown >= 0.5).astype(np.uint8)


class GuidedSamples:
    """Draws the samples of one object; a `finetune.Draw`."""

    def __init__(self, crops: Sequence[Sequence[MaskCrop]]) -> None:
        self._crops = crops

    def __call__(self, number: int, generator: np.random.Generator) -> TuningSample:
        """Return mask `number` in one of its crops, in other light, mirrored half of the time."""
        crops = self._crops[number]
        crop = crops[int(generator.integers(len(crops)))]
        planes, truth = relight_planes(crop.planes, generator), crop.truth
        if generator.uniform() < 0.5:
            planes, truth = mirror_planes(planes), np.ascontiguousarray(truth[:, ::-1])
        inputs_CHW = torch.from_numpy(planes).float() / UNIT
        return TuningSample(inputs_CHW, torch.from_numpy(truth).float())


def mirror_planes(planes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return planes (C, H, W) mirrored left to right: horizontal motion changes its sign."""
    mirrored = np.ascontiguousarray(planes[:, :, ::-1])
    mirrored[MIRRORED] *= -1
    return mirrored


def relight_planes(planes: NDArray[np.int8], generator: np.random.Generator) -> NDArray[np.int8]:
    """Return planes (C, H, W) whose picture was taken with another gamma."""
    levels = np.clip(np.rint((np.arange(-128, 128) / UNIT + 1) * 127.5), 0, 255).astype(np.uint8)
    table = np.rint((gamma_curve(generator)[levels] / 127.5 - 1) * UNIT).astype(np.int8)
    relit = planes.copy()
    relit[:3] = table[planes[:3].astype(np.int16) + 128]
    return relit
