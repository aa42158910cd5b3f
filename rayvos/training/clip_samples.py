"""Clips of three frames for networks that propagate: drawn from annotated clips, moved and coloured, cut to a square.

Source: STCN, training (frame distances that grow and shrink during a run, augmentation per clip and per frame, a clip
of one annotated picture seen three times as in static pre-training), and Point-VOS for points.
Differs: one affine warp per frame does the work of crop, mirror, rotation and shear; thin-plate warps of static
pictures are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip, Point
from rayvos.errors import InputError
from rayvos.masks.boxes import round_box
from rayvos.masks.ignore import IGNORE
from rayvos.masks.rle import rle_to_mask
from rayvos.training.augment import jitter_colours
from rayvos.training.datasets import TrainingData
from rayvos.video.source import open_clip
from rayvos.video.synthetic import SynthConfig, SyntheticClip, generate_clip

__all__ = [
    "AnnotatedClip", "ClipSample", "FrameRecord", "Warping", "draw_clip_sample", "open_annotated_clips",
    "synthetic_clip",
]  # fmt: skip

NUM_FRAMES = 3
MAX_OBJECTS = 2  # of a sample, as in the official training
MEAN_COLOUR = (124, 116, 104)  # ImageNet's, for what lies outside the picture
LEAST_PIXELS = 16  # of an object on the reference frame of the sample
TRIES = 5  # at frames, objects and warps, to find a sample whose reference frame shows an object
SYNTH_FRAMES = 10

Rng = np.random.Generator
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class FrameRecord:
    """What is known of one frame."""

    image: Image
    """RGB (height, width, 3)."""
    labels: Image
    """(height, width) object ids, 0 background, `IGNORE` where nobody knows."""
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """A clip of a manifest, and the frames that say something."""

    clip: Clip
    frames: tuple[int, ...]
    """With masks, or with points where those are asked for; ascending."""

    def read(self, frames: Sequence[int]) -> list[FrameRecord]:
        """Return frames, in the order given.

        Raises:
            InputError: a frame cannot be read; names clip and frame.
        """
        with open_clip(self.clip, decode_threads=1) as reader:
            images = dict(reader.read(sorted(set(frames))))
        return [FrameRecord(images[frame], self._labels(frame), self._points(frame)) for frame in frames]

    def _labels(self, frame: int) -> Image:
        clip = self.clip
        found = np.zeros((clip.height, clip.width), np.uint8)
        masks = [mask for mask in clip.masks if mask.frame == frame]
        masked = {mask.object_id for mask in masks}
        for box in clip.boxes:
            if box.frame == frame and box.visible and box.object_id not in masked:
                sides = np.array([box.x0, box.y0, box.x1, box.y1], np.float32)
                pixels = round_box(sides, clip.height, clip.width)
                if pixels is not None:
                    found[pixels[1] : pixels[3], pixels[0] : pixels[2]] = IGNORE
        for mask in sorted(masks, key=lambda mask: -mask.object_id):  # of two objects at a pixel the lower id shows
            if mask.rle is not None:
                found[rle_to_mask(mask.rle, clip.height, clip.width)] = mask.object_id
        return found

    def _points(self, frame: int) -> tuple[Point, ...]:
        return tuple(point for point in self.clip.points if point.frame == frame and point.label != "ambiguous")


@lru_cache(maxsize=4)
def open_annotated_clips(data: TrainingData, *, with_masks: bool, with_points: bool) -> tuple[AnnotatedClip, ...]:
    """Return the clips of prepared data that can be learnt from, opened once in a process.

    Args:
        data: manifests.
        with_masks: frames need masks.
        with_points: frames need positive points.

    Raises:
        InputError: no clip has what is needed, or an id leaves no room for the ignore value.
    """
    clips = [clip for path in data.manifests for clip in ManifestFile(path)]
    found = []
    for clip in clips:
        frames = set(range(clip.num_frames))
        if with_masks:
            frames &= {mask.frame for mask in clip.masks if mask.rle is not None}
        if with_points:
            frames &= {point.frame for point in clip.points if point.label == "positive"}
        if max(clip.object_ids(), default=0) >= IGNORE:
            raise InputError(f"clip {clip.clip_id!r}: object ids from {IGNORE} on cannot be trained on")
        if frames:
            found.append(AnnotatedClip(clip, tuple(sorted(frames))))
    if not found:
        kind = " and ".join(["masks"] * with_masks + ["positive points"] * with_points)
        raise InputError(
            f"training data {', '.join(data.manifests)}: expected clips with {kind} on the same frames, found none in "
            f"{len(clips)} clips; label them first, or draw points with `rayvos simulate-points`"
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SyntheticFrames:
    """A generated clip, seen as an annotated one."""

    made: SyntheticClip
    frames: tuple[int, ...]

    def read(self, frames: Sequence[int]) -> list[FrameRecord]:
        """Return frames, in the order given."""
        made = self.made
        return [
            FrameRecord(
                made.images[frame], made.labels[frame], tuple(point for point in made.points if point.frame == frame)
            )
            for frame in frames
        ]


@lru_cache(maxsize=2)
def synthetic_clip(seed: int, index: int, programs: tuple[str, ...]) -> SyntheticFrames:
    """Return a generated clip; those used last are kept, since drawing one costs more than a sample."""
    made = generate_clip(seed, index, SynthConfig(num_frames=SYNTH_FRAMES, num_objects=2, programs=programs))
    return SyntheticFrames(made, tuple(range(SYNTH_FRAMES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Warping:
    """How far frames are moved and coloured; all zero and whole: the middle of the clip as it is."""

    smallest_area: float = 0.36
    """Of the crop, as a share of the frame."""
    mirror: float = 0.5
    """Share of the samples that are mirrored."""
    rotation: float = 15.0
    """Degrees, each frame by itself."""
    shear: float = 10.0
    """Degrees, each frame by itself."""
    colour: float = 0.1
    """Of the whole clip; a tenth of it for each frame by itself."""
    grey: float = 0.05
    """Share of the samples without colour."""
    reverse: float = 0.5
    """Share of the samples whose time runs backwards."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipSample:
    """Three frames, objects renumbered 1…K; frame 0 is the reference."""

    images: Image
    """(3, size, size, 3) RGB."""
    labels: Image
    """(3, size, size): 0 background and other objects, 1…K, `IGNORE`."""
    num_objects: int
    """K, at least 1."""
    points: NDArray[np.float32]
    """(N, 5): frame, object 1…K, x, y (the centre of the upper left pixel is 0, 0), 1 positive or 0 negative."""


