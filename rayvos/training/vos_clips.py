"""Clips to learn propagation from: annotated frames with label maps or points, of manifests or generated.

A frame counts as annotated where a mask, a point or a box speaks of it. What is known only by its box (a rejected
label, see `datasets.py`) is ignored there. Object ids of a clip are numbered 1…N in the order of its manifest row, so
that they fit a byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip
from rayvos.errors import FormatError, InputError
from rayvos.masks.boxes import round_box
from rayvos.masks.ignore import IGNORE
from rayvos.masks.points import derive_seed, evenly_spaced_frames, simulate_points
from rayvos.masks.rle import rle_area, rle_to_mask
from rayvos.training.datasets import TrainingData
from rayvos.video.source import open_clip
from rayvos.video.synthetic import SynthConfig, SyntheticClip, generate_clip

__all__ = [
    "FrameView",
    "GeneratedClips",
    "GeneratedSettings",
    "ManifestClips",
    "PointSet",
    "Supervision",
    "VosClips",
    "open_clips",
]

Supervision = Literal["masks", "points", "hybrid"]
MAX_OBJECTS = 254
NUM_POINTS = 10  # Point-VOS, per object and frame
CLIPS_KEPT = 64  # generated clips in the memory of a process
CLIPS_CHECKED = 4  # whose frames are read before the first step, to meet wrong paths and sizes early


@dataclass(frozen=True, slots=True, eq=False)
class PointSet:
    """The points of one frame, ambiguous ones left out."""

    number_P: NDArray[np.int64]
    """Object 1…N of each point."""
    xy_P2: NDArray[np.float64]
    """Pixels; the centre of the upper left one is (0, 0)."""
    positive_P: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, float, float, bool]]) -> PointSet:
        """Return the set of (number, x, y, positive) rows."""
        return cls(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1:3] for row in rows], np.float64).reshape(len(rows), 2),
            np.array([row[3] for row in rows], np.bool_),
        )


@dataclass(frozen=True, slots=True, eq=False)
class FrameView:
    """One annotated frame."""

    image: NDArray[np.uint8]
    """RGB (height, width, 3)."""
    labels: NDArray[np.uint8]
    """(height, width): 0 background, 1…N, `IGNORE` where nobody knows. All 0 where only points are given."""
    points: PointSet


class VosClips(Protocol):
    """A training set; small and picklable, what it opens it opens once in a process."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Return what messages call a clip."""
        ...

    def frames(self, number: int) -> tuple[int, ...]:
        """Return the annotated frames of a clip, ascending."""
        ...

    def views(self, number: int, frames: Sequence[int]) -> list[FrameView]:
        """Return annotated frames, in the order asked for.

        Raises:
            InputError: a frame cannot be read; names clip and frame.
        """
        ...


