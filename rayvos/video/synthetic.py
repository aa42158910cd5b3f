"""Clips generated from a seed, with exact masks, boxes, points and traces.

They train the packaged weights, feed the demonstration and the tests, and need no data from anywhere. A clip is a
function of `(seed, index)` and its configuration alone: no worker, order or clock has a part in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo, Point, Trace
from rayvos.errors import UsageError, choose
from rayvos.video.synthetic_effects import draw_effects
from rayvos.video.synthetic_layout import draw_scene
from rayvos.video.synthetic_scene import paint_frame
from rayvos.video.synthetic_shapes import FAMILIES
from rayvos.video.synthetic_textures import PROGRAMS

__all__ = ["FPS", "SynthConfig", "SyntheticClip", "clip_id_of", "draw_trace", "generate_clip"]

FPS = 24.0
MAX_OBJECTS = 50
POINT_FRAMES = 10  # Point-VOS annotates at most ten frames, evenly spaced
POINTS_PER_FRAME = 5


@dataclass(frozen=True, slots=True)
class SynthConfig:
    """What clips are generated."""

    num_frames: int = 24
    """Frames per clip."""
    height: int = 240
    """Pixels."""
    width: int = 432
    """Pixels."""
    num_objects: int = 3
    """Objects with a mask. Each is seen in the first frame, unless there are too many for it (above about 10)."""
    programs: tuple[str, ...] = tuple(PROGRAMS)
    """Texture programs to use; training and validation may use different ones."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Shape families to use."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise UsageError(f"frames: expected at least 1, found {self.num_frames}")
        if min(self.height, self.width) < 64 or max(self.height, self.width) > 4096:
            raise UsageError(f"size {self.height}x{self.width}: expected 64 to 4096 pixels on each side")
        if not 1 <= self.num_objects <= MAX_OBJECTS:
            raise UsageError(f"objects: expected 1 to {MAX_OBJECTS}, found {self.num_objects}")
        for kind, names, known in (("program", self.programs, PROGRAMS), ("family", self.families, FAMILIES)):
            if not names:
                raise UsageError(f"no {kind} given; choose from {', '.join(sorted(known))}")
            for name in names:
                choose(kind, name, known)


@dataclass(frozen=True, slots=True, eq=False)
class SyntheticClip:
    """A generated clip and its truth."""

    clip_id: str
    images: NDArray[np.uint8]
    """(frames, height, width, 3) RGB."""
    labels: NDArray[np.uint8]
    """(frames, height, width) the object seen at each pixel, 0: none."""
    objects: tuple[ObjectInfo, ...]
    boxes: tuple[Box, ...] = field(repr=False)
    """One per object and frame, tight around its visible part; `visible` is False where it is not seen."""
    points: tuple[Point, ...] = field(repr=False)
    traces: tuple[Trace, ...] = field(repr=False)

    def mask(self, object_id: int, frame: int) -> NDArray[np.bool_]:
        """Return the visible part of an object, bool (height, width)."""
        mask: NDArray[np.bool_] = self.labels[frame] == object_id
        return mask

    def record(self, source: ClipSource, *, masks: bool = False) -> Clip:
        """Return the manifest's record of the clip.

        Args:
            source: where its frames were written.
            masks: give the true masks as prompts, too (needs pycocotools).
        """
        return Clip(
            clip_id=self.clip_id,
            source=source,
            height=self.images.shape[1],
            width=self.images.shape[2],
            num_frames=len(self.images),
            fps=FPS,
            objects=self.objects,
            boxes=self.boxes,
            masks=self._mask_prompts() if masks else (),
            points=self.points,
            traces=self.traces,
        )

    def _mask_prompts(self) -> tuple[MaskPrompt, ...]:
        from rayvos.masks.rle import mask_to_rle

        return tuple(
            MaskPrompt(box.object_id, box.frame, mask_to_rle(self.mask(box.object_id, box.frame)))
            if box.visible
            else MaskPrompt(box.object_id, box.frame, None)
            for box in self.boxes
        )


def clip_id_of(seed: int, index: int) -> str:
    """Return the id of a generated clip."""
    return f"synth-{seed}-{index:05d}"