def draw_clip_sample(
    source: AnnotatedClip | SyntheticFrames,
    rng: Rng,
    *,
    size: int,
    reach: int,
    warping: Warping,
    by_points: bool,
) -> ClipSample | None:
    """Return three frames of a clip; None where none of some tries shows an object on its reference frame.

    Args:
        source: the clip.
        rng: source of all draws.
        size: height and width of the sample.
        reach: annotated frames between two frames of the sample at most; at the end of a clip fewer.
        warping: how far frames are moved.
        by_points: the reference is told by positive points, not by its mask, and comes first in time.
    """
    for _ in range(TRIES):
        frames = _choose_frames(source.frames, reach, rng)
        if not by_points and rng.uniform() < warping.reverse:
            frames = frames[::-1]
        records = source.read(frames)
        warps = _draw_warps(records[0].image.shape[:2], size, warping, rng)
        labels = np.stack(
            [_warp_labels(record.labels, warp, size) for record, warp in zip(records, warps, strict=True)]
        )
        points = [_warp_points(record.points, warp, size) for record, warp in zip(records, warps, strict=True)]
        chosen = _choose_objects(labels[0], points[0], by_points, rng)
        if chosen:
            images = _draw_images(records, warps, size, warping, rng)
            return ClipSample(images, _renumber(labels, chosen), len(chosen), _point_rows(points, chosen))
    return None


