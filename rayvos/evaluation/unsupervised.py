"""DAVIS 2017 unsupervised: proposals are matched with the objects before they are scored.

Source: davis2017-evaluation, task `unsupervised`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rayvos.errors import IdError
from rayvos.evaluation.frame_scores import score_pairs
from rayvos.evaluation.outlines import BOUND_TH
from rayvos.evaluation.protocols import davis_summary, radius_of
from rayvos.evaluation.results import ObjectScores
from rayvos.evaluation.sources import FrameMatch

__all__ = ["DavisUnsupervised"]

MAX_PROPOSALS = 20  # the official limit, on the highest id


@dataclass(frozen=True, slots=True)
class DavisUnsupervised:
    """All frames; one proposal per object such that the sum of their mean J&F is highest.

    Void pixels (255 in the truth) count for nobody. Objects are ids 1 to the highest of the first true frame.
    Proposals beyond the objects are free, missing ones are empty masks. Objects are named in the order of their
    proposals, as in the official tool: `<clip>_<k>` is not always object k.
    """

    name: ClassVar[str] = "davis2017-unsupervised"
    scale: ClassVar[int] = 1
    bound_th: float = BOUND_TH

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return the clip's objects, each with the proposal it was matched with.

        Raises:
            IdError: the prediction has an id above 20.
        """
        num_objects = match.truth.read(0).without_void().max_id()
        if num_objects == 0:
            return []
        scores_TPO2 = self._pair_scores(match, num_objects)
        means_PO = scores_TPO2.mean(axis=0).mean(axis=2)
        proposals, objects = linear_sum_assignment(-means_PO)
        clip_id = match.truth.clip_id
        numbers = tuple(range(len(match.numbers)))
        return [
            ObjectScores(
                clip_id,
                int(column) + 1,
                f"{clip_id}_{position}",
                tuple(match.name(number) for number in numbers),
                tuple(scores_TPO2[:, row, column, 0].tolist()),
                tuple(scores_TPO2[:, row, column, 1].tolist()),
                numbers,
                len(numbers),
                prediction_id=int(row) + 1,
            )
            for position, (row, column) in enumerate(zip(proposals, objects, strict=True), start=1)
        ]

    def _pair_scores(self, match: FrameMatch, num_objects: int) -> NDArray[np.float64]:
        """Return (frames, proposals, objects, 2): J and F of every proposal against every object."""
        frames = []
        for number in range(len(match.numbers)):
            truth, mask = match.read(number)
            if mask.max_id() > MAX_PROPOSALS:
                raise IdError(
                    f"{match.place(number)}: id {mask.max_id()}, but the benchmark allows {MAX_PROPOSALS} proposals a "
                    "clip; number them 1…20"
                )
            radius = radius_of(truth, self.bound_th)
            frames.append(score_pairs(truth, mask, num_objects, mask.max_id(), radius))
        num_proposals = max(num_objects, *(len(frame) - 1 for frame in frames))
        found = np.empty((len(frames), num_proposals, num_objects, 2))
        for number, frame in enumerate(frames):
            found[number, : len(frame) - 1] = frame[:-1]
            found[number, len(frame) - 1 :] = frame[-1]  # proposals that this frame does not show
        return found

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return the means over objects."""
        return davis_summary(objects)