def generate_clip(seed: int, index: int, config: SynthConfig | None = None) -> SyntheticClip:
    """Generate one clip.

    Args:
        seed: of the data set, 0 or larger.
        index: of the clip in it, 0 or larger.
        config: sizes and kinds; None takes the defaults.
    """
    config = config or SynthConfig()
    rng = np.random.default_rng([seed, index])
    effects = draw_effects(rng)
    scene = draw_scene(
        rng,
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        num_objects=config.num_objects,
        programs=config.programs,
        families=config.families,
    )
    shape = (config.num_frames, config.height, config.width)
    images, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    for frame in range(config.num_frames):
        image, labels[frame] = paint_frame(scene, frame)
        if effects.num_exposures > 1:
            offsets = np.linspace(-0.5, 0.5, effects.num_exposures) * effects.shutter
            exposures = [paint_frame(scene, frame + float(offset))[0] for offset in offsets]
            image = np.mean(exposures, axis=0).astype(np.uint8)
        images[frame] = effects.apply(rng, image)
    families = {layer.object_id: layer.shape.family for layer in scene.layers}
    objects = tuple(ObjectInfo(object_id, families[object_id]) for object_id in range(1, config.num_objects + 1))
    ids = [known.object_id for known in objects]
    return SyntheticClip(
        clip_id=clip_id_of(seed, index),
        images=images,
        labels=labels,
        objects=objects,
        boxes=tuple(_boxes(labels, ids)),
        points=tuple(_points(rng, labels, ids)),
        traces=tuple(_traces(rng, labels, ids)),
    )


def _boxes(labels: NDArray[np.uint8], ids: list[int]) -> list[Box]:
    boxes = []
    for frame, label_map in enumerate(labels):
        for object_id in ids:
            mask = label_map == object_id
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if rows.size:
                x0, y0, x1, y1 = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
                boxes.append(Box(object_id, frame, x0, y0, x1, y1))
            else:
                boxes.append(Box(object_id, frame, 0.0, 0.0, 0.0, 0.0, visible=False))
    return boxes


def _points(rng: np.random.Generator, labels: NDArray[np.uint8], ids: list[int]) -> list[Point]:
    """Draw positives on every object and as many negatives on the common background, on evenly spaced frames."""
    num_frames = len(labels)
    kept = np.unique(np.floor(np.linspace(0, num_frames - 1, min(POINT_FRAMES, num_frames)) + 0.5).astype(int))
    points = []
    for frame in kept.tolist():
        for object_id in ids:
            points += [Point(object_id, frame, x, y) for x, y in _pixels(rng, labels[frame] == object_id)]
            points += [Point(object_id, frame, x, y, "negative") for x, y in _pixels(rng, labels[frame] == 0)]
    return points


def _pixels(rng: np.random.Generator, mask: NDArray[np.bool_]) -> list[tuple[float, float]]:
    inside = np.flatnonzero(mask)
    chosen = rng.choice(inside, min(POINTS_PER_FRAME, inside.size), replace=False) if inside.size else inside
    return [(float(pixel % mask.shape[1]), float(pixel // mask.shape[1])) for pixel in chosen.tolist()]


def _traces(rng: np.random.Generator, labels: NDArray[np.uint8], ids: list[int]) -> list[Trace]:
    """Draw one trace per object, where it is seen best: a hand that wanders over it."""
    traces = []
    for object_id in ids:
        areas = (labels == object_id).sum(axis=(1, 2))
        frame = int(areas.argmax())
        if areas[frame]:
            traces.append(draw_trace(rng, labels[frame] == object_id, object_id, frame))
    return traces


def draw_trace(rng: np.random.Generator, mask: NDArray[np.bool_], object_id: int, frame: int) -> Trace:
    """Return the trace of a hand that wanders over a mask that holds pixels."""
    height, width = mask.shape
    inside = np.flatnonzero(mask)
    place = np.array([(pixel := int(rng.choice(inside))) % width, pixel // width], float)
    step = max(1.0, 0.12 * inside.size**0.5)
    heading = rng.uniform(0, 2 * np.pi)
    x, y = [float(place[0])], [float(place[1])]
    for _ in range(30):
        for attempt in range(8):  # at the edge it turns; on a thin part it may find no way on and rests
            heading += rng.normal(0, 0.5 + 0.3 * attempt)
            ahead = place + step * np.array([np.cos(heading), np.sin(heading)])
            column, row = np.rint(ahead).astype(int).tolist()
            if 0 <= row < height and 0 <= column < width and mask[row, column]:
                place = np.array([column, row], float)
                break
        x.append(float(place[0]))
        y.append(float(place[1]))
    return Trace(object_id, frame, tuple(x), tuple(y))
