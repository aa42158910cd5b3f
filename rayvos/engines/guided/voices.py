"""Several answers to one crop, and how much each of them counts.

A network that one mask has sharpened is better than the one before on frames like that mask's, and may be far worse
on others; so is what was propagated of that mask. Which frame is which, the box tells: each answer counts as much as
its own tight box fits the given one, to the third power, as among the cuts of engine `cut`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rayvos.engines.cut.crop_cuts import Crop, box_fit
from rayvos.engines.guided.network import Found
from rayvos.engines.guided.pasting import THRESHOLD
from rayvos.masks.components import drop_specks

__all__ = ["hear_voices"]

FIT_POWER = 3
LEAST_FIT = 1e-3  # where no answer fits at all, all count alike


def hear_voices(
    answers: Sequence[Found], propagated: NDArray[np.float32] | None, *, boxed: bool, share: float = 1.0
) -> Found:
    """Return one answer made of several to the same crop.

    Args:
        answers: of networks.
        propagated: one more probability on the same grid; None: there is none.
        boxed: whether a box was given; without one, all fit alike.
        share: how much the propagated one counts beside the others.

    Returns:
        the weighted mean of the probabilities; its `quality` is that of the networks', weighted alike.
    """
    probabilities = [answer.probability for answer in answers]
    if propagated is not None:
        probabilities.append(propagated)
    weights = np.array([_fit(probability, answers[0].crop) if boxed else 1.0 for probability in probabilities])
    weights[len(answers) :] *= share
    mixed = sum(
        np.float32(weight / weights.sum()) * heard for weight, heard in zip(weights, probabilities, strict=True)
    )
    qualities = [answer.quality for answer in answers]
    quality = float(np.average(qualities, weights=weights[: len(answers)]))
    return replace(answers[0], probability=np.asarray(mixed, np.float32), quality=quality)


def _fit(probability: NDArray[np.float32], crop: Crop) -> float:
    return (box_fit(drop_specks(probability > THRESHOLD), crop.inner) + LEAST_FIT) ** FIT_POWER
