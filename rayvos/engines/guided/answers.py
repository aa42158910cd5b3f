"""What was found on the frames of a clip, and a second look at it without asking the network again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import MaskPrompt
from rayvos.engines.base import Label
from rayvos.engines.cut.frame_flows import FrameFlows
from rayvos.engines.guided.guidance import Prompt
from rayvos.engines.guided.network import Found
from rayvos.engines.stcn.spool import ProbabilitySpool
from rayvos.masks.rle import mask_to_rle

__all__ = ["AnsweredFrame", "KeptAnswers", "best_masks"]

PARTS = 3  # of an object's frames; the best mask of each is propagated


@dataclass(frozen=True, slots=True, eq=False)
class AnsweredFrame:
    """What was found on one frame, by object, and the flow to the frames beside."""

    image: NDArray[np.uint8]
    """RGB (height, width, 3)."""
    prompts: Mapping[int, Prompt]
    found: Mapping[int, Found]
    """Objects whose prompt lies outside the frame are not there."""
    fits: Mapping[int, float]
    """Mean box fit of the cuts."""
    flows: Mapping[int, NDArray[np.float32]]
    scale: float


class KeptAnswers:
    """Answers in a temporary file, beside what little else is needed of them."""

    def __init__(self, spool: ProbabilitySpool) -> None:
        self._spool = spool
        self._rest: dict[int, tuple[dict[int, Found], Mapping[int, float]]] = {}

    def keep(self, answers: Iterable[tuple[int, AnsweredFrame]]) -> Iterator[tuple[int, AnsweredFrame]]:
        """Pass on (frame, answer), and keep each.

        Raises:
            StorageError: the temporary folder is full.
        """
        nothing = np.zeros((0, 0), np.float32)
        for frame, answered in answers:
            if answered.found:
                self._spool.put(frame, np.stack([found.probability for found in answered.found.values()]))
            bare = {object_id: replace(found, probability=nothing) for object_id, found in answered.found.items()}
            self._rest[frame] = bare, answered.fits
            yield frame, answered

    def on(self, shot: FrameFlows, prompts: Mapping[int, Prompt]) -> AnsweredFrame:
        """Return what was kept of a frame, with its picture and flow as they were read again."""
        bare, fits = self._rest[shot.frame]
        probabilities = self._spool.get(shot.frame)
        found = {
            object_id: replace(rest, probability=probabilities[place])
            for place, (object_id, rest) in enumerate(bare.items())
            if probabilities is not None
        }
        return AnsweredFrame(shot.image, prompts, found, fits, shot.flows, shot.scale)


def best_masks(labels: Iterable[Label], frames_of: Callable[[int], Sequence[int]]) -> list[MaskPrompt]:
    """Return the masks with the highest score, one of each third of an object's frames.

    Args:
        labels: of a clip.
        frames_of: object id → the frames on which it has a prompt, ascending.
    """
    best: dict[tuple[int, int], tuple[float, MaskPrompt]] = {}
    parts: dict[int, dict[int, int]] = {}
    for label in labels:
        if label.mask is None or label.score is None or not label.mask.any():
            continue
        if label.object_id not in parts:
            frames = frames_of(label.object_id)
            parts[label.object_id] = {frame: place * PARTS // len(frames) for place, frame in enumerate(frames)}
        key = label.object_id, parts[label.object_id][label.frame]
        if key not in best or label.score > best[key][0]:
            mask = MaskPrompt(label.object_id, label.frame, mask_to_rle(label.mask), machine_made=True)
            best[key] = label.score, mask
    return [mask for _, (_, mask) in sorted(best.items())]
