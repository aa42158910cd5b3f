"""Loads an STCN, official or compact, from a rayvos weights file or from an official checkpoint."""

from __future__ import annotations

import logging
from typing import cast

import torch

from rayvos.models.registry import load_model, packaged_weights
from rayvos.models.stcn import STCN
from rayvos.models.stcn_compact import CompactStcn
from rayvos.models.weights import load_state, read_checkpoint, weights_digest

__all__ = ["load_stcn"]

logger = logging.getLogger(__name__)

MASK_CONV = "value_encoder.conv1.weight"
ATTENTION = "value_encoder.fuser.attention."


def load_stcn(path_or_name: str) -> tuple[STCN | CompactStcn, str]:
    """Return the network of a weights file, on the CPU, and the digest of its tensors.

    Official checkpoints load as they are: final ones, stage-0 ones (whose value encoder knows no other objects: its
    missing fifth input channel becomes zero), training checkpoints (`network` is taken), and those of the branch
    without attention, whose fuser then adds nothing. Source: facts of the official loader.

    Args:
        path_or_name: a rayvos weights file (`*.safetensors`; a path, fsspec URL or packaged name); any other ending:
            a checkpoint of tensors.

    Raises:
        WeightsError: the file is missing, damaged, of another network, or asks for code to be run.
        StorageError: storage does not answer, or refuses.
    """
    if path_or_name.endswith(".safetensors") or path_or_name in packaged_weights():
        loaded, info = load_model(path_or_name, architecture=("stcn", "stcn_compact"))
        return cast("STCN | CompactStcn", loaded), info.digest
    state = read_checkpoint(path_or_name)
    weight = state.get(MASK_CONV)
    if weight is not None and weight.ndim == 4 and weight.shape[1] == 4:
        logger.info("stage0_checkpoint path=%s note=it never saw a second object", path_or_name)
        state[MASK_CONV] = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)
    # A file of something else shall fail by its names, not as a branch without attention.
    attention = MASK_CONV not in state or any(name.startswith(ATTENTION) for name in state)
    if not attention:
        logger.warning(
            "no_attention path=%s note=the values are not gated, as in the branch without CBAM", path_or_name
        )
    network = STCN(attention=attention)
    load_state(network, state, where=path_or_name)
    return network, weights_digest(network.state_dict(), "stcn", {"attention": attention})
