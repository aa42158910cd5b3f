"""Samples for training a propagation network: some frames of a generated clip, cut out, with flow between them.

A sample is a function of the seed, the settings and its index. Clips cost more than all else, so a window of them is
kept and used again and again, each time with other frames and another cut, before the next window is drawn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.motion import dense_flow
from rayvos.video.synthetic import SynthConfig, SyntheticClip, generate_clip

__all__ = ["PropagationSample", "SampleDrawer", "SampleSettings"]

Rng = np.random.Generator

MAX_OBJECTS = 2  # of a sample, as in official training
GAPS, GAP_SHARES = (1, 2, 3, 4, 5), (0.3, 0.25, 0.2, 0.15, 0.1)  # frames between a sample's frames
LEAST_PIXELS = 40  # of an object on the first frame
TRIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """What samples are drawn from generated clips."""

    size: int = 128
    """Pixels along a side of a sample, a multiple of 16."""
    frames: int = 3
    """Frames of a sample, fewer than of a clip."""
    height: int = 240
    """Of the clips."""
    width: int = 432
    """Of the clips."""
    clip_frames: int = 10
    """Frames of a clip."""
    window: int = 48
    """Clips kept at a time."""
    uses: int = 36
    """Samples drawn from a clip."""
    corrupted: float = 0.6
    """Share of samples whose second frame gets a distorted mask from the first, as if propagation had drifted."""


@dataclass(frozen=True, slots=True, eq=False)
class PropagationSample:
    """Some frames of a clip, in order of time or against it."""

    images: NDArray[np.uint8]
    """(frames, size, size, 3) RGB."""
    labels: NDArray[np.uint8]
    """(frames, size, size): 0 background, 1…num_objects."""
    flows: NDArray[np.float32]
    """(frames - 1, 2, size, size): from each frame but the first to the one before, x and y in pixels."""
    previous: NDArray[np.float32]
    """(num_objects, size, size): what the second frame is told of the first's masks."""


