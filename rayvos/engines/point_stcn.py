"""Engine `point-stcn`: a few points on each object, propagated to masks on all frames by a Point-STCN.

Each object is known from its positive points on its reference frame, the first that has any: the network remembers
a map that is 0 except at those points. The reference frame itself is then read from that memory, like all others.
Negative and ambiguous points are not used.

Source: Point-VOS, Point-STCN; the network is STCN's, its weights trained with points (`rayvos train stcn`).
Differs: the paper propagates forwards from the reference frame; here `direction` says, as in `stcn`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from rayvos.annotations.records import Clip, MaskPrompt, Point
from rayvos.engines.base import FrameReader, Label, ObjectProbability
from rayvos.engines.stcn import StcnConfig, StcnEngine
from rayvos.errors import InputError, WeightsError
from rayvos.masks.rle import mask_to_rle
from rayvos.models.stcn import STCN

__all__ = ["PointStcnEngine", "points_as_masks"]


class PointStcnEngine(StcnEngine):
    """Propagates the points of a clip; needs Point-STCN weights in the layout of STCN."""

    name = "point-stcn"
    sparse = True

    def __init__(self, config: StcnConfig | None = None, *, weights: str | None = None, device: str = "auto") -> None:
        """Load the weights; see `StcnEngine`.

        Raises:
            WeightsError: no weights are given, or they are missing, damaged or another network's.
            UsageError: there is no such kind of device.
        """
        if weights is None:
            raise WeightsError(
                "engine 'point-stcn' needs --weights FILE of an STCN trained with points: the packaged weights know "
                "masks only; train them with rayvos, or label points with --engine guided"
            )
        super().__init__(config, weights=weights, device=device)
        if not isinstance(self._network, STCN):
            raise WeightsError(
                f"weights {weights}: expected a stcn network, found the compact one, which knows no points"
            )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame and object, ordered by (frame, object_id).

        An object without positive points is absent everywhere.

        Raises:
            InputError: there are no positive points, one lies outside the frame, more than 254 objects have some, or
                a frame cannot be read.
            StorageError: the temporary folder is full.
            UsageError: the device does not exist here.
        """
        return super().label(points_as_masks(clip), images, frames)

    def probabilities(self, clip: Clip, images: FrameReader, frames: Sequence[int]) -> Iterator[ObjectProbability]:
        """Yield the fused probability of every frame and object, from its positive points; see `Propagator`.

        Raises:
            InputError, StorageError, UsageError: see `label`.
        """
        return super().probabilities(points_as_masks(clip), images, frames)


def points_as_masks(clip: Clip) -> Clip:
    """Return the clip with each object's positive points on its reference frame as its only mask.

    Raises:
        InputError: there are no positive points, or one lies outside the frame.
    """
    chosen: dict[int, list[Point]] = {}
    for point in sorted(clip.points, key=lambda point: point.frame):
        if point.label != "positive":
            continue
        points = chosen.setdefault(point.object_id, [])
        if not points or points[0].frame == point.frame:
            points.append(point)
    if clip.objects and not chosen:
        raise InputError(
            f"clip {clip.clip_id!r}: expected at least one positive point to propagate, found none; give some in the "
            "manifest, or propagate masks with --engine stcn"
        )
    masks = []
    for object_id, points in sorted(chosen.items()):
        mask = np.zeros((clip.height, clip.width), np.bool_)
        for point in points:
            x, y = math.floor(point.x), math.floor(point.y)
            if not (0 <= x < clip.width and 0 <= y < clip.height):
                raise InputError(
                    f"clip {clip.clip_id!r} frame {point.frame} object {object_id}: expected points within "
                    f"{clip.width}x{clip.height}, found ({point.x:g}, {point.y:g}); is it in pixels of another size?"
                )
            mask[y, x] = True
        masks.append(MaskPrompt(object_id, points[0].frame, mask_to_rle(mask)))
    return replace(clip, masks=tuple(masks))
