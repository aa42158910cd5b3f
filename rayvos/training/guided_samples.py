"""Samples for the guided segmenter: objects of generated scenes, prompted as people prompt, with their true masks.

A scene is painted at one frame and at its four partners, so that flow and cuts fail on it as they fail on videos:
the planes are those that the engine computes. Neighbouring samples share a scene. A sample is a function of the seed,
its number and the texture programs, nothing else.

Source: specification of the default model, sections 2 and 5c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.engines.guided.guidance import CUT_SIDE, OFFSETS, Prompt, guidance_planes
from rayvos.engines.motion import dense_flow, flow_picture
from rayvos.masks.boxes import jitter_box, mask_to_box
from rayvos.masks.points import sample_points
from rayvos.video.synthetic_effects import draw_effects
from rayvos.video.synthetic_layout import draw_scene
from rayvos.video.synthetic_scene import paint_frame
from rayvos.video.synthetic_shapes import FAMILIES

__all__ = ["GENERATOR_VERSION", "GuidedSample", "draw_sample"]

GENERATOR_VERSION = 1  # grows when the same seed gives other samples
SAMPLES_PER_SCENE = 4
FRAME = max(OFFSETS)  # the labelled one of the scene's frames
NUM_FRAMES = 2 * FRAME + 1
SMALLEST_OBJECT = 250  # visible pixels
ATTEMPTS = 6  # at scenes; after that the sample before is given again
# Kinds of prompt and their shares. Boxes lead: they are what most annotations are.
KINDS = ("box", "box+points", "points", "trace", "previous", "box+previous")
KIND_SHARES = (0.55, 0.08, 0.11, 0.1, 0.08, 0.08)
JITTERS, JITTER_SHARES = (0.0, 0.05, 0.15), (0.3, 0.45, 0.25)  # of box sides; exact, careful, hurried
# Which partner frames are there: all, none (pictures), one side (ends of clips), the near ones (short clips).
PARTNERS = (OFFSETS, (), (1, 4), (-1, -4), (-1, 1))
PARTNER_SHARES = (0.74, 0.12, 0.04, 0.04, 0.06)

# Cuts take most of a sample's time. The first samples are cut on a coarse grid, from which a young network learns as
# well; later ones mostly on the grid that labelling uses.
NUM_COARSE, COARSE_SIDE = 3000, 64
CUT_SIDES, CUT_SIDE_SHARES = (96, CUT_SIDE), (0.3, 0.7)

Rng = np.random.Generator


@dataclass(frozen=True, slots=True, eq=False)
class GuidedSample:
    """One crop and its truth."""

    planes: NDArray[np.int8]
    """(C, size, size), as `rayvos.engines.guided.guidance` makes them."""
    mask: NDArray[np.uint8]
    """(size, size), 1 on the object."""


@dataclass(frozen=True, slots=True, eq=False)
class _Shot:
    """A scene at one frame and what its partners say."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    before: NDArray[np.uint8]
    """Labels one frame earlier: where a previous mask comes from."""
    flows: dict[int, NDArray[np.float32]]
    scale: float
    objects: tuple[int, ...]
    """Ids of those that are seen well enough."""


def draw_sample(seed: int, index: int, size: int, programs: tuple[str, ...]) -> GuidedSample:
    """Return one sample.

    Args:
        seed: of the row of samples.
        index: of the sample in it.
        size: height and width of the crop.
        programs: texture programs to use.
    """
    rng = np.random.default_rng([seed, index, 1])
    scene, slot = divmod(index, SAMPLES_PER_SCENE)
    for attempt in range(ATTEMPTS):
        shot = _shoot(seed, scene, attempt, programs)
        if shot.objects:
            object_id = shot.objects[slot % len(shot.objects)]
            sample = _sample(rng, shot, object_id, size, _cut_side(seed, index))
            if sample is not None:
                return sample
    return draw_sample(seed, index + SAMPLES_PER_SCENE, size, programs)


@lru_cache(maxsize=2)
def _shoot(seed: int, scene_index: int, attempt: int, programs: tuple[str, ...]) -> _Shot:
    """Draw a scene and paint it at `FRAME` and its partners; kept for the samples that share it."""
    rng = np.random.default_rng([seed, scene_index, 2, attempt])
    height = int(rng.integers(160, 241))
    width = int(height * rng.uniform(1.2, 1.78))
    effects = draw_effects(rng)
    scene = draw_scene(
        rng,
        num_frames=NUM_FRAMES,
        height=height,
        width=width,
        num_objects=int(rng.integers(1, 5)),
        programs=programs,
        families=tuple(FAMILIES),
    )
    images, labels = {}, {}
    for offset in sorted((0, *OFFSETS)):
        time = FRAME + offset
        image, labels[offset] = paint_frame(scene, time)
        if effects.num_exposures > 1:
            moments = np.linspace(-0.5, 0.5, effects.num_exposures) * effects.shutter
            exposures = [paint_frame(scene, time + float(moment))[0] for moment in moments]
            image = np.mean(exposures, axis=0).astype(np.uint8)
        images[offset] = effects.apply(rng, image)
    greys = {offset: flow_picture(image) for offset, image in images.items()}
    flows = {offset: dense_flow(greys[0][0], greys[offset][0]) for offset in OFFSETS}
    seen = np.bincount(labels[0].ravel(), minlength=2)
    objects = tuple(int(found) for found in np.flatnonzero(seen >= SMALLEST_OBJECT) if found)
    return _Shot(images[0], labels[0], labels[-1], flows, greys[0][1], objects)


