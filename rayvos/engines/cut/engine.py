"""Engine `cut`: masks from boxes without any weights, by a vote of GrabCuts on colour and on motion.

Per object and frame nine cuts are made of its crop: one on colour, and for each partner frame (t±1, t±4) one on
lightness and motion and one on colour shifted by motion. Motion is the flow that the surroundings of the box do not
explain. Each cut votes with the cube of its box agreement (a person's box touches the object on all sides, so a cut
that misses or leaves a side is a bad one); the ellipse in the box votes with a small constant weight, and so decides
only where all cuts failed. Then the votes of the nearest frames, moved along the flow, count half as much as the
frame's own. `cues="color"` is plain GrabCut with a guard: where its box agreement is below 0.7 the
ellipse takes its place.

A mask never leaves its box (clipped to the frame, whole pixels) and holds no part smaller than a tenth of its
largest one. A box with a side below 8 px, or with no surroundings in its crop, gives the ellipse. Static clips and
pictures have no motion cue: the cut on colour and the ellipse vote alone.

Why so: colour models of several frames merged, a larger margin, or the ellipse as initial foreground all lose
(measured: specification of the no-weights baseline). Labels of a frame depend on the pictures `reach` frames around
it and nothing else, so units may cut a clip anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Box, Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label
from rayvos.engines.cut.crop_cuts import (
    Crop,
    box_fit,
    crop_residuals,
    cut_pictures,
    cut_votes,
    ellipse,
    grab_cut,
    is_cuttable,
    outside_box,
    place_crop,
)
from rayvos.engines.cut.frame_flows import moved_neighbours, read_frame_flows
from rayvos.engines.scores import mean_margin, overlap, predicted_iou
from rayvos.errors import UsageError, choose
from rayvos.masks.boxes import box_iou, mask_to_box, round_box
from rayvos.masks.components import drop_specks

__all__ = ["CutConfig", "CutEngine"]

Cues = Literal["color+motion", "color"]

GUARD = 0.7  # specification of the baseline: below this box agreement a cut on colour alone is not believed
ELLIPSE_IOU = 0.5  # what an ellipse is worth: 0.52 on the real clips by the specification of the baseline
THRESHOLD = 0.5
NEIGHBOUR_VOTE = 0.5  # of each nearest frame; 0.3 to 1 measured equal, all seven real clips gain, 1.2 points on average


@dataclass(frozen=True, slots=True, kw_only=True)
class CutConfig:
    """Options of the engine `cut`."""

    cues: Cues = "color+motion"
    """What is cut: `color+motion`: the vote of nine; `color`: plain GrabCut with a guard, one cut of a larger crop."""
    max_side: int | None = None
    """Longest side of a crop in pixels; larger ones are scaled down. None: 128, or 256 for `color`."""
    iterations: int | None = None
    """Rounds of each GrabCut. None: 2, or 5 for `color`."""
    margin: float = 0.25
    """Context around the box, as a share of its longer side."""
    partners: tuple[int, ...] = (1, 4)
    """Distances in frames of the pictures that motion is measured to, before and after each frame."""

    def __post_init__(self) -> None:
        choose("cues", self.cues, ("color", "color+motion"))
        for name, value, least in (("max_side", self.max_side, 16), ("iterations", self.iterations, 1)):
            if value is not None and value < least:
                raise UsageError(f"{name}: expected at least {least}, found {value}")
        if not 0.05 <= self.margin <= 2:
            raise UsageError(f"margin: expected 0.05 to 2 times the box, found {self.margin}")
        if not self.partners or any(distance < 1 for distance in self.partners):
            raise UsageError(f"partners: expected distances from 1 frame, found {list(self.partners)}")


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """One object's result on one frame, before its neighbours are asked."""

    crop: Crop
    probability: NDArray[np.float32]
    """(height, width) of the working grid."""
    quality: dict[str, float]
    """`cut_fit`: mean box agreement of the cuts; `cut_share`: of the vote that is theirs and not the ellipse's;
    `margin`: how decided the vote is, where there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class _CutFrame:
    """The results of one frame, by object, and the flow to the nearest partner frames, by distance."""

    cuts: dict[int, _Cut]
    flows: dict[int, NDArray[np.float32]]
    scale: float
    """Pixels of the flow grid per pixel of the frame."""


class CutEngine:
    """Labels boxes without weights; see the module's docstring. Never looks at mask prompts."""

    name = "cut"
    weights = ""

    def __init__(self, config: CutConfig | None = None) -> None:
        self.config = config or CutConfig()
        self._motion = self.config.cues == "color+motion"
        self._max_side = self.config.max_side or (128 if self._motion else 256)
        self._iterations = self.config.iterations or (2 if self._motion else 5)
        distances = sorted(set(self.config.partners)) if self._motion else []
        self._offsets = [sign * distance for distance in distances for sign in (-1, 1)]
        self._near = distances[0] if distances else 0

    def options(self) -> Mapping[str, Any]:
        """Return the options with their defaults filled in."""
        return {
            "cues": self.config.cues,
            "max_side": self._max_side,
            "iterations": self._iterations,
            "margin": self.config.margin,
            "partners": list(self.config.partners),
        }

    def needs(self) -> EngineNeeds:
        """Return the halo (the farthest partner, plus the neighbour whose votes count here) and the cost."""
        reach = max(self._offsets, default=0)
        if not self._motion:
            return EngineNeeds(halo=0, seconds_per_frame=0.01, seconds_per_label=0.2, separate_objects=True)
        return EngineNeeds(
            halo=reach + self._near, seconds_per_frame=0.06, seconds_per_label=0.17, separate_objects=True
        )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame of `frames` and every object, ordered by (frame, object_id).

        Raises:
            InputError: frames cannot be read.
        """
        boxes = _boxes_by_frame(clip)
        first, stop = max(0, frames.start - self._near), min(clip.num_frames, frames.stop + self._near)
        wanted = [frame for frame in range(first, stop) if frame in boxes]
        results = self._cut_frames(images, boxes, wanted)
        done: dict[int, _CutFrame] = {}
        last_cut = -1
        for frame in frames:
            while last_cut < frame + self._near and (found := next(results, None)) is not None:
                last_cut = found[0]
                done[last_cut] = found[1]
            for object_id in clip.object_ids():
                yield self._label(clip, boxes, done, frame, object_id)
            done.pop(frame - self._near, None)

    def _label(
        self, clip: Clip, boxes: dict[int, dict[int, Box]], done: dict[int, _CutFrame], frame: int, object_id: int
    ) -> Label:
        if object_id not in boxes.get(frame, {}):
            return Label(frame, object_id, None)
        here = done[frame]
        cut = here.cuts.get(object_id)
        if cut is None:  # the box lies wholly outside the frame
            return Label(frame, object_id, np.zeros((clip.height, clip.width), np.bool_), 0.0, {"box_outside": 1.0})
        beside = {other: near.cuts[object_id] for other, near in done.items() if object_id in near.cuts}
        moved = moved_neighbours(beside, frame, here.flows, here.scale)
        probability = (cut.probability + NEIGHBOUR_VOTE * sum(moved)) / (1 + NEIGHBOUR_VOTE * len(moved))
        mask = _paste(np.asarray(probability, np.float32), cut.crop, clip.height, clip.width)
        tight, given = mask_to_box(mask), np.array(cut.crop.pixels, np.float32)
        assert tight is not None, "a cut without a pixel gives the ellipse"
        quality = dict(cut.quality, box_agreement=float(box_iou(tight, given)[0, 0]))
        temporal = None
        if moved:
            own = (cut.probability > THRESHOLD).astype(np.float32)
            temporal = float(np.mean([overlap(own, (other > THRESHOLD).astype(np.float32)) for other in moved]))
            quality["temporal_agreement"] = temporal
        # One cut has no margin; its fit stands for it. Ellipses agree with everything, and are worth what they are.
        share = quality["cut_share"]
        found = predicted_iou(quality["box_agreement"], quality.get("margin", quality["cut_fit"]), temporal)
        return Label(frame, object_id, mask, share * found + (1 - share) * ELLIPSE_IOU, quality)

    def _cut_frames(
        self, images: FrameReader, boxes: dict[int, dict[int, Box]], wanted: list[int]
    ) -> Iterator[tuple[int, _CutFrame]]:
        """Yield the results of the wanted frames."""
        for found in read_frame_flows(images, wanted, self._offsets):
            cuts = {
                object_id: cut
                for object_id, box in boxes[found.frame].items()
                if (cut := self._cut(found.image, box, found.flows, found.scale)) is not None
            }
            near = {offset: flow for offset, flow in found.flows.items() if abs(offset) == self._near}
            yield found.frame, _CutFrame(cuts, near, found.scale)

    def _cut(
        self, image: NDArray[np.uint8], box: Box, flows: dict[int, NDArray[np.float32]], scale: float
    ) -> _Cut | None:
        """Return the vote of one object's cuts, or None where its box lies outside the frame."""
        height, width = image.shape[:2]
        pixels = round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), height, width)
        if pixels is None:
            return None
        crop = place_crop(pixels, self.config.margin, self._max_side, height, width)
        outside = outside_box(crop)
        if not is_cuttable(crop, outside):
            return _Cut(crop, ellipse(crop.inner, crop.size).astype(np.float32), {"cut_fit": 0.0, "cut_share": 0.0})
        residuals = crop_residuals(crop, outside, flows, scale)
        masks = [grab_cut(picture, crop.inner, self._iterations) for picture in cut_pictures(image, crop, residuals)]
        fits = np.array([box_fit(mask, crop.inner) for mask in masks])
        if not self._motion:
            kept = bool(fits[0] >= GUARD)
            quality = {"cut_fit": float(fits[0]), "cut_share": float(kept)}
            found = masks[0] if kept else ellipse(crop.inner, crop.size)
            return _Cut(crop, found.astype(np.float32), quality)
        probability, share = cut_votes(masks, fits, crop.inner)
        margin = mean_margin(probability, ~outside)
        return _Cut(crop, probability, {"margin": margin, "cut_fit": float(fits.mean()), "cut_share": share})


def _boxes_by_frame(clip: Clip) -> dict[int, dict[int, Box]]:
    """Return the visible boxes by frame and object."""
    boxes: dict[int, dict[int, Box]] = {}
    for box in sorted(clip.boxes, key=lambda box: (box.frame, box.object_id)):
        if box.visible:
            boxes.setdefault(box.frame, {})[box.object_id] = box
    return boxes


def _paste(probability: NDArray[np.float32], crop: Crop, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask in the frame: the probability resized to the crop, cut off at the box, without specks."""
    x0, y0, x1, y1 = crop.area
    left, top, right, bottom = crop.pixels
    full = cv2.resize(probability, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    inside = np.asarray(full[top - y0 : bottom - y0, left - x0 : right - x0] > THRESHOLD, np.bool_)
    if not inside.any():
        inside = ellipse((0, 0, right - left, bottom - top), inside.shape)
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = drop_specks(inside)
    return mask
