"""How well a propagation network carries objects through clips it never saw: region J and boundary F.

The first annotated frame is given, as masks or as points, and every later annotated frame is scored for the objects
given there. Memory as in evaluation: every fifth frame, the 20 nearest places. J and F are those of DAVIS.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayvos.engines.stcn.propagation import pad_to_stride, propagate, unpad
from rayvos.evaluation.boundary_f import boundary_f
from rayvos.evaluation.jaccard import jaccard
from rayvos.masks.ignore import IGNORE
from rayvos.models.stcn import STCN, FrameFeatures, normalise_images
from rayvos.training.stcn_samples import reference_map
from rayvos.training.vos_clips import FrameView, VosClips, draw_points

__all__ = ["clip_scores", "validate_propagation"]


def validate_propagation(
    network: STCN, clips: VosClips, *, num_clips: int, num_points: int | None = None, radius_px: int = 0
) -> dict[str, float]:
    """Return `j_and_f`, `jaccard` and `boundary_f`, means over objects.

    Args:
        network: on any device.
        clips: with masks.
        num_clips: the first so many are used.
        num_points: points of an object that are given, drawn from its mask; None: its mask is given.
        radius_px: of the discs that points become.
    """
    found = [
        score
        for number in range(min(num_clips, len(clips)))
        for score in clip_scores(network, clips, number, num_points=num_points, radius_px=radius_px)
    ]
    if not found:
        return {"j_and_f": 0.0, "jaccard": 0.0, "boundary_f": 0.0}
    region, boundary = np.mean(found, axis=0).tolist()
    return {"j_and_f": (region + boundary) / 2, "jaccard": region, "boundary_f": boundary}


def clip_scores(
    network: STCN, clips: VosClips, number: int, *, num_points: int | None = None, radius_px: int = 0
) -> list[tuple[float, float]]:
    """Return (J, F) of each object given on a clip's first annotated frame, means over its later frames."""
    frames = clips.frames(number)
    views = clips.views(number, frames)
    first = views[0].labels
    present = [known for known in np.unique(first).tolist() if known not in (0, IGNORE)]
    given = {known: _reference(first, known, num_points, radius_px, clips.name(number)) for known in present}
    given = {known: reference for known, reference in given.items() if reference.any()}
    if not given:
        return []
    scores: dict[int, list[tuple[float, float]]] = {known: [] for known in given}
    for place, labels in _propagated(network, views, given).items():
        void = views[place].labels == IGNORE
        for position, known in enumerate(given, start=1):
            truth, mask = views[place].labels == known, labels == position
            scores[known].append((jaccard(truth, mask, void), boundary_f(truth, mask, void)))
    means = (np.mean(each, axis=0).tolist() for each in scores.values())
    return [(region, boundary) for region, boundary in means]


def _reference(
    labels: NDArray[np.uint8], known: int, num_points: int | None, radius_px: int, name: str
) -> NDArray[np.float32]:
    if num_points is None:
        return np.asarray(labels == known, np.float32)
    points = draw_points(labels, known, num_points, ("validation", name, 0))
    chosen = (points.number_P == known) & points.positive_P
    height, width = labels.shape
    return reference_map(points.xy_P2[chosen], height, width, radius_px)


def _propagated(
    network: STCN, views: list[FrameView], given: Mapping[int, NDArray[np.float32]]
) -> dict[int, NDArray[np.int64]]:
    """Return the label map (positions in `given` from 1, 0 background) of every view after the first."""
    device = next(network.parameters()).device
    padding = pad_to_stride(torch.empty(given[next(iter(given))].shape))[1]

    def encode(place: int) -> tuple[Tensor, FrameFeatures]:
        padded = pad_to_stride(normalise_images(torch.from_numpy(views[place].image).to(device)[None]))[0]
        return padded, network.encode_key(padded)

    masks = {
        position: pad_to_stride(torch.from_numpy(reference).to(device))[0]
        for position, reference in enumerate(given.values())
    }
    found = {}
    with torch.inference_mode():
        for place, probability in propagate(network, encode, range(len(views)), {0: masks}, len(given)):
            if place > 0:
                found[place] = unpad(probability, padding).argmax(0).cpu().numpy()
    return found
