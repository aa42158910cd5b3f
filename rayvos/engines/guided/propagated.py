"""What the masks that a person gave of an object say of its other frames, by engine `stcn`.

A sharpened network learns how an object looks in its box; a propagation compares each frame with the masks, piece by
piece, and follows motion. They fail on different frames. Each object is propagated alone, so that a corrected mask of
one leaves the labels of others as they are.

Probabilities wait in temporary files, not in memory, until the frame's crop is looked at.
Array layouts: H height, W width of the frame; h w at most 240 on the shorter side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import FrameReader
from rayvos.engines.cut.crop_cuts import Crop
from rayvos.engines.stcn.anchors import working_size
from rayvos.engines.stcn.engine import StcnEngine
from rayvos.engines.stcn.spool import ProbabilitySpool
from rayvos.masks.resizing import resize_plane

__all__ = ["PropagatedMasks", "view_on_crop"]

SHORT_SIDE = 240  # as the packaged network works; finer maps would say no more


class PropagatedMasks:
    """Probabilities by object and frame; their files are closed with `stack`."""

    def __init__(self, engine: StcnEngine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack
        self._spools: dict[int, ProbabilitySpool] = {}

    def add(self, clip: Clip, images: FrameReader, masks: Iterable[MaskPrompt], frames: Sequence[int]) -> None:
        """Propagate masks of the clip's objects to some of its frames, ascending.

        Raises:
            InputError: a frame or a mask cannot be read.
            StorageError: the temporary folder is full.
            UsageError: the engine's device does not exist here.
        """
        size = working_size(clip.height, clip.width, SHORT_SIDE)
        for object_id, given in _by_object(masks).items():
            spool = self._spools[object_id] = self._stack.enter_context(ProbabilitySpool())
            alone = replace(clip.with_objects([object_id]), masks=tuple(given))
            for found in self._engine.probabilities(alone, images, frames):
                spool.put(found.frame, resize_plane(found.probability, *size))

    def on(self, frame: int) -> Mapping[int, NDArray[np.float32]]:
        """Return the probabilities (h, w) of a frame's objects, of those whose masks were propagated."""
        maps = {object_id: spool.get(frame) for object_id, spool in self._spools.items()}
        return {object_id: found for object_id, found in maps.items() if found is not None}


def view_on_crop(probability: NDArray[np.float32], crop: Crop, height: int, width: int) -> NDArray[np.float32]:
    """Return a frame's probability (h, w) on the working grid of a crop, in [0, 1].

    Args:
        probability: of the whole frame, of any size.
        crop: where to look.
        height: of the frame, in whose pixels the crop is given.
        width: of the frame.
    """
    down, across = probability.shape[0] / height, probability.shape[1] / width
    step_x, step_y = crop.step[0] * across, crop.step[1] * down
    left, top = crop.area[0] * across + (step_x - 1) / 2, crop.area[1] * down + (step_y - 1) / 2
    places = np.array([[step_x, 0, left], [0, step_y, top]], np.float64)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(probability, places, crop.size[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, np.float32)


def _by_object(masks: Iterable[MaskPrompt]) -> dict[int, list[MaskPrompt]]:
    found: dict[int, list[MaskPrompt]] = {}
    for mask in masks:
        found.setdefault(mask.object_id, []).append(mask)
    return found
