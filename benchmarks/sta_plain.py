"""The plain schedule of STA, one label after the other: what `benchmarks.sta_schedule` compares the engine with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rayvos.annotations.records import Box, Clip
from rayvos.engines.sta.crops import cut_crop, paint_box, place_crop
from rayvos.engines.sta.windows import Sampling, window_of
from rayvos.models.layers import resize_bilinear
from rayvos.models.sta import STA, normalise_bgr
from rayvos.models.sta_parts import LEVELS

__all__ = ["STEPS", "placed_box", "plain_logits"]

STEPS = 15  # STA, inference


def placed_box(box: Box) -> NDArray[np.float64]:
    """Return a box as `x, y, width, height`."""
    return np.array([box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0])


def plain_logits(
    network: STA,
    clip: Clip,
    image: Callable[[int], NDArray[np.uint8]],
    frame: int,
    sampling: Sampling,
    size: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Return the logits (H, W) of one frame by the plain schedule."""
    window = window_of(frame, range(clip.num_frames), 0, clip.num_frames, sampling)
    crops, painted = [], []
    for member in window:
        box = placed_box(clip.boxes[member])
        crop = place_crop(box, (clip.height, clip.width), size, 4.0)
        pixels = torch.from_numpy(cut_crop(image(member), crop)).to(device).permute(2, 0, 1)[None].float()
        crops.append(F.interpolate(pixels, size=size, mode="bilinear", align_corners=False))
        painted.append(paint_box(crop.inside(box), size))
    with torch.inference_mode():
        boxes = torch.from_numpy(np.array(painted)).to(device).float()[:, None]
        layers = network.feature_extractor(normalise_bgr(torch.cat(crops)))
        x = network.target_model.features(layers["layer3"])
        m = network.label_encoder.label_pred(network.label_encoder(boxes, x))
        mixed = network.bbox_encoder(boxes, x)
        e, w = network.bbox_encoder.label_pred(mixed), network.bbox_encoder.samp_w_pred(mixed)
        s = plain_response(x, e, w, network.target_model.strength)
        logits1 = plain_decode(network, layers, torch.cat([m, s], 1), size)
        e2, w2 = network.encode_masks(logits1)
        s2 = plain_response(x, e2, w2, network.target_model_segm.strength)
        return plain_decode(network, layers, torch.cat([m, s2], 1), size)[window.index(frame), 0]


def plain_response(x: Tensor, e: Tensor, w: Tensor, strength: Tensor) -> Tensor:
    """Return x * z after the steepest descent, every product computed anew."""
    z = x.new_zeros(e.shape[1], x.shape[1], 3, 3)
    squared = strength.square()
    for _ in range(STEPS):
        r = w * (F.conv2d(x, z, padding=1) - e)
        g = torch.nn.grad.conv2d_weight(x, z.shape, w * r, padding=1) + squared * z
        h = w * F.conv2d(x, g, padding=1)
        gg = g.square().sum()
        z = z - gg / (h.square().sum() + squared * gg).clamp(min=1e-8) * g
    return F.conv2d(x, z, padding=1)


def plain_decode(network: STA, layers: Mapping[str, Tensor], q: Tensor, size: Sequence[int]) -> Tensor:
    """Return logits (T, 1, H, W) by the decoder as the paper draws it."""
    decoder, deep = network.decoder, None
    for name in LEVELS:
        reduced = decoder.TSE[name].reduce(layers[name])
        deep = reduced.mean(dim=(2, 3), keepdim=True) if deep is None else decoder.proj[name](deep)
        joined = torch.cat([reduced, resize_bilinear(q, reduced.shape[-2:], align_corners=False)], 1)
        mixed = decoder.RRB1[name](decoder.TSE[name].transform(joined))
        deep = decoder.RRB2[name](decoder.CAB[name](mixed, deep))
    assert deep is not None
    doubled = F.interpolate(deep, size=[2 * side for side in deep.shape[-2:]], mode="bicubic", align_corners=False)
    narrow = F.relu(decoder.project.conv1(doubled))
    return decoder.project.conv2(F.interpolate(narrow, size=tuple(size), mode="bicubic", align_corners=False))
