"""From what was found on a frame and on those beside it to the frame's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Clip
from rayvos.engines.base import Label
from rayvos.engines.cut.crop_cuts import Crop
from rayvos.engines.cut.frame_flows import moved_neighbours
from rayvos.engines.guided.answers import AnsweredFrame
from rayvos.engines.guided.pasting import THRESHOLD, paste_mask
from rayvos.engines.scores import mean_margin, overlap, predicted_iou
from rayvos.masks.agreement import box_agreement

__all__ = ["NEAR", "FrameLabeler"]

NEAR = 1  # frames on each side whose masks vote
NEIGHBOUR_VOTE = 0.5  # of each of them, as in the engine `cut`


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLabeler:
    """Makes labels; the options are those of the engine."""

    neighbours: bool
    edges: bool
    clip_to_box: bool

    def labels(self, clip: Clip, frames: range, answers: Iterator[tuple[int, AnsweredFrame]]) -> Iterator[Label]:
        """Yield the labels of frames, ordered by (frame, object_id).

        Args:
            clip: of the frames.
            frames: to label.
            answers: (frame, what was found there), ascending, from `NEAR` frames before the first to as many after the
                last; frames without a prompt are not there.
        """
        reach = NEAR if self.neighbours else 0
        done: dict[int, AnsweredFrame] = {}
        last = -1
        for frame in frames:
            while last < frame + reach and (answer := next(answers, None)) is not None:
                last, done[answer[0]] = answer
            for object_id in clip.object_ids():
                yield self._label(clip, done, frame, object_id)
            done.pop(frame - reach, None)

    def _label(self, clip: Clip, done: Mapping[int, AnsweredFrame], frame: int, object_id: int) -> Label:
        here = done.get(frame)
        prompt = here.prompts.get(object_id) if here else None
        if here is None or prompt is None:
            return Label(frame, object_id, None)
        found = here.found.get(object_id)
        if found is None:
            return Label(frame, object_id, np.zeros((clip.height, clip.width), np.bool_), 0.0, {"box_outside": 1.0})
        beside = {other: near.found[object_id] for other, near in done.items() if object_id in near.found}
        moved = moved_neighbours(beside, frame, here.flows, here.scale) if self.neighbours else []
        votes = found.probability + NEIGHBOUR_VOTE * sum(moved)
        probability = np.asarray(votes / (1 + NEIGHBOUR_VOTE * len(moved)), np.float32)
        clip_to_box = prompt.box is not None and self.clip_to_box
        mask = paste_mask(probability, found.crop, here.image, edges=self.edges, clip_to_box=clip_to_box)
        quality = {
            "network": found.quality,
            "margin": mean_margin(probability, _inside(found.crop)),
            "cut_fit": here.fits[object_id],
        }
        temporal = None
        if moved:
            own = (found.probability > THRESHOLD).astype(np.float32)
            temporal = float(np.mean([overlap(own, (other > THRESHOLD).astype(np.float32)) for other in moved]))
            quality["temporal_agreement"] = temporal
        agreement = 1.0
        if prompt.box is not None:
            agreement = quality["box_agreement"] = box_agreement(mask, prompt.box)
        return Label(frame, object_id, mask, predicted_iou(agreement, found.quality, temporal), quality)


def _inside(crop: Crop) -> NDArray[np.bool_]:
    """Return the network's grid inside the region."""
    inside = np.zeros(crop.size, np.bool_)
    inside[crop.inner[1] : crop.inner[3], crop.inner[0] : crop.inner[2]] = True
    return inside
