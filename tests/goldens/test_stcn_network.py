"""The STCN network against tensors of the official implementation (weights made by a formula)."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from rayvos.models.stcn import STCN, aggregate, read_memory

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "stcn"
if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
CASES = sorted(path.name for path in GOLDENS.glob("*.npz") if "i_k16" in np.load(path).files)
RELATIVE = 1e-4  # of a tensor's maximum: float32 sums in another order
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def formula_weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
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


@pytest.fixture(scope="module")
def network() -> STCN:
    model = STCN()
    head = np.load(GOLDENS / "pred_head.npz")
    weights = {
        key: torch.zeros((), dtype=torch.int64)
        if key.endswith("num_batches_tracked")
        else torch.from_numpy(formula_weight(key, tuple(value.shape)).astype(np.float32))
        for key, value in model.state_dict().items()
    }
    weights |= {key: torch.from_numpy(head[key].astype(np.float32)) for key in head.files}
    model.load_state_dict(weights)
    return model


@pytest.fixture(scope="module", params=CASES)
def case(request, network):
    """Run the step from the annotated frame to the next one."""
    data = np.load(GOLDENS / request.param)
    meta = json.loads(str(data["meta"]))
    start = min(int(frame) for frame in meta["annotated"])
    ids = meta["annotated"][str(start)]
    left, right, top, bottom = meta["pad"]

    def image(frame: int) -> torch.Tensor:
        pixels = torch.from_numpy(data["frames"][frame]).float() / 255
        normalised = ((pixels - MEAN) / DEVIATION).permute(2, 0, 1)[None]
        return torch.nn.functional.pad(normalised, (left, right, top, bottom))

    labels = np.pad(data["labels_in"][start], ((top, bottom), (left, right)))
    masks = torch.from_numpy(np.stack([labels == i for i in ids]).astype(np.float32))
    with torch.inference_mode():
        memory = network.encode_key(image(start))
        first = aggregate(masks)
        value = network.encode_value(image(start), memory.f16_BChw, first[1:])
        query = network.encode_key(image(start + 1))
        key_NC = memory.key_BChw.flatten(2)[0].T.contiguous()
        half_norm = key_NC.square().sum(1) / 8
        query_QC = query.key_BChw.flatten(2)[0].T
        reads = read_memory(key_NC, half_norm, value.flatten(2).transpose(1, 2).contiguous(), query_QC, meta["top_k"])
        readout = reads.transpose(1, 2).reshape(len(ids), 512, *query.key_BChw.shape[2:])
        logits = network.decode(readout, query)
    found = {
        "k16": query.key_BChw[0],
        "f16_thin": query.thin_BChw[0],
        "f16": query.f16_BChw[0],
        "f8": query.f8_BCHW[0],
        "f4": query.f4_BCHW[0],
        "k16_mem": memory.key_BChw[0],
        "agg_first": first,
        "value_mem": value,
        "readout": readout,
        "dec_logit": logits,
    }
    return data, found


def test_the_golden_folder_holds_cases():
    assert CASES


def test_every_tensor_of_a_step_equals_the_official_one(case):
    data, found = case
    compared = 0
    for name, tensor in found.items():
        for suffix, step in (("", 1), ("_ch8", 8), ("_ch32", 32)):
            golden = data.get(f"i_{name}{suffix}")
            if golden is not None:
                axis = 1 if tensor.ndim == 4 else 0
                kept = tensor.index_select(axis, torch.arange(0, tensor.shape[axis], step))
                assert np.abs(kept.numpy() - golden).max() <= RELATIVE * np.abs(golden).max(), name
                compared += 1
    assert compared >= 3


def test_the_network_has_the_official_keys_and_parameters(network):
    assert len(network.state_dict()) == 405
    assert sum(parameter.numel() for parameter in network.parameters()) == 54_434_180


def test_the_network_stays_in_evaluation_mode(network):
    assert not network.train().training
