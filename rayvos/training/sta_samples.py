"""What STA learns from: a few frames of one object, each cropped around a jittered box, with the true masks.

Source: STA, training code. Frames are drawn from a window behind a base frame, with replacement; the tight box of the
true mask is the input, and a jittered one decides where the crop lies only. The crop has five times the box's extent
and the aspect ratio of the network's input, and is moved into the frame as at inference.
Differs: no extra pixel is repeated at the right and lower border of a crop that touches the frame's (the authors' do).

Boxes of this module are `x, y, width, height`, as in `engines/sta/crops.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.sta.crops import cut_edges_repeated, moved_inside, paint_box
from rayvos.training.datasets import ObjectPicture

__all__ = ["FrameCrop", "StaAugmentation", "StaSample", "crop_sample", "draw_frames", "place_frame_crop"]

BASE_WINDOW, WINDOW_GROWTH = 100, 5  # frames; STA, training code

Rng = np.random.Generator
XYWH = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaAugmentation:
    """How samples differ from the clips they are of; the defaults are the authors'."""

    context: float = 5.0
    """Extent of the crop in extents of the jittered box."""
    size_jitter: float = 0.25
    """Deviation of the logarithm of the jittered box's sides."""
    place_jitter: float = 3.0
    """Range of the jittered box's centre, in its own extents."""
    grey_share: float = 0.05
    """Share of the samples without colour."""
    flip_share: float = 0.5
    """Share of the samples that are mirrored."""
    brightness: float = 0.2
    """Largest change of a frame's brightness, as a share."""

    @classmethod
    def nothing(cls, context: float) -> StaAugmentation:
        """Return crops around the true boxes, as at inference."""
        return cls(context=context, size_jitter=0, place_jitter=0, grey_share=0, flip_share=0, brightness=0)


@dataclass(frozen=True, slots=True, eq=False)
class StaSample:
    """T frames of one object, crops of one size."""

    crops: NDArray[np.uint8]
    """(T, H, W, 3) RGB."""
    boxes: NDArray[np.bool_]
    """(T, H, W): the true mask's tight box, painted."""
    labels: NDArray[np.uint8]
    """(T, H, W): 1 on the object, 0 elsewhere, `IGNORE` where nobody knows."""
    brightness: NDArray[np.float32]
    """(T,): what the crops' values are to be multiplied by."""


@dataclass(frozen=True, slots=True)
class FrameCrop:
    """Where a crop lies in its frame; it may stick out."""

    left: int
    top: int
    width: int
    height: int

    def inside(self, box: XYWH, size: tuple[int, int]) -> XYWH:
        """Return a box of the frame in pixels of the crop, resized to `size` (height, width)."""
        scale = np.array([size[1] / self.width, size[0] / self.height])
        return np.concatenate([(box[:2] - [self.left, self.top]) * scale, box[2:] * scale])

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the crop's own pixels, edges repeated."""
        return cut_edges_repeated(image, self.top, self.top + self.height, self.left, self.left + self.width)


def draw_frames(visible: Sequence[int], num_frames: int, rng: Rng) -> list[int]:
    """Return frames of a sample, ascending; a frame may be there twice.

    Args:
        visible: the frames where the object is seen, ascending; at least two. The last one is no base: nothing follows.
        num_frames: frames of the sample.
        rng: source of the draws.
    """
    position = int(rng.integers(len(visible) - 1))
    base, later = visible[position], visible[position + 1 :]
    window = BASE_WINDOW
    while later[0] >= base + window:
        window += WINDOW_GROWTH
    near = [frame for frame in later if frame < base + window]
    return sorted([base, *(int(frame) for frame in rng.choice(near, num_frames - 1))])


def place_frame_crop(box: XYWH, frame_size: tuple[int, int], size: tuple[int, int], context: float) -> FrameCrop:
    """Return the crop for a box.

    Args:
        box: `x, y, width, height` in pixels of the frame.
        frame_size: (height, width) of the frame.
        size: (height, width) of the network's input.
        context: extent of the crop in extents of the box.
    """
    x, y, width, height = box.astype(np.float32).tolist()
    output = np.array(size[::-1], np.float32)
    extent = np.sqrt(np.float32(width) * np.float32(height) / (output[0] * output[1]))
    wanted = np.ceil(output * extent * np.float32(context)).astype(np.float64)
    shrink = max(1.0, float((wanted / np.array(frame_size[::-1])).min()))
    crop_width, crop_height = (max(1, int(side)) for side in np.floor(wanted / shrink))
    left, top = round(x + 0.5 * width - 0.5 * crop_width), round(y + 0.5 * height - 0.5 * crop_height)
    left, _ = moved_inside(left, left + crop_width, frame_size[1])
    top, _ = moved_inside(top, top + crop_height, frame_size[0])
    return FrameCrop(left, top, crop_width, crop_height)


def crop_sample(
    pictures: Sequence[ObjectPicture], size: tuple[int, int], augmentation: StaAugmentation, rng: Rng
) -> StaSample:
    """Return the sample that pictures of one object make.

    Args:
        pictures: the object on each frame.
        size: (height, width) of the crops.
        augmentation: how they are changed: colour and mirror together, place and brightness each frame by itself.
        rng: source of the draws.
    """
    grey = rng.uniform() < augmentation.grey_share
    mirrored = rng.uniform() < augmentation.flip_share
    shape = (len(pictures), *size)
    crops, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    boxes = np.empty(shape, np.bool_)
    for number, picture in enumerate(pictures):
        x0, y0, x1, y1 = picture.box.astype(np.float64).tolist()
        box = np.array([x0, y0, x1 - x0, y1 - y0])
        around = _jittered(box, augmentation, rng)
        crop = place_frame_crop(around, picture.labels.shape, size, augmentation.context)
        width_height = (size[1], size[0])
        crops[number] = cv2.resize(crop.cut(picture.image), width_height, interpolation=cv2.INTER_LINEAR)
        labels[number] = cv2.resize(crop.cut(picture.labels), width_height, interpolation=cv2.INTER_NEAREST)
        boxes[number] = paint_box(crop.inside(box, size), size)
    if grey:
        crops[:] = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops])[..., None]
    if mirrored:
        crops, labels, boxes = crops[:, :, ::-1].copy(), labels[:, :, ::-1].copy(), boxes[:, :, ::-1].copy()
    factor = augmentation.brightness
    return StaSample(crops, boxes, labels, rng.uniform(1 - factor, 1 + factor, len(pictures)).astype(np.float32))


def _jittered(box: XYWH, augmentation: StaAugmentation, rng: Rng) -> XYWH:
    """Return the box that decides where the crop lies."""
    sides = box[2:] * np.exp(augmentation.size_jitter * rng.standard_normal(2))
    centre = box[:2] + 0.5 * box[2:]
    centre = centre + np.sqrt(sides.prod()) * augmentation.place_jitter * (rng.uniform(size=2) - 0.5)
    return np.concatenate([centre - 0.5 * sides, sides])