class ManifestClips:
    """The clips of prepared data.

    Args:
        data: the manifests.
        supervision: learn from masks, points, or both: points given, masks learnt.
        simulate: draw points from masks, as Point-VOS does, instead of taking those given.
        max_frames: annotated frames used of a clip, evenly spaced; None: all.

    Raises:
        InputError: no clip has annotations of the kind on two frames or more.
    """

    def __init__(
        self,
        data: TrainingData,
        *,
        supervision: Supervision = "masks",
        simulate: bool = False,
        max_frames: int | None = None,
    ) -> None:
        self.path = ", ".join(data.manifests)
        self.supervision = supervision
        self.simulate = supervision != "masks" and simulate
        self.clips: list[Clip] = []
        self._frames: list[tuple[int, ...]] = []
        seen = 0
        for path in data.manifests:
            for clip in ManifestFile(path):
                seen += 1
                self._add(clip, max_frames)
        if not self.clips:
            kind, advice = "masks", "label them first"
            if supervision != "masks" and not simulate:
                kind = "points" if supervision == "points" else "points and masks"
                advice = "import some, or draw points from masks with --simulate true"
            raise InputError(
                f"data {self.path}: expected clips with {kind} on two frames or more, found none in {seen} "
                f"clips; {advice}"
            )

    def _add(self, clip: Clip, max_frames: int | None) -> None:
        masked = {mask.frame for mask in clip.masks if mask.rle is not None}
        pointed = {point.frame for point in clip.points if point.label != "ambiguous"}
        found = masked
        if self.supervision != "masks" and not self.simulate:
            found = pointed if self.supervision == "points" else pointed & masked
        if max_frames is not None and len(found) > max_frames:
            ordered = sorted(found)
            found = {ordered[place] for place in evenly_spaced_frames(len(ordered), max_frames)}
        if len(found) < 2:
            return
        if len(clip.objects) > MAX_OBJECTS:
            raise InputError(f"clip {clip.clip_id!r}: {len(clip.objects)} objects, at most {MAX_OBJECTS} can be learnt")
        self.clips.append(clip)
        self._frames.append(tuple(sorted(found)))

    def check(self) -> None:
        """Look for what learning needs, in all clips, and read the first frames of some.

        Raises:
            InputError: nothing but objects, or nothing but background, is annotated; or frames cannot be read, or have
                another size than the manifest says.
            StorageError: frames are not there.
        """
        at_points = self.supervision == "points" and not self.simulate
        told = "points" if at_points else "masks"
        if not any(map(_points_at_both if at_points else _shows_both, self.clips)):
            raise InputError(
                f"data {self.path}: expected {told} of two classes inside the frames, found objects only "
                f"or background only in all {len(self.clips)} clips; a network would learn nothing"
            )
        for place in np.linspace(0, len(self) - 1, min(CLIPS_CHECKED, len(self))):
            self.views(int(place), self.frames(int(place))[:2])

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, number: int) -> str:
        """Return the clip's id."""
        return self.clips[number].clip_id

    def frames(self, number: int) -> tuple[int, ...]:
        """Return the annotated frames."""
        return self._frames[number]

    def views(self, number: int, frames: Sequence[int]) -> list[FrameView]:
        """Return annotated frames."""
        clip = self.clips[number]
        with open_clip(clip, decode_threads=1) as reader:
            images = dict(reader.read(sorted(set(frames))))
        found = []
        for frame in frames:
            labels = _labels(clip, frame)
            points = _points(clip, frame)
            if self.simulate:
                points = draw_points(labels, len(clip.objects), NUM_POINTS, ("training", clip.clip_id, frame))
            found.append(FrameView(images[frame], labels, points))
        return found


def _shows_both(clip: Clip) -> bool:
    """Tell whether some mask shows an object and leaves a background."""
    try:
        areas = [rle_area(mask.rle, clip.height, clip.width) for mask in clip.masks if mask.rle is not None]
    except FormatError as error:
        raise InputError(f"clip {clip.clip_id!r}: a mask cannot be used: {error}") from error
    return any(0 < area < clip.height * clip.width for area in areas)


def _points_at_both(clip: Clip) -> bool:
    """Tell whether some point lies on an object, and some point off one: a negative, or on another object."""
    edge = -0.5  # of the picture; the centre of its first pixel is 0
    inside = [
        point for point in clip.points if edge <= point.x < clip.width + edge and edge <= point.y < clip.height + edge
    ]
    positives = {point.object_id for point in inside if point.label == "positive"}
    return len(positives) > 1 or (bool(positives) and any(point.label == "negative" for point in inside))


def _labels(clip: Clip, frame: int) -> NDArray[np.uint8]:
    numbers = {known.object_id: number for number, known in enumerate(clip.objects, start=1)}
    labels = np.zeros((clip.height, clip.width), np.uint8)
    masks = {mask.object_id: mask.rle for mask in clip.masks if mask.frame == frame}
    for box in clip.boxes if masks else ():
        if box.frame == frame and box.visible and box.object_id not in masks:
            pixels = round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), clip.height, clip.width)
            if pixels is not None:
                labels[pixels[1] : pixels[3], pixels[0] : pixels[2]] = IGNORE
    for object_id, rle in masks.items():
        if rle is not None:
            labels[rle_to_mask(rle, clip.height, clip.width)] = numbers[object_id]
    return labels


def _points(clip: Clip, frame: int) -> PointSet:
    numbers = {known.object_id: number for number, known in enumerate(clip.objects, start=1)}
    return PointSet.of(
        [
            (numbers[point.object_id], point.x, point.y, point.label == "positive")
            for point in clip.points
            if point.frame == frame and point.label != "ambiguous"
        ]
    )


