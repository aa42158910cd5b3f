"""Frames of a clip with the flow to their partner frames, read once and in order; and masks moved along that flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rayvos.engines.base import FrameReader
from rayvos.engines.cut.crop_cuts import Crop, flow_window
from rayvos.engines.motion import dense_flow, flow_picture
from rayvos.masks.warp import warp_back

__all__ = ["FrameFlows", "Placed", "move_probability", "moved_neighbours", "partner_places", "read_frame_flows"]


@dataclass(frozen=True, slots=True, eq=False)
class FrameFlows:
    """One frame and how it moves."""

    frame: int
    image: NDArray[np.uint8]
    """RGB (height, width, 3)."""
    flows: dict[int, NDArray[np.float32]]
    """Offset of a partner frame → flow to it, on the flow grid; partners outside the clip are not there."""
    scale: float
    """Pixels of the flow grid per pixel of the frame."""


def read_frame_flows(images: FrameReader, wanted: Sequence[int], offsets: Sequence[int]) -> Iterator[FrameFlows]:
    """Yield the wanted frames; pictures are kept only while a partner may need them.

    Args:
        images: of one clip.
        wanted: frames, ascending.
        offsets: of the partner frames, before (negative) and after.

    Raises:
        InputError: frames cannot be read.
    """
    partners = {frame: [offset for offset in offsets if 0 <= frame + offset < images.num_frames] for frame in wanted}
    needed = sorted({frame + offset for frame in wanted for offset in [0, *partners[frame]]})
    reading = iter(images.read(needed)) if needed else iter(())
    pictures: dict[int, NDArray[np.uint8]] = {}
    greys: dict[int, NDArray[np.uint8]] = {}
    scale = 1.0
    reach = max(offsets, default=0)
    for frame in wanted:
        latest = frame + max(partners[frame], default=0)
        while frame not in pictures or max(greys) < max(frame, latest):
            read, picture = next(reading)
            pictures[read] = picture
            greys[read], scale = flow_picture(picture)
        flows = {offset: dense_flow(greys[frame], greys[frame + offset]) for offset in partners[frame]}
        yield FrameFlows(frame, pictures[frame], flows, scale)
        pictures = {key: value for key, value in pictures.items() if key > frame}
        greys = {key: value for key, value in greys.items() if key > frame - reach}


def move_probability(
    probability: NDArray[np.float32], there: Crop, here: Crop, flow: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Return a partner's probability as this frame's crop sees it; 0 where the flow leads out of the other crop.

    Args:
        probability: on the grid of `there`.
        there: the crop on the partner frame.
        here: the crop on this frame, whose grid the result has.
        flow: of the whole frame, from here to there.
        scale: pixels of the flow grid per pixel of the frame.
    """
    place_x, place_y = partner_places(there, here, flow, scale)
    y, x = np.mgrid[: here.size[0], : here.size[1]].astype(np.float32)
    return warp_back(probability, np.dstack([place_x - x, place_y - y]))


class Placed(Protocol):
    """What was found of an object on one frame."""

    @property
    def probability(self) -> NDArray[np.float32]:
        """On the grid of `crop`, in [0, 1]."""
        ...

    @property
    def crop(self) -> Crop:
        """Where it lies."""
        ...


def moved_neighbours(
    found: Mapping[int, Placed], frame: int, flows: Mapping[int, NDArray[np.float32]], scale: float
) -> list[NDArray[np.float32]]:
    """Return an object's probabilities on the frames beside, moved along the flow to this frame's crop.

    Args:
        found: of the object, by frame; this frame is there, others may be missing.
        frame: this frame.
        flows: offset of a frame beside → flow of the whole frame to it.
        scale: pixels of the flow grid per pixel of the frame.
    """
    here = found[frame].crop
    beside = [(found[frame + offset], flow) for offset, flow in flows.items() if frame + offset in found]
    return [move_probability(other.probability, other.crop, here, flow, scale) for other, flow in beside]


def partner_places(
    there: Crop, here: Crop, flow: NDArray[np.float32], scale: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where each pixel of this frame's crop lies on the partner's grid: x and y, each of `here.size`.

    Args:
        there: the crop on the partner frame.
        here: the crop on this frame.
        flow: of the whole frame, from here to there.
        scale: pixels of the flow grid per pixel of the frame.
    """
    y, x = np.mgrid[: here.size[0], : here.size[1]].astype(np.float32)
    shift = flow_window(flow, here, scale) / scale
    # Pixel centres: working grid -> frame -> along the flow -> the neighbour's working grid.
    (step_x, step_y), (other_x, other_y) = here.step, there.step
    place_x = (here.area[0] + (x + 0.5) * step_x + shift[..., 0] - there.area[0]) / other_x - 0.5
    place_y = (here.area[1] + (y + 0.5) * step_y + shift[..., 1] - there.area[1]) / other_y - 0.5
    return place_x, place_y
