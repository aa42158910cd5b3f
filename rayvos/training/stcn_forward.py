"""The training forward of STCN: a clip of a few frames, of which the first one's masks are given.

Frame 1 is read from frame 0; frame 2 from frames 0 and 1, where frame 1 enters memory with its *predicted* soft masks,
and gradients flow through them. Attention is a full softmax; the first masks are remembered as they are.
Source: STCN, training; the official implementation works on two objects per sample and switches the second one off
where there is none, here a batch holds just the objects there are.

Layouts: B samples, T frames, N objects of all samples (`owner_N`: whose), K = objects of the sample that has most,
C channels, H W pixels (multiples of 16), h w at stride 16, Q = h·w query and M memory positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayvos.models.stcn import KEY_CHANNELS, PROBABILITY_EPSILON, STCN, FrameFeatures

__all__ = ["object_channels", "propagate_clip"]

ABSENT_LOGIT = -1e4  # of an object that a sample does not have: probability 0, without the NaN of an infinity


def object_channels(owner_N: Tensor) -> Tensor:
    """Return the channel 1…K of each object in its sample's logits; objects of a sample stand side by side."""
    position_N = torch.arange(len(owner_N), device=owner_N.device)
    starts = torch.searchsorted(owner_N, owner_N)
    return position_N - starts + 1


def propagate_clip(network: STCN, images_BTCHW: Tensor, first_NHW: Tensor, owner_N: Tensor) -> list[Tensor]:
    """Return the aggregated logits of frames 1 … T - 1, each (B, K + 1, H, W), the background first.

    Args:
        network: whose BN statistics are frozen, as always.
        images_BTCHW: normalised by the ImageNet mean and deviation.
        first_NHW: masks of the objects on frame 0 in [0, 1]; for Point-STCN zero except at the points.
        owner_N: int64, ascending: the sample of each object.

    Returns:
        Log-odds after soft aggregation, whose softmax over channels is the probability; objects that a sample does
        not have have a probability of 0.
    """
    num_samples, num_frames = images_BTCHW.shape[:2]
    encoded = network.encode_key(images_BTCHW.flatten(0, 1))
    features = [
        FrameFeatures(*(maps.reshape(num_samples, num_frames, *maps.shape[1:])[:, frame] for maps in encoded))
        for frame in range(num_frames)
    ]
    masks_NHW, keys, values, found = first_NHW, [], [], []
    for frame in range(1, num_frames):
        before = features[frame - 1]
        keys.append(before.key_BChw.flatten(2))
        values.append(_values(network, images_BTCHW[:, frame - 1], before, masks_NHW, owner_N).flatten(2))
        readout_NChw = _read(torch.cat(keys, 2), torch.cat(values, 2), features[frame].key_BChw, owner_N)
        shared = network.decoder.share(features[frame])
        logits_NHW = network.decoder(readout_NChw, tuple(maps[owner_N] for maps in shared))[:, 0]
        logits_BKHW = _aggregate(logits_NHW, owner_N, num_samples)
        masks_NHW = logits_BKHW.softmax(1)[owner_N, object_channels(owner_N)].to(first_NHW.dtype)
        found.append(logits_BKHW)
    return found


def _values(network: STCN, images_BCHW: Tensor, features: FrameFeatures, masks_NHW: Tensor, owner_N: Tensor) -> Tensor:
    together_BHW = masks_NHW.new_zeros(len(images_BCHW), *masks_NHW.shape[1:]).index_add(0, owner_N, masks_NHW)
    others_NHW = together_BHW[owner_N] - masks_NHW
    shared = network.value_encoder.share(images_BCHW, features.f16_BChw)
    values: Tensor = network.value_encoder(
        masks_NHW[:, None], others_NHW[:, None], tuple(maps[owner_N] for maps in shared)
    )
    return values


def _read(key_BCM: Tensor, value_NCM: Tensor, query_BChw: Tensor, owner_N: Tensor) -> Tensor:
    """Return what the places of a frame read in memory, (N, C, h, w); similarities are those of the L2 distance."""
    with torch.autocast(key_BCM.device.type, enabled=False):
        key_BCM, query_BCQ = _precise(key_BCM), _precise(query_BChw).flatten(2)
        affinity_BMQ = 2 * key_BCM.transpose(1, 2) @ query_BCQ - key_BCM.square().sum(1)[:, :, None]
        weight_BMQ = torch.softmax(affinity_BMQ * KEY_CHANNELS**-0.5, 1)
    readout_NCQ = value_NCM @ weight_BMQ[owner_N].to(value_NCM.dtype)
    return readout_NCQ.reshape(*readout_NCQ.shape[:2], *query_BChw.shape[2:])


def _aggregate(logits_NHW: Tensor, owner_N: Tensor, num_samples: int) -> Tensor:
    """Return the log-odds of background and objects; their softmax is the soft aggregation.

    Never in half precision, where 1 - 1e-7 is 1.
    """
    probability_NHW = torch.sigmoid(_precise(logits_NHW))
    channel_N = object_channels(owner_N)
    size = (num_samples, int(channel_N.max()) + 1, *logits_NHW.shape[1:])
    stacked = probability_NHW.new_zeros(size).index_put((owner_N, channel_N), probability_NHW)
    background_BHW = (1 - stacked[:, 1:]).prod(1)
    logits_BKHW = torch.logit(
        torch.cat([background_BHW[:, None], stacked[:, 1:]], 1).clamp(PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)
    )
    there = torch.zeros(size[:2], dtype=torch.bool, device=logits_NHW.device)
    there[:, 0] = True
    there[owner_N, channel_N] = True
    return torch.where(there[:, :, None, None], logits_BKHW, ABSENT_LOGIT)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
