"""The golden cases of STCN: weights by formula, frames, annotations."""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayvos.models.stcn import STCN

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "stcn"
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def case_names(field: str) -> list[str]:
    """Return the files of the golden folder that hold `field`."""
    return sorted(path.name for path in GOLDENS.glob("*.npz") if field in np.load(path).files)


def load_case(name: str) -> tuple[Any, dict[str, Any]]:
    data = np.load(GOLDENS / name)
    return data, json.loads(str(data["meta"]))


def normalised(data: Any, frame: int) -> torch.Tensor:
    """Return a frame as the network takes it, not padded: (3, H, W)."""
    return ((torch.from_numpy(data["frames"][frame]).float() / 255 - MEAN) / DEVIATION).permute(2, 0, 1)


@cache
def formula_network() -> STCN:
    model = STCN()
    head = np.load(Path(__file__).parent / "cases" / "stcn" / "pred_head.npz")
    weights = {
        key: torch.zeros((), dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.from_numpy(_formula_weight(key, tuple(value.shape)).astype(np.float32))
        for key, value in model.state_dict().items()
    }
    weights |= {key: torch.from_numpy(head[key].astype(np.float32)) for key in head.files}
    model.load_state_dict(weights)
    return model


def _formula_weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weight that the goldens' README-formula gives for a state-dict key."""
    z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_mean"):
        return 0.1 * z
    if key.endswith("running_var"):
        return 1 + 0.2 * np.abs(z)
    if key.endswith(".bias"):
        return 0.05 * z
    if z.ndim == 1:
        small = key.endswith(".bn3.weight") or (key.startswith("value_encoder.layer") and key.endswith("bn2.weight"))
        return (1 + 0.1 * z) * (0.4 if small else 1)
    if z.ndim == 2:
        return z / np.sqrt(shape[1])
    if shape[1] >= 32:
        z = z - z.mean(1, keepdims=True)
    w = z * np.sqrt(2 / np.prod(shape[1:]))
    if key == "value_encoder.conv1.weight":
        w[:, 3] *= 8
        w[:, 4] *= 4
    factors = {"key_proj.key_proj.weight": 3, "key_comp.weight": 0.25}
    w = w * factors.get(key, 1)
    w = w * (0.25 if key.endswith(".skip_conv.weight") else 1)
    return w * (0.3 if key.endswith("SpatialGate.spatial.conv.weight") else 1)
