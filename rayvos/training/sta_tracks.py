"""Which objects STA learns from: those that are seen on enough frames of a data set's clips, or of generated ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import InputError
from rayvos.masks.boxes import mask_to_box
from rayvos.training.datasets import ObjectFrame, ObjectPicture, TrainingData, open_objects
from rayvos.video.synthetic import SynthConfig, generate_clip
from rayvos.video.synthetic_textures import PROGRAMS

__all__ = ["MIN_AREA", "Track", "find_tracks", "generated_sample", "generated_track", "split_tracks"]

MIN_AREA = 11  # pixels of a mask that counts as seen; STA, training code
HELD_OUT_PROGRAMS = ("cells", "bricks")  # textures that validation uses and training on generated clips never sees
SYNTH_FRAMES = 10
SAMPLES_PER_CLIP = 24  # of a generated clip: drawing it costs more than cropping from it
CLIPS_AT_ONCE = 8  # take turns, so that a batch shows several scenes; each is drawn once in a process
ATTEMPTS = 8  # at generated clips, to find one with an object that is seen long enough


@dataclass(frozen=True, slots=True)
class Track:
    """An object that is seen on enough frames."""

    objects: tuple[ObjectFrame, ...]
    """By frame."""


@lru_cache(maxsize=8)
def find_tracks(data: TrainingData, num_frames: int) -> list[Track]:
    """Return the objects that are seen often enough.

    Raises:
        InputError: there is none.
    """
    objects = open_objects(data, MIN_AREA).objects
    tracks = _grouped(objects, num_frames)
    if not tracks:
        raise InputError(
            f"training data {', '.join(data.manifests)}: expected objects with masks on more than {2 * num_frames} "
            f"frames, found none in {len(objects)} masks; label more frames, or lower num_frames"
        )
    return tracks


@lru_cache(maxsize=8)
def split_tracks(data: TrainingData, num_frames: int) -> tuple[list[Track], list[Track]]:
    """Return objects to learn from and objects held back, of different clips; none is, where none would be left."""
    learnt, held_out = (_grouped(objects, num_frames) for objects in open_objects(data, MIN_AREA).split())
    return (learnt, held_out) if learnt else (find_tracks(data, num_frames), [])


def _grouped(objects: Sequence[ObjectFrame], num_frames: int) -> list[Track]:
    by_object: dict[tuple[int, int], list[ObjectFrame]] = defaultdict(list)
    for found in objects:
        by_object[found.clip, found.object_id].append(found)
    return [
        Track(tuple(sorted(frames, key=lambda found: found.frame)))
        for _, frames in sorted(by_object.items())
        if len(frames) > 2 * num_frames
    ]


def generated_sample(seed: int, index: int, num_frames: int) -> list[ObjectPicture]:
    """Return the frames of an object that sample `index` shows; neighbouring samples are of different clips."""
    block, place = divmod(index, CLIPS_AT_ONCE * SAMPLES_PER_CLIP)
    slot, number = divmod(place, CLIPS_AT_ONCE)
    return generated_track(seed, block * CLIPS_AT_ONCE + number, slot, num_frames, validating=False)


def generated_track(seed: int, number: int, slot: int, num_frames: int, *, validating: bool) -> list[ObjectPicture]:
    """Return the frames of an object of a generated clip."""
    for attempt in range(ATTEMPTS):
        tracks = _generated_clip(seed, number * ATTEMPTS + attempt, num_frames, validating)
        if tracks:
            return tracks[slot % len(tracks)]
    raise AssertionError(f"no object is seen on {2 * num_frames + 1} frames of {ATTEMPTS} generated clips")


@lru_cache(maxsize=2 * CLIPS_AT_ONCE)
def _generated_clip(seed: int, number: int, num_frames: int, validating: bool) -> list[list[ObjectPicture]]:
    """Return the objects of a generated clip, each frame by frame."""
    programs = tuple(name for name in PROGRAMS if (name in HELD_OUT_PROGRAMS) == validating)
    config = SynthConfig(num_frames=max(SYNTH_FRAMES, 2 * num_frames + 2), programs=programs)
    clip = generate_clip(seed, number, config)
    tracks = []
    for known in clip.objects:
        masks: list[NDArray[np.bool_]] = [label_map == known.object_id for label_map in clip.labels]
        pictures = [
            ObjectPicture(image, mask.astype(np.uint8), box)
            for image, mask in zip(clip.images, masks, strict=True)
            if mask.sum() >= MIN_AREA and (box := mask_to_box(mask)) is not None
        ]
        if len(pictures) > 2 * num_frames:
            tracks.append(pictures)
    return tracks
