"""What boxes alone say of masks: losses that need no mask, and the crops they are computed on.

A person's box touches its object on all four sides, nothing outside it is the object, neighbours of one colour belong
together, and a mask moves with the flow. None of this makes a network; all of it bends one that is nearly right
towards the frames at hand. What holds it is the anchor: its own first answer.

Source: BoxInst (projection, pairwise) and the specification of the default model, section 5b, whose pilot chose the
weights: full weights let low-fill objects fill their boxes, mild ones with the anchor made every clip better.
Differs: the temporal term is new.
Tensor layouts: B batch, C planes, H height, W width, D the four directions of `NEIGHBOURS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from rayvos.annotations.records import Box, Clip
from rayvos.engines.base import FrameReader
from rayvos.engines.cut.crop_cuts import Crop
from rayvos.engines.cut.frame_flows import FrameFlows, partner_places, read_frame_flows
from rayvos.engines.guided.guidance import OFFSETS, UNIT, Guidance, Prompt, guidance_planes
from rayvos.engines.guided.network import on_grid
from rayvos.models.guided import PLANES, GuidedOutput

__all__ = [
    "BoxBatch",
    "BoxCrop",
    "BoxLossWeights",
    "box_losses",
    "box_pairs",
    "read_box_crops",
    "stack_crops",
    "total_loss",
]

NEIGHBOURS = ((0, 2), (2, 0), (2, 2), (2, -2))  # (down, right); BoxInst: 3x3 with dilation 2, each pair once
COLOR_SCALE, SAME_COLOR = 16.0, 0.3  # specification 5b: exp(-|dLab| / 16) > 0.3
BOX = PLANES.index("box")
EPSILON = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxLossWeights:
    """Weights of the terms."""

    projection: float = 0.3
    """The mask reaches all four sides of its box."""
    negatives: float = 1.0
    """Nothing outside the box."""
    pairwise: float = 0.3
    """Neighbours of one colour have one label."""
    temporal: float = 0.3
    """The mask of the next frame, moved along the flow, is this one's."""
    anchor: float = 0.3
    """What the network said before."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxCrop:
    """One boxed object on one frame, and on the next."""

    frame: int
    object_id: int
    box: NDArray[np.float32]
    """(4,) in pixels of the crop's grid."""
    planes: NDArray[np.int8]
    """(C, size, size)."""
    partner: NDArray[np.int8]
    """(C, size, size), of the next frame."""
    places: NDArray[np.float32]
    """(size, size, 2): where each pixel (x, y) lies on the partner's grid."""
    same_color: NDArray[np.bool_]
    """(D, size, size): whether the neighbour in that direction has the pixel's colour."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxBatch:
    """Crops put together."""

    planes_BCHW: Tensor
    """int8."""
    partner_BCHW: Tensor
    """int8."""
    grid_BHW2: Tensor
    """float32, as `grid_sample` takes it without aligned corners."""
    same_color_BDHW: Tensor
    """bool."""

    def to(self, device: torch.device) -> BoxBatch:
        """Return the batch on a device."""
        return BoxBatch(
            self.planes_BCHW.to(device), self.partner_BCHW.to(device), self.grid_BHW2.to(device),
            self.same_color_BDHW.to(device),
        )  # fmt: skip


def box_pairs(clip: Clip, most: int) -> list[tuple[int, int]]:
    """Return (frame, object_id) of boxes whose object is boxed on the next frame, too, evenly spread over the clip."""
    boxed = {(box.frame, box.object_id) for box in clip.boxes if box.visible}
    pairs = sorted((frame, object_id) for frame, object_id in boxed if (frame + 1, object_id) in boxed)
    count = min(most, len(pairs))
    return [pairs[(2 * part + 1) * len(pairs) // (2 * count)] for part in range(count)]


def read_box_crops(clip: Clip, images: FrameReader, pairs: Sequence[tuple[int, int]], size: int) -> Iterator[BoxCrop]:
    """Yield the crops of pairs, ascending by frame; a box outside its frame has none.

    Raises:
        InputError: frames cannot be read.
    """
    boxes = {(box.frame, box.object_id): box for box in clip.boxes if box.visible}
    objects: dict[int, list[int]] = {}
    for frame, object_id in sorted(pairs):
        objects.setdefault(frame, []).append(object_id)
    wanted = sorted({frame + step for frame in objects for step in (0, 1)})
    before: dict[int, tuple[FrameFlows, Guidance]] = {}
    for shot in read_frame_flows(images, wanted, OFFSETS):
        needed = {*objects.get(shot.frame, []), *objects.get(shot.frame - 1, [])}
        here = {object_id: _guidance(shot, boxes[shot.frame, object_id], size) for object_id in sorted(needed)}
        for object_id in objects.get(shot.frame - 1, []):
            partner = here[object_id]
            if object_id in before and partner is not None:
                yield _box_crop(*before[object_id], partner, object_id, size)
        before = {object_id: (shot, found) for object_id, found in here.items() if found is not None}


def _guidance(shot: FrameFlows, box: Box, size: int) -> Guidance | None:
    prompt = Prompt(box=np.array([box.x0, box.y0, box.x1, box.y1], np.float32))
    return guidance_planes(shot.image, prompt, shot.flows, shot.scale, size)


def _box_crop(shot: FrameFlows, guidance: Guidance, partner: Guidance, object_id: int, size: int) -> BoxCrop:
    here, there = on_grid(guidance.crop, size), on_grid(partner.crop, size)
    places = np.dstack(partner_places(there, here, shot.flows[1], shot.scale))
    return BoxCrop(
        shot.frame, object_id, _box_on_grid(here), guidance.planes, partner.planes, places.astype(np.float32),
        _same_color(guidance.planes),
    )  # fmt: skip


def _box_on_grid(crop: Crop) -> NDArray[np.float32]:
    (step_x, step_y), (left, top) = crop.step, crop.area[:2]
    x0, y0, x1, y1 = crop.pixels
    return np.array([(x0 - left) / step_x, (y0 - top) / step_y, (x1 - left) / step_x, (y1 - top) / step_y], np.float32)


def _same_color(planes: NDArray[np.int8]) -> NDArray[np.bool_]:
    rgb = np.ascontiguousarray(np.moveaxis(planes[:3], 0, 2).astype(np.float32) / (2 * UNIT) + 0.5)
    lab = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB), np.float32)
    height, width = lab.shape[:2]
    found = np.zeros((len(NEIGHBOURS), height, width), np.bool_)
    for direction, (down, right) in enumerate(NEIGHBOURS):
        rows, columns = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        other = lab[down:, max(0, right) : width - max(0, -right)]
        distance = np.linalg.norm(lab[rows, columns] - other, axis=2)
        found[direction, rows, columns] = np.exp(-distance / COLOR_SCALE) > SAME_COLOR
    return found


def stack_crops(crops: Sequence[BoxCrop]) -> BoxBatch:
    """Put crops together."""
    size = crops[0].planes.shape[1]
    places = np.stack([crop.places for crop in crops])
    return BoxBatch(
        torch.from_numpy(np.stack([crop.planes for crop in crops])),
        torch.from_numpy(np.stack([crop.partner for crop in crops])),
        torch.from_numpy((2 * places + 1) / np.float32(size) - 1),
        torch.from_numpy(np.stack([crop.same_color for crop in crops])),
    )


def box_losses(network: nn.Module, start: nn.Module, batch: BoxBatch, weights: BoxLossWeights) -> dict[str, Tensor]:
    """Return the weighted terms by the names of `BoxLossWeights`, each a scalar; their sum is the loss.

    Args:
        network: what learns.
        start: the network as it was before; the anchor.
        batch: crops of boxed objects.
        weights: of the terms.
    """
    planes_BCHW = batch.planes_BCHW.float() / UNIT
    with torch.no_grad():
        first: GuidedOutput = start(planes_BCHW)
        following: GuidedOutput = network(batch.partner_BCHW.float() / UNIT)
        next_B1HW = torch.sigmoid(following.logits_BHW.float())[:, None]
        moved_BHW = F.grid_sample(next_B1HW, batch.grid_BHW2, align_corners=False)[:, 0]
        seen_BHW = ((batch.grid_BHW2.abs() <= 1).all(dim=3)).float()
        anchor_BHW = torch.sigmoid(first.logits_BHW.float())
    output: GuidedOutput = network(planes_BCHW)
    logits_BHW = output.logits_BHW.float()
    probability_BHW = torch.sigmoid(logits_BHW)
    box_BHW = planes_BCHW[:, BOX]
    difference_BHW = (probability_BHW - moved_BHW).square() * seen_BHW
    outside_BHW = 1 - box_BHW
    terms = {
        "projection": _projection(probability_BHW, box_BHW),
        "negatives": (F.softplus(logits_BHW) * outside_BHW).sum() / (outside_BHW.sum() + EPSILON),
        "pairwise": _pairwise(logits_BHW, batch.same_color_BDHW, box_BHW),
        "temporal": difference_BHW.sum() / (seen_BHW.sum() + EPSILON),
        "anchor": F.binary_cross_entropy_with_logits(logits_BHW, anchor_BHW),
    }
    return {name: getattr(weights, name) * term for name, term in terms.items()}


def _projection(probability_BHW: Tensor, box_BHW: Tensor) -> Tensor:
    """Return the Dice loss of the mask's maxima over columns and rows against the box's."""
    inside_BHW = probability_BHW * box_BHW  # what lies outside is the negatives' business
    losses = []
    for axis in (1, 2):
        found, wanted = inside_BHW.amax(dim=axis), box_BHW.amax(dim=axis)
        shared = 2 * (found * wanted).sum(dim=1)
        losses.append(1 - shared / (found.square().sum(dim=1) + wanted.square().sum(dim=1) + EPSILON))
    return (losses[0] + losses[1]).mean()


def _pairwise(logits_BHW: Tensor, same_color_BDHW: Tensor, box_BHW: Tensor) -> Tensor:
    """Return the mean of -log P(both are the object, or both are not) over neighbours of one colour in the box."""
    height, width = logits_BHW.shape[1:]
    total, count = logits_BHW.sum() * 0, logits_BHW.new_zeros(())
    for direction, (down, right) in enumerate(NEIGHBOURS):
        rows, columns = slice(0, height - down), slice(max(0, -right), width - max(0, right))
        others = slice(max(0, right), width - max(0, -right))
        one, other = logits_BHW[:, rows, columns], logits_BHW[:, down:, others]
        both = F.logsigmoid(one) + F.logsigmoid(other)
        neither = F.logsigmoid(-one) + F.logsigmoid(-other)
        chosen = same_color_BDHW[:, direction, rows, columns] * box_BHW[:, rows, columns]
        total = total - (torch.logaddexp(both, neither) * chosen).sum()
        count = count + chosen.sum()
    return total / (count + EPSILON)


def total_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms."""
    return torch.stack(list(terms.values())).sum()
