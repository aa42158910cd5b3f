"""Engine `point-stcn`: a few points on each object, propagated to masks on all frames by a Point-STCN.

Each object is known from its positive points on its reference frame, the first that has any: the network remembers
a map that is 0 except at those points, or on discs around them where its weights were trained so. The reference frame
itself is then read from that memory, like all others.
Negative and ambiguous points are not used.

Source: Point-VOS, Point-STCN; the network is STCN's, its weights trained with points (`rayvos train point-stcn`).
Differs: the paper propagates forwards from the reference frame; here `direction` says, as in `stcn`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rayvos.annotations.records import Clip, MaskPrompt, Point
from rayvos.engines.base import FrameReader, Label, ObjectProbability
from rayvos.engines.stcn.engine import StcnConfig, StcnEngine
from rayvos.errors import InputError, UsageError, WeightsError
from rayvos.masks.points import draw_discs
from rayvos.masks.rle import mask_to_rle
from rayvos.models.stcn import STCN
from rayvos.models.weights import read_weights

__all__ = ["PointStcnConfig", "PointStcnEngine", "points_as_masks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointStcnConfig(StcnConfig):
    """Options of the engine `point-stcn`."""

    radius_px: int | Literal["auto"] = "auto"
    """Of the discs that points become; auto: as the weights were trained, 0 (single pixels) where they do not say."""

    def __post_init__(self) -> None:
        StcnConfig.__post_init__(self)
        if isinstance(self.radius_px, int) and self.radius_px < 0:
            raise UsageError(f"radius_px: expected a number from 0, found {self.radius_px}")


class PointStcnEngine(StcnEngine):
    """Propagates the points of a clip; needs Point-STCN weights in the layout of STCN."""

    name = "point-stcn"
    sparse = True

    def __init__(
        self, config: PointStcnConfig | None = None, *, weights: str | None = None, device: str = "auto"
    ) -> None:
        """Load the weights; see `StcnEngine`.

        Raises:
            WeightsError: no weights are given, or they are missing, damaged or another network's.
            UsageError: there is no such kind of device.
        """
        if weights is None:
            raise WeightsError(
                "engine 'point-stcn' needs --weights FILE of an STCN trained with points: the packaged weights know "
                "masks only; train some with rayvos train point-stcn, or label points with --engine guided"
            )
        config = config or PointStcnConfig()
        super().__init__(config, weights=weights, device=device)
        if not isinstance(self._network, STCN):
            raise WeightsError(
                f"weights {weights}: expected a stcn network, found the compact one, which knows no points"
            )
        self._radius_px = _trained_radius(weights) if config.radius_px == "auto" else config.radius_px

    def options(self) -> Mapping[str, Any]:
        """Return everything besides the weights that labels depend on."""
        return {**super().options(), "radius_px": self._radius_px}

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame and object, ordered by (frame, object_id).

        An object without positive points is absent everywhere.

        Raises:
            InputError: there are no positive points, one lies outside the frame, more than 254 objects have some, or
                a frame cannot be read.
            StorageError: the temporary folder is full.
            UsageError: the device does not exist here.
        """
        return super().label(points_as_masks(clip, self._radius_px), images, frames)

    def probabilities(self, clip: Clip, images: FrameReader, frames: Sequence[int]) -> Iterator[ObjectProbability]:
        """Yield the fused probability of every frame and object, from its positive points; see `Propagator`.

        Raises:
            InputError, StorageError, UsageError: see `label`.
        """
        return super().probabilities(points_as_masks(clip, self._radius_px), images, frames)


def _trained_radius(weights: str) -> int:
    """Return the radius that `rayvos train point-stcn` wrote into its weights; 0 for weights of others."""
    if not weights.endswith(".safetensors"):
        return 0
    task = read_weights(weights)[1].training.get("task", {})
    return int(task.get("radius_px", 0))


def points_as_masks(clip: Clip, radius_px: int = 0) -> Clip:
    """Return the clip with each object's positive points on its reference frame as its only mask.

    Args:
        clip: with points.
        radius_px: of the discs that points become; 0: single pixels.

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
        pixels = [(math.floor(point.x), math.floor(point.y)) for point in points]
        for (x, y), point in zip(pixels, points, strict=True):
            if not (0 <= x < clip.width and 0 <= y < clip.height):
                raise InputError(
                    f"clip {clip.clip_id!r} frame {point.frame} object {object_id}: expected points within "
                    f"{clip.width}x{clip.height}, found ({point.x:g}, {point.y:g}); is it in pixels of another size?"
                )
        mask = draw_discs(np.array(pixels, np.int64), clip.height, clip.width, radius_px)
        masks.append(MaskPrompt(object_id, points[0].frame, mask_to_rle(mask)))
    return replace(clip, masks=tuple(masks))