def _choose_frames(annotated: tuple[int, ...], reach: int, rng: Rng) -> list[int]:
    """Return three frames in time order; a clip of one or two annotated frames shows some more than once."""
    if len(annotated) < NUM_FRAMES:
        return sorted(annotated[place % len(annotated)] for place in range(NUM_FRAMES))
    step = max(1, min(reach, (len(annotated) - 1) // (NUM_FRAMES - 1)))
    first, second = (int(rng.integers(1, step + 1)) for _ in range(2))
    start = int(rng.integers(0, len(annotated) - first - second))
    return [annotated[start], annotated[start + first], annotated[start + first + second]]


def _draw_warps(shape: tuple[int, ...], size: int, warping: Warping, rng: Rng) -> list[NDArray[np.float64]]:
    """Return for each frame the 2x3 matrix that takes pixels of the frame to pixels of the sample."""
    height, width = shape
    side = math.sqrt(rng.uniform(warping.smallest_area, 1.0)) * min(height, width)
    left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
    if warping.smallest_area == 1:
        left, top = (width - side) / 2, (height - side) / 2
    mirror = -1.0 if rng.uniform() < warping.mirror else 1.0
    scale = size / side
    middle = np.array([left + side / 2 - 0.5, top + side / 2 - 0.5])  # of pixel centres
    warps = []
    for _ in range(NUM_FRAMES):
        angle = math.radians(rng.uniform(-warping.rotation, warping.rotation))
        shear = math.tan(math.radians(rng.uniform(-warping.shear, warping.shear)))
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = scale * np.diag([mirror, 1.0]) @ turn @ np.array([[1.0, shear], [0.0, 1.0]])
        warps.append(np.column_stack([linear, (size - 1) / 2 - linear @ middle]))
    return warps


def _warp_labels(labels: Image, warp: NDArray[np.float64], size: int) -> Image:
    moved = cv2.warpAffine(labels, warp, (size, size), flags=cv2.INTER_NEAREST, borderValue=0)
    return np.asarray(moved, np.uint8)


def _warp_points(
    points: tuple[Point, ...], warp: NDArray[np.float64], size: int
) -> list[tuple[int, float, float, bool]]:
    """Return (object, x, y, positive) of the points that stay inside."""
    found = []
    for point in points:
        x, y = warp @ np.array([point.x, point.y, 1.0])
        if -0.5 <= x <= size - 0.5 and -0.5 <= y <= size - 0.5:
            found.append((point.object_id, float(x), float(y), point.label == "positive"))
    return found


def _choose_objects(
    labels: Image, points: list[tuple[int, float, float, bool]], by_points: bool, rng: Rng
) -> list[int]:
    if by_points:
        seen = sorted({object_id for object_id, _, _, positive in points if positive})
    else:
        counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)[:IGNORE]
        seen = [int(object_id) for object_id in np.flatnonzero(counts >= LEAST_PIXELS) if object_id]
    if len(seen) > MAX_OBJECTS:
        seen = sorted(rng.choice(seen, MAX_OBJECTS, replace=False).tolist())
    return seen


def _draw_images(
    records: list[FrameRecord], warps: list[NDArray[np.float64]], size: int, warping: Warping, rng: Rng
) -> Image:
    grey, seed = rng.uniform() < warping.grey, int(rng.integers(1 << 62))
    images = []
    for record, warp in zip(records, warps, strict=True):
        moved = cv2.warpAffine(record.image, warp, (size, size), flags=cv2.INTER_LINEAR, borderValue=MEAN_COLOUR)
        image = np.asarray(moved, np.uint8)
        if warping.colour:
            image = jitter_colours(image, warping.colour, np.random.default_rng(seed))  # the same for all frames
            image = jitter_colours(image, warping.colour / 10, rng)
        images.append(np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2) if grey else image)
    return np.stack(images)


def _renumber(labels: Image, chosen: list[int]) -> Image:
    table = np.zeros(256, np.uint8)
    table[IGNORE] = IGNORE
    table[chosen] = np.arange(1, len(chosen) + 1)
    renumbered: Image = table[labels]
    return renumbered


def _point_rows(points: list[list[tuple[int, float, float, bool]]], chosen: list[int]) -> NDArray[np.float32]:
    rows = [
        (frame, chosen.index(object_id) + 1, x, y, positive)
        for frame, of_frame in enumerate(points)
        for object_id, x, y, positive in of_frame
        if object_id in chosen
    ]
    return np.array(rows, np.float32).reshape(-1, 5)