class SampleDrawer:
    """Draws samples; holds the clips it used last."""

    def __init__(self, seed: int, settings: SampleSettings) -> None:
        """Take the settings; nothing is drawn yet."""
        self._seed, self._settings = seed, settings
        self._clips: OrderedDict[int, SyntheticClip] = OrderedDict()

    def __reduce__(self) -> tuple[type[SampleDrawer], tuple[int, SampleSettings]]:
        """Travel without the clips."""
        return SampleDrawer, (self._seed, self._settings)

    def draw(self, index: int) -> PropagationSample:
        """Return a sample: a pure function of the seed, the settings and the index."""
        window, uses = self._settings.window, self._settings.uses
        clip = self._clip(index // (window * uses) * window + index % window)
        rng = np.random.default_rng([self._seed, 1, index])
        for _ in range(TRIES):
            sample = self._cut(rng, clip)
            if sample is not None:
                return sample
        return self._cut_anywhere(rng, clip)

    def _clip(self, number: int) -> SyntheticClip:
        if number in self._clips:
            return self._clips[number]
        config = SynthConfig(
            num_frames=self._settings.clip_frames,
            height=self._settings.height,
            width=self._settings.width,
            num_objects=1 + number % 3,
        )
        self._clips[number] = generate_clip(self._seed, number, config)
        while len(self._clips) > self._settings.window:
            self._clips.popitem(last=False)
        return self._clips[number]

    def _cut(self, rng: Rng, clip: SyntheticClip) -> PropagationSample | None:
        frames = self._frames(rng)
        labels = clip.labels[frames[0]]
        seen = [known for known in range(1, len(clip.objects) + 1) if (labels == known).sum() >= LEAST_PIXELS]
        if not seen:
            return None
        y, x = np.nonzero(labels == rng.choice(seen))
        low, high = self._settings.size * 0.8, min(labels.shape)
        side = int(np.exp(rng.uniform(np.log(low), np.log(high))))
        middle = np.array([y.mean(), x.mean()]) + rng.normal(0, 0.15 * side, 2)
        top, left = (
            int(np.clip(place - side / 2, 0, length - side)) for place, length in zip(middle, labels.shape, strict=True)
        )
        return self._sample(rng, clip, frames, (top, left, side))

    def _cut_anywhere(self, rng: Rng, clip: SyntheticClip) -> PropagationSample:
        """Return a sample of the whole height, where no object could be found: nothing is to be propagated then."""
        side = min(self._settings.height, self._settings.width)
        found = self._sample(rng, clip, self._frames(rng), (0, 0, side), strict=False)
        assert found is not None, "a cut without conditions is always there"
        return found

    def _frames(self, rng: Rng) -> list[int]:
        gaps = rng.choice(GAPS, self._settings.frames - 1, p=GAP_SHARES)
        while gaps.sum() >= self._settings.clip_frames:
            gaps = np.maximum(1, gaps - 1)
        start = int(rng.integers(0, self._settings.clip_frames - gaps.sum()))
        frames = [start, *(start + np.cumsum(gaps)).tolist()]
        return frames[::-1] if rng.uniform() < 0.5 else frames

    def _sample(
        self, rng: Rng, clip: SyntheticClip, frames: list[int], square: tuple[int, int, int], *, strict: bool = True
    ) -> PropagationSample | None:
        top, left, side = square
        size, mirrored = self._settings.size, rng.uniform() < 0.5
        images = np.empty((len(frames), size, size, 3), np.uint8)
        ids = np.empty((len(frames), size, size), np.uint8)
        for number, frame in enumerate(frames):
            image = clip.images[frame, top : top + side, left : left + side]
            ids_there = clip.labels[frame, top : top + side, left : left + side]
            images[number] = cv2.resize(image, (size, size), interpolation=_interpolation(side, size))
            ids[number] = cv2.resize(ids_there, (size, size), interpolation=cv2.INTER_NEAREST)
        if mirrored:
            images, ids = images[:, :, ::-1].copy(), ids[:, :, ::-1].copy()
        areas = np.bincount(ids[0].ravel(), minlength=len(clip.objects) + 1)
        seen = [known for known in range(1, len(areas)) if areas[known] >= LEAST_PIXELS]
        if not seen:
            if strict:
                return None
            seen = [1]
        chosen = rng.permutation(seen)[:MAX_OBJECTS]
        labels = np.zeros_like(ids)
        for number, object_id in enumerate(chosen):
            labels[ids == object_id] = number + 1
        grey = [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) for image in images]
        flows = np.stack([dense_flow(later, earlier) for earlier, later in pairwise(grey)])
        flows_2HW = np.ascontiguousarray(flows.transpose(0, 3, 1, 2))
        return PropagationSample(images, labels, flows_2HW, self._previous(rng, labels[0], len(chosen)))

    def _previous(self, rng: Rng, labels: NDArray[np.uint8], num_objects: int) -> NDArray[np.float32]:
        masks = np.stack([labels == number + 1 for number in range(num_objects)]).astype(np.float32)
        if rng.uniform() >= self._settings.corrupted:
            return masks
        for mask in masks:
            mask[:] = _distorted(rng, mask)
        return np.asarray(masks / np.maximum(masks.sum(axis=0), 1), np.float32)


def _interpolation(side: int, size: int) -> int:
    return cv2.INTER_AREA if side > size else cv2.INTER_LINEAR


def _distorted(rng: Rng, mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a mask as propagation may have left it: shifted, grown or shrunk, bent, with a part lost or too much."""
    size = mask.shape[0]
    radius = max(3.0, float(mask.sum()) ** 0.5)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    strength = rng.uniform(0.2, 1)
    noise = rng.normal(0, 1, (4, 4, 2)).astype(np.float32)
    bend = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) * 0.08 * strength * radius
    shift = rng.normal(0, 0.06 * strength * radius, 2)
    scale = np.exp(rng.normal(0, 0.1 * strength))
    rows, columns = np.nonzero(mask)
    middle = (columns.mean(), rows.mean()) if rows.size else (size / 2, size / 2)
    map_x = (x - middle[0]) * scale + middle[0] + shift[0] + bend[..., 0]
    map_y = (y - middle[1]) * scale + middle[1] + shift[1] + bend[..., 1]
    moved = cv2.remap(mask, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)
    blob = cv2.resize(rng.normal(0, 1, (6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    kind = rng.uniform()
    if kind < 0.3:  # a part is lost
        moved = moved * (blob < rng.uniform(0.3, 1.2))
    elif kind < 0.6:  # something near is taken for the object
        near = cv2.GaussianBlur(moved, (0, 0), max(1.0, 0.25 * radius)) > 0.05
        moved = np.maximum(moved, (near & (blob > rng.uniform(0.3, 1.2))).astype(np.float32))
    return np.asarray(cv2.GaussianBlur(moved, (0, 0), float(rng.uniform(0.3, 2.0))), np.float32)