@lru_cache(maxsize=8)
def open_clips(
    data: TrainingData, supervision: Supervision = "masks", simulate: bool = False, max_frames: int | None = None
) -> ManifestClips:
    """Return the clips of prepared data, opened once in a process; see `ManifestClips`."""
    return ManifestClips(data, supervision=supervision, simulate=simulate, max_frames=max_frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedSettings:
    """A set of generated clips."""

    seed: int = 0
    num_clips: int = 64
    height: int = 120
    width: int = 216
    clip_frames: int = 8
    max_frames: int | None = None
    """Annotated frames of a clip, evenly spaced; None: all."""
    corrupted: float = 0.0
    """Share of the objects' labels, one by one, that are wrong: the mask lies somewhere else."""
    num_points: int = 10
    """Points drawn per object, and per frame on the background."""
    programs: tuple[str, ...] | None = None
    """Texture programs; None: all."""


@dataclass(frozen=True, kw_only=True)
class GeneratedClips:
    """Clips generated from a seed, each once in a process."""

    settings: GeneratedSettings
    _kept: dict[int, SyntheticClip] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel without the clips."""
        return _generated, (self.settings,)

    def __len__(self) -> int:
        return self.settings.num_clips

    def name(self, number: int) -> str:
        """Return seed and number."""
        return f"generated {self.settings.seed}/{number}"

    def frames(self, number: int) -> tuple[int, ...]:
        """Return the annotated frames: the same for all clips."""
        kept = self.settings.max_frames or self.settings.clip_frames
        return tuple(evenly_spaced_frames(self.settings.clip_frames, min(kept, self.settings.clip_frames)))

    def views(self, number: int, frames: Sequence[int]) -> list[FrameView]:
        """Return annotated frames."""
        clip = self._clip(number)
        return [FrameView(clip.images[frame], self._labels(clip, number, frame), self._points(clip, number, frame))
                for frame in frames]  # fmt: skip

    def _clip(self, number: int) -> SyntheticClip:
        if number not in self._kept:
            while len(self._kept) >= CLIPS_KEPT:
                del self._kept[next(iter(self._kept))]
            known = self.settings
            config = SynthConfig(
                num_frames=known.clip_frames, height=known.height, width=known.width, num_objects=1 + number % 2,
                **({} if known.programs is None else {"programs": known.programs}),
            )  # fmt: skip
            self._kept[number] = generate_clip(known.seed, number, config)
        return self._kept[number]

    def _labels(self, clip: SyntheticClip, number: int, frame: int) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = clip.labels[frame]
        if self.settings.corrupted == 0:
            return labels
        rng = np.random.default_rng([self.settings.seed, 7, number, frame])
        wrong: NDArray[np.uint8] = np.zeros_like(labels)
        for object_id in range(1, len(clip.objects) + 1):
            mask = labels == object_id
            wrong[_elsewhere(rng, mask) if rng.uniform() < self.settings.corrupted else mask] = object_id
        return wrong

    def _points(self, clip: SyntheticClip, number: int, frame: int) -> PointSet:
        known = self.settings
        if known.num_points == 0:
            return PointSet.of([])
        place = (f"generated-{known.seed}", str(number), frame)
        return draw_points(clip.labels[frame], len(clip.objects), known.num_points, place)


def draw_points(labels: NDArray[np.uint8], num_objects: int, num_points: int, place: tuple[str, str, int]) -> PointSet:
    """Return points of a label map as Point-VOS draws them: each object's positives, the background's negatives.

    A negative of the background is one of every object.

    Args:
        labels: (height, width), 1…num_objects.
        num_objects: of the clip.
        num_points: at most, per object and of the background.
        place: data set, clip and frame, which the points depend on.
    """
    dataset, clip_id, frame = place
    numbers = range(1, num_objects + 1)
    seeds = {known: derive_seed(dataset, clip_id, known, frame, "training") for known in (0, *numbers)}
    masks = {known: labels == known for known in numbers}
    drawn = simulate_points(masks, seeds, num_points=num_points, scale_distance=True)
    rows = [(known, x, y, True) for known in numbers for x, y in drawn.positives[known]]
    rows += [(known, x, y, False) for known in numbers for x, y in drawn.negatives]
    return PointSet.of(rows)


def _generated(settings: GeneratedSettings) -> GeneratedClips:
    return GeneratedClips(settings=settings)


def _elsewhere(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask rolled away by at least a third of the picture in one direction."""
    height, width = mask.shape
    down = int(rng.integers(height // 3, height - height // 3))
    right = int(rng.integers(width // 3, width - width // 3))
    return np.roll(mask, (down, right), axis=(0, 1))
