"""The masks that people gave, as a propagation reads them: which objects are known from where, and at what size.

A given mask is an *anchor* of its object. One that holds pixels makes its object known: to the forward pass from
the first such frame on, to the backward pass from the last one back. An empty mask, or the statement that an object
is absent, makes nothing known; where its object is known, it says that nothing of it is there, and enters the memory
like any other anchor.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.stcn.propagation import pad_to_stride
from rayvos.errors import FormatError, InputError

__all__ = ["AnchorMasks", "Anchors", "find_anchors", "scale_mask", "scale_points", "working_size"]

MAX_OBJECTS = 254  # of one clip: label maps of one byte hold as many, beside background and the ignore label


@dataclass(frozen=True, slots=True)
class Anchors:
    """The anchors of a clip's objects; a *position* counts the objects that have a mask with pixels, from 0."""

    object_ids: tuple[int, ...]
    """Position → object id, ascending."""
    by_frame: Mapping[int, Mapping[int, MaskPrompt]]
    """Frame → position → given mask."""
    frames: tuple[tuple[int, ...], ...]
    """Position → frames of its anchors, ascending."""
    first: tuple[int, ...]
    """Position → first frame on which its mask holds pixels."""
    last: tuple[int, ...]
    """Position → last frame on which its mask holds pixels."""

    def forward_share(self, frame: int, position: int, *, forward: bool, backward: bool) -> float | None:
        """Return the weight of the forward pass for an object on a frame, in [0, 1]; None: no pass knows it.

        Between two anchors the weight falls linearly from 1 at the earlier one to 0 at the later one; where only one
        pass knows the object, that one counts alone.

        Args:
            frame: of the clip.
            position: of the object.
            forward: the forward pass takes place.
            backward: the backward pass takes place.
        """
        from_before = forward and frame >= self.first[position]
        from_behind = backward and frame <= self.last[position]
        if not (from_before and from_behind):
            return 1.0 if from_before else 0.0 if from_behind else None
        frames = self.frames[position]
        before, behind = frames[bisect_right(frames, frame) - 1], frames[bisect_left(frames, frame)]
        return 1.0 if before == behind else (behind - frame) / (behind - before)


def find_anchors(clip: Clip) -> Anchors:
    """Return the anchors of a clip.

    Raises:
        InputError: the clip has objects and no mask at all, or more than 254 objects with masks.
        FormatError: a mask belongs to another size, or is damaged.
    """
    from rayvos.masks.rle import rle_area

    where = f"clip {clip.clip_id!r}"
    if clip.objects and not clip.masks:
        raise InputError(
            f"{where}: expected at least one mask to propagate, found none; "
            "give one in the manifest, or label boxes with --engine cut or box2seg"
        )
    filled: dict[int, list[int]] = {}
    for mask in clip.masks:
        try:
            if mask.rle is not None and rle_area(mask.rle, clip.height, clip.width):
                filled.setdefault(mask.object_id, []).append(mask.frame)
        except FormatError as error:
            raise FormatError(f"{where} frame {mask.frame} object {mask.object_id}: {error}") from error
    if len(filled) > MAX_OBJECTS:
        raise InputError(
            f"{where}: expected at most {MAX_OBJECTS} objects with masks, found {len(filled)}; "
            "are the masks anti-aliased or JPEG files? Else divide the objects among several clips"
        )
    object_ids = tuple(sorted(filled))
    position_of = {object_id: position for position, object_id in enumerate(object_ids)}
    by_frame: dict[int, dict[int, MaskPrompt]] = {}
    frames: list[list[int]] = [[] for _ in object_ids]
    for mask in sorted(clip.masks, key=lambda mask: (mask.frame, mask.object_id)):
        if mask.object_id in position_of:
            position = position_of[mask.object_id]
            by_frame.setdefault(mask.frame, {})[position] = mask
            frames[position].append(mask.frame)
    return Anchors(
        object_ids,
        by_frame,
        tuple(map(tuple, frames)),
        tuple(min(filled[object_id]) for object_id in object_ids),
        tuple(max(filled[object_id]) for object_id in object_ids),
    )


def working_size(height: int, width: int, max_size: int | None) -> tuple[int, int]:
    """Return the size a frame is worked on: its own, or with the shorter side scaled down to `max_size`.

    The longer side is rounded down. Source: facts of the official loader. Differs: smaller frames are not scaled up.
    """
    short = min(height, width)
    if max_size is None or short <= max_size:
        return height, width
    if height <= width:
        return max_size, int(max_size * width / height)
    return int(max_size * height / width), max_size


def scale_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Return a mask at the working size, float 0/1: nearest neighbour, as the official loader does.

    A mask that holds pixels never gets lost: where none of them is a nearest neighbour, the places that they fall
    on are set.
    """
    scaled = torch.from_numpy(mask.astype(np.float32))
    if mask.shape == size:
        return scaled
    scaled = F.interpolate(scaled[None, None], size, mode="nearest")[0, 0]
    return scale_points(mask, size) if mask.any() and not scaled.any() else scaled


def scale_points(mask: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Return the places at the working size that pixels of a mask fall on, float 0/1; none gets lost."""
    scaled = torch.zeros(size)
    y, x = np.nonzero(mask)
    scaled[torch.from_numpy(y * size[0] // mask.shape[0]), torch.from_numpy(x * size[1] // mask.shape[1])] = 1
    return scaled


class AnchorMasks(Mapping[int, Mapping[int, Tensor]]):
    """The anchors of one pass as padded masks, decoded when they are asked for: {frame: {position: (H, W)}}."""

    def __init__(
        self,
        anchors: Anchors,
        clip: Clip,
        size: tuple[int, int],
        device: torch.device,
        *,
        backward: bool,
        sparse: bool = False,
    ) -> None:
        """Look at the anchors in the direction of a pass.

        Args:
            anchors: of the clip.
            clip: whose masks they are.
            size: the working size.
            device: where the masks are needed.
            backward: the pass goes back in time.
            sparse: the masks are points, none of which may get lost.
        """
        self._clip, self._size, self._device = clip, size, device
        self._scale = scale_points if sparse else scale_mask
        self._known: dict[int, dict[int, MaskPrompt]] = {}
        for frame, masks in anchors.by_frame.items():
            known = {
                position: mask
                for position, mask in masks.items()
                if (frame <= anchors.last[position] if backward else frame >= anchors.first[position])
            }
            if known:
                self._known[frame] = known

    def __getitem__(self, frame: int) -> Mapping[int, Tensor]:
        from rayvos.masks.rle import rle_to_mask

        height, width = self._clip.height, self._clip.width
        masks = {}
        for position, prompt in self._known[frame].items():
            empty = np.zeros((height, width), np.bool_)
            mask = empty if prompt.rle is None else rle_to_mask(prompt.rle, height, width)
            masks[position] = pad_to_stride(self._scale(mask, self._size))[0].to(self._device)
        return masks

    def __iter__(self) -> Iterator[int]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