def _cut_side(seed: int, index: int) -> int:
    """Return the longest side of the grid on which a sample is cut."""
    if index < NUM_COARSE:
        return COARSE_SIDE
    return int(np.random.default_rng([seed, index, 4]).choice(CUT_SIDES, p=CUT_SIDE_SHARES))


def _sample(rng: Rng, shot: _Shot, object_id: int, size: int, cut_side: int) -> GuidedSample | None:
    """Return a sample of one object; None where its prompt says nothing."""
    mask = shot.labels == object_id
    prompt = _prompt(rng, mask, shot.before == object_id)
    partners = PARTNERS[int(rng.choice(len(PARTNERS), p=PARTNER_SHARES))]
    flows = {offset: shot.flows[offset] for offset in OFFSETS if offset in partners}
    guidance = guidance_planes(shot.image, prompt, flows, shot.scale, size, cut_side=cut_side)
    if guidance is None:
        return None
    x0, y0, x1, y1 = guidance.crop.area
    shown = cv2.resize(mask[y0:y1, x0:x1].astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    truth = (shown >= 0.5).astype(np.uint8)
    return GuidedSample(guidance.planes, truth) if truth.any() else None


def _prompt(rng: Rng, mask: NDArray[np.bool_], before: NDArray[np.bool_]) -> Prompt:
    """Return what a person might say of an object."""
    height, width = mask.shape
    kind = KINDS[int(rng.choice(len(KINDS), p=KIND_SHARES))]
    box = positives = negatives = previous = None
    trace: tuple[NDArray[np.float64], ...] = ()
    if kind.startswith("box"):
        tight = mask_to_box(mask)
        assert tight is not None, "objects are seen"
        sigma = JITTERS[int(rng.choice(3, p=JITTER_SHARES))]
        box = jitter_box(tight, sigma, height, width, rng)
    if kind.endswith("points"):
        around = cv2.dilate(mask.view(np.uint8), np.ones((41, 41), np.uint8)).view(np.bool_) & ~mask
        positives = _points(rng, mask, int(rng.integers(1, 11)))
        negatives = _points(rng, around if rng.uniform() < 0.7 else ~mask, int(rng.integers(0, 11)))
    elif kind == "trace":
        trace = (_scribble(rng, mask),)
    elif kind.endswith("previous"):
        previous = _deformed(rng, before if before.any() and rng.uniform() < 0.7 else mask)
    return Prompt(box=box, positives=positives, negatives=negatives, trace=trace, previous=previous)


def _points(rng: Rng, region: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    distance_px = min(20.0, 0.5 * float(np.sqrt(region.sum() / 10)))
    seed = int(rng.integers(1 << 62))
    return sample_points(region, count, distance_px=distance_px, seed=seed).astype(np.float64)


def _scribble(rng: Rng, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a smooth line (N, 2) through a few random pixels of the object, as a hand draws it."""
    inside = np.flatnonzero(mask)
    chosen = rng.choice(inside, int(rng.integers(3, 7)))
    corners = np.stack([chosen % mask.shape[1], chosen // mask.shape[1]], axis=1).astype(np.float64)
    if rng.uniform() < 0.7:  # a hand sweeps rather than jumps about
        corners = corners[np.argsort(corners @ rng.normal(0, 1, 2))]
    steps = np.linspace(0, len(corners) - 1, 40)
    line = np.stack([np.interp(steps, np.arange(len(corners)), corners[:, axis]) for axis in (0, 1)], axis=1)
    padded = np.concatenate([np.repeat(line[:1], 3, axis=0), line, np.repeat(line[-1:], 3, axis=0)])
    smooth = np.stack([np.convolve(padded[:, axis], np.ones(7) / 7, "valid") for axis in (0, 1)], axis=1)
    return smooth + rng.normal(0, 0.01 * np.sqrt(inside.size), smooth.shape)


def _deformed(rng: Rng, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the mask as an earlier step might have had it: moved, turned, thinned or fattened, with rough edges."""
    height, width = mask.shape
    y, x = np.nonzero(mask)
    reach = float(np.sqrt(x.size))
    angle, scale = float(rng.normal(0, 5)), float(np.exp(rng.normal(0, 0.06)))
    matrix = np.asarray(cv2.getRotationMatrix2D((float(x.mean()), float(y.mean())), angle, scale), np.float64)
    matrix[:, 2] += rng.normal(0, 0.05 * reach, 2)
    moved = cv2.warpAffine(mask.astype(np.float32), matrix, (width, height))
    coarse = rng.normal(0, 1, (max(2, int(height / (0.25 * reach + 1))), max(2, int(width / (0.25 * reach + 1)))))
    noise = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    blurred = cv2.GaussianBlur(moved, (0, 0), max(0.5, float(rng.uniform(0.01, 0.1)) * reach))
    deformed = (blurred + 0.15 * noise * (blurred > 0.02) > rng.uniform(0.3, 0.7)).astype(np.float32)
    return deformed if deformed.any() else mask.astype(np.float32)
