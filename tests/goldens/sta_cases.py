"""The golden cases of STA: weights by the manifest's formula."""

from __future__ import annotations

import json
import math
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayvos.models.sta import STA

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "sta"


@cache
def manifest() -> dict[str, Any]:
    return json.loads((GOLDENS / "manifest.json").read_text())


def load_case(name: str) -> tuple[Any, dict[str, Any]]:
    """Return the arrays of a golden file and what the manifest says of it."""
    return np.load(GOLDENS / name), manifest()["cases"][name.removesuffix(".npz")]


@cache
def _formula_state(salt: str) -> dict[str, torch.Tensor]:
    return {key: formula_weight(salt, key, tuple(value.shape)) for key, value in _empty().state_dict().items()}


def formula_state(salt: str, overrides: dict[str, list[float]]) -> dict[str, torch.Tensor]:
    given = {key: torch.tensor(values, dtype=torch.float32) for key, values in overrides.items()}
    return _formula_state(salt) | given


def formula_network(salt: str, overrides: dict[str, list[float]]) -> STA:
    network = _empty()
    network.load_state_dict(formula_state(salt, overrides), assign=True)
    return network


def _empty() -> STA:
    """Return a network without values: drawing forty million that nobody reads takes seconds."""
    with torch.device("meta"):
        return STA()


def formula_weight(salt: str, key: str, shape: tuple[int, ...]) -> torch.Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    n = np.random.default_rng(zlib.crc32((salt + key).encode())).standard_normal(shape)
    return torch.from_numpy(np.asarray(_scaled(key, n), np.float64).astype(np.float32))


def _scaled(key: str, n: np.ndarray) -> np.ndarray:
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_mean":
        return 0.1 * n
    if leaf == "running_var":
        return 1 + 0.2 * np.abs(n)
    if leaf == "filter_reg":
        return (0.5 if key.startswith("target_model_segm") else 0.3) * (1 + 0.1 * n)
    if leaf == "bias":
        return 1 + 0.2 * n if "samp_w_pred" in key else 0.1 * n
    if n.ndim == 4:
        weight = math.sqrt(2 / (n.shape[1] * n.shape[2] * n.shape[3])) * n
        if key == "feature_extractor.conv1.weight":
            return weight / 64
        if "samp_w_pred" in key:
            return 0.25 * weight
        if key.endswith("reduce.0.weight"):
            return 0.02 * weight
        return 3 * weight if key == "decoder.project.conv2.weight" else weight
    return (1 + 0.1 * n) * (0.5 if key.endswith("bn3.weight") else 1)
