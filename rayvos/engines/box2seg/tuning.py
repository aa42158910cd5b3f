"""What the box-guided segmenter sees of a crop, and the samples it is sharpened with for one object.

Source: Box2Seg, with the augmentations of the refinement network it re-uses: jitter the box, paint it, add the margin,
crop, resize, gamma, flip.
Array layouts: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import FrameReader
from rayvos.engines.finetune import TuningSample, gamma_curve
from rayvos.masks.boxes import JITTER_CLIP, IntBox, Margin, crop_around, jitter_box, paint_guidance, round_box
from rayvos.models.box2seg import normalise_crops

__all__ = ["Box2SegSamples", "encode_crop", "read_examples"]

BOX_JITTER = 0.05  # PReMVOS, fine-tuning


@dataclass(frozen=True, slots=True, eq=False)
class MaskExample:
    """A mask that a person gave, with as much of its frame as any jittered crop can show."""

    box: NDArray[np.float32]
    """(4,) xyxy edges in the frame: the given box, or the tight one of the mask."""
    window: IntBox
    """The part of the frame that is kept."""
    image: NDArray[np.uint8]
    """RGB of the window."""
    mask: NDArray[np.bool_]
    """Of the window."""
    height: int
    """Of the frame."""
    width: int


def encode_crop(image: NDArray[np.uint8], pixels: IntBox, area: IntBox, size: int) -> NDArray[np.uint8]:
    """Return the network's input (size, size, 4): RGB, and 1 inside the box.

    Args:
        image: RGB of the crop, resized on both axes independently.
        pixels: the rounded box.
        area: where the crop lies in the frame.
        size: of the network.
    """
    resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    guidance = paint_guidance(pixels, area, size).astype(np.uint8)
    found = np.empty((size, size, 4), np.uint8)
    cv2.mixChannels([resized, guidance], [found], [0, 0, 1, 1, 2, 2, 3, 3])  # ten times as fast as np.dstack
    return found


def read_examples(
    clip: Clip, images: FrameReader, masks: Iterable[MaskPrompt], margin: Margin
) -> dict[int, list[MaskExample]]:
    """Return the examples of each object, by frame; masks without a pixel show nothing and are left out.

    Raises:
        InputError: a frame or a mask cannot be read.
    """
    from rayvos.masks.rle import rle_box, rle_to_mask  # pycocotools, which labelling from boxes does not need

    boxes = {(box.frame, box.object_id): box for box in clip.boxes if box.visible}
    wanted: dict[int, list[MaskPrompt]] = {}
    for mask in masks:
        wanted.setdefault(mask.frame, []).append(mask)
    found: dict[int, list[MaskExample]] = {}
    for frame, image in images.read(sorted(wanted)):
        for prompt in wanted[frame]:
            assert prompt.rle is not None, "the caller chose masks"
            given = boxes.get((frame, prompt.object_id))
            corners = rle_box(prompt.rle, clip.height, clip.width)
            if corners is None:
                continue
            if given is not None:
                corners = np.array([given.x0, given.y0, given.x1, given.y1], np.float32)
            example = _example(image, rle_to_mask(prompt.rle, clip.height, clip.width), corners, margin)
            if example is not None:
                found.setdefault(prompt.object_id, []).append(example)
    return found


def _example(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], box: NDArray[np.float32], margin: Margin
) -> MaskExample | None:
    height, width = mask.shape
    reach = JITTER_CLIP * BOX_JITTER * np.array([box[2] - box[0], box[3] - box[1]])
    farthest = round_box(np.concatenate([box[:2] - reach, box[2:] + reach]).astype(np.float32), height, width)
    if round_box(box, height, width) is None or farthest is None:
        return None
    x0, y0, x1, y1 = window = crop_around(farthest, margin, height, width)
    kept = np.ascontiguousarray(image[y0:y1, x0:x1]), np.ascontiguousarray(mask[y0:y1, x0:x1])
    return MaskExample(box, window, *kept, height, width)


class Box2SegSamples:
    """Draws the samples of one object; a `finetune.Draw`."""

    def __init__(self, examples: Sequence[MaskExample], margin: Margin, size: int) -> None:
        self._examples, self._margin, self._size = examples, margin, size

    def __call__(self, number: int, generator: np.random.Generator) -> TuningSample:
        """Return mask `number` under a jittered box, in other light, mirrored half of the time."""
        example = self._examples[number]
        box = jitter_box(example.box, BOX_JITTER, example.height, example.width, generator)
        pixels = round_box(box, example.height, example.width) or round_box(example.box, example.height, example.width)
        assert pixels is not None, "examples touch their frame"
        area = crop_around(pixels, self._margin, example.height, example.width)
        left, top = example.window[:2]
        inside = (slice(area[1] - top, area[3] - top), slice(area[0] - left, area[2] - left))
        crop = encode_crop(example.image[inside], pixels, area, self._size)
        crop[..., :3] = gamma_curve(generator)[crop[..., :3]]
        shown = example.mask[inside].astype(np.uint8)
        truth = cv2.resize(shown, (self._size, self._size), interpolation=cv2.INTER_NEAREST)
        if generator.uniform() < 0.5:
            crop, truth = crop[:, ::-1], truth[:, ::-1]
        inputs_BCHW = normalise_crops(torch.from_numpy(np.ascontiguousarray(crop)[None]))
        return TuningSample(inputs_BCHW[0], torch.from_numpy(np.ascontiguousarray(truth)).float())
