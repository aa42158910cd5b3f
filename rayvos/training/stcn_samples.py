"""Samples for STCN: three annotated frames of a clip, or three warps of one, and what is known of them.

Source: STCN and Point-STCN, training: at most two objects, frames at most `GAPS` annotated frames apart (far ones from
a tenth of the run on, near ones again at its end), either way in time, up to five tries to find an object on the
first frame. A sample without any is passed over for the next clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import InputError
from rayvos.masks.ignore import IGNORE
from rayvos.masks.points import draw_discs
from rayvos.training.vos_augment import STATIC, Warp, draw_clip_look, show_frame
from rayvos.training.vos_clips import FrameView, VosClips

__all__ = ["ClipSample", "SampleRule", "draw_clip_sample", "reference_map"]

Rng = np.random.Generator
NUM_FRAMES = 3
GAPS = ((0.0, 5), (0.1, 10), (0.2, 15), (0.3, 20), (0.4, 25), (0.9, 5))
"""From this share of a run on: annotated frames between two frames of a sample, at most."""
TRIES = 5  # official: tries to find a frame with an object
CLIPS_TRIED = 64
LEAST_PIXELS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRule:
    """How samples are cut from clips."""

    size: int
    """Pixels along a side, a multiple of 16."""
    max_objects: int = 2
    static: bool = False
    """Three warps of one frame."""
    from_points: bool = False
    """The reference is points, not a mask."""
    reference_points: int = 10
    """Positives of the reference frame that are shown, at most."""
    target_points: int = 10
    """Points of each kind, object and frame that are learnt from, at most."""
    radius_px: int = 0
    """Of the discs that reference points become; 0: single pixels, as in the paper."""


@dataclass(frozen=True, slots=True, eq=False)
class ClipSample:
    """Three frames."""

    images: NDArray[np.uint8]
    """(3, size, size, 3) RGB."""
    labels: NDArray[np.uint8]
    """(3, size, size): 0, 1…num_objects, `IGNORE`."""
    reference: NDArray[np.float32]
    """(num_objects, size, size): what the first frame tells of each object: its mask, or 1 at its points."""
    point_frame: NDArray[np.int64]
    """Frame 1 or 2 of each target point."""
    point_number: NDArray[np.int64]
    """Object 1…num_objects."""
    point_xy: NDArray[np.float32]
    """(P, 2) pixels."""
    point_positive: NDArray[np.bool_]


def draw_clip_sample(clips: VosClips, rule: SampleRule, seed: int, index: int, share_done: float) -> ClipSample:
    """Return a sample: a pure function of its arguments.

    Args:
        clips: the training set.
        rule: how it is cut.
        seed: of the run.
        index: of the sample.
        share_done: of the run, in [0, 1].

    Raises:
        InputError: a frame cannot be read, or clip after clip shows no object.
    """
    rng = np.random.default_rng([seed, 11, index])
    largest_gap = [gap for start, gap in GAPS if share_done >= start][-1]
    for _ in range(CLIPS_TRIED):
        number = int(rng.integers(len(clips)))
        for _ in range(TRIES):
            chosen = _choose_frames(rng, clips.frames(number), largest_gap, static=rule.static)
            found = _cut(rng, clips.views(number, chosen), rule)
            if found is not None:
                return found
    raise InputError(
        f"training data: {CLIPS_TRIED} clips in a row, the last {clips.name(number)!r}, show no object of "
        f"{LEAST_PIXELS} pixels on the first of three frames; are the masks empty?"
    )


def _choose_frames(rng: Rng, frames: Sequence[int], largest_gap: int, *, static: bool) -> list[int]:
    if static:
        return [frames[int(rng.integers(len(frames)))]] * NUM_FRAMES
    place = int(rng.integers(len(frames)))
    places = [place]
    for _ in range(NUM_FRAMES - 1):
        reach = range(max(0, places[-1] - largest_gap), min(len(frames), places[-1] + largest_gap + 1))
        free = [other for other in reach if other not in places] or [other for other in reach if other != places[-1]]
        places.append(int(rng.choice(free)))
    places = sorted(places)
    if rng.uniform() < 0.5:
        places.reverse()
    return [frames[place] for place in places]


def _cut(rng: Rng, views: Sequence[FrameView], rule: SampleRule) -> ClipSample | None:
    """Return a sample of these frames, or None where its first frame shows no object."""
    height, width = views[0].labels.shape
    look = draw_clip_look(rng, height, width, rule.size)
    warp = STATIC if rule.static else Warp()
    shown = [show_frame(rng, view, look, warp) for view in views]
    seen = _objects_on(shown[0], from_points=rule.from_points)
    if not seen:
        return None
    chosen = [int(number) for number in rng.permutation(seen)[: rule.max_objects]]
    labels = np.stack([view.labels for view in shown])
    renumbered = np.where(labels == IGNORE, IGNORE, 0).astype(np.uint8)
    for new, old in enumerate(chosen, start=1):
        renumbered[labels == old] = new
    if rule.from_points:
        reference = np.stack(
            [
                reference_map(_places(shown[0], old, rule.reference_points), rule.size, rule.size, rule.radius_px)
                for old in chosen
            ]
        )
    else:
        reference = np.stack([labels[0] == old for old in chosen]).astype(np.float32)
    frame, number, xy, positive = _targets(shown, chosen, rule.target_points)
    return ClipSample(np.stack([view.image for view in shown]), renumbered, reference, frame, number, xy, positive)


def _objects_on(view: FrameView, *, from_points: bool) -> list[int]:
    if from_points:
        return sorted(set(view.points.number_P[view.points.positive_P].tolist()))
    areas = np.bincount(view.labels.ravel(), minlength=IGNORE + 1)[1:IGNORE]
    return [number for number, area in enumerate(areas.tolist(), start=1) if area >= LEAST_PIXELS]


def _places(view: FrameView, number: int, most: int) -> NDArray[np.float64]:
    """Return the first positives of an object: sets of fewer points lie in those of more."""
    points = view.points
    found: NDArray[np.float64] = points.xy_P2[(points.number_P == number) & points.positive_P][:most]
    return found


def reference_map(xy_P2: NDArray[np.float64], height: int, width: int, radius_px: int) -> NDArray[np.float32]:
    """Return a map (height, width) that is 1 at points, within `radius_px` of their pixel, and 0 elsewhere."""
    return draw_discs(np.rint(xy_P2).astype(np.int64), height, width, radius_px).astype(np.float32)


def _targets(
    shown: Sequence[FrameView], chosen: Sequence[int], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    frames, numbers, places, kinds = list[int](), list[int](), list[NDArray[np.float64]](), list[bool]()
    for frame, view in enumerate(shown[1:], start=1):
        points = view.points
        for number, old in enumerate(chosen, start=1):
            for kind in (True, False):
                found = points.xy_P2[(points.number_P == old) & (points.positive_P == kind)][:most]
                frames += [frame] * len(found)
                numbers += [number] * len(found)
                kinds += [kind] * len(found)
                places.append(found)
    xy = np.concatenate(places) if places else np.zeros((0, 2))
    return np.array(frames, np.int64), np.array(numbers, np.int64), xy.astype(np.float32), np.array(kinds, np.bool_)
