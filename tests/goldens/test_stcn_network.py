"""The STCN network against tensors of the official implementation (weights made by a formula)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayvos.engines.stcn.memory_bank import MemoryBank
from rayvos.models.stcn import STCN, aggregate
from tests.goldens.stcn_cases import GOLDENS, case_names, formula_network, load_case, normalised

if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
CASES = case_names("i_k16")
RELATIVE = 1e-4  # of a tensor's maximum: float32 sums in another order


@pytest.fixture(scope="module")
def network() -> STCN:
    return formula_network()


@pytest.fixture(scope="module", params=CASES)
def case(request, network):
    """Run the step from the annotated frame to the next one."""
    data, meta = load_case(request.param)
    start = min(int(frame) for frame in meta["annotated"])
    ids = meta["annotated"][str(start)]
    left, right, top, bottom = meta["pad"]

    def image(frame: int) -> torch.Tensor:
        return torch.nn.functional.pad(normalised(data, frame)[None], (left, right, top, bottom))

    labels = np.pad(data["labels_in"][start], ((top, bottom), (left, right)))
    masks = torch.from_numpy(np.stack([labels == i for i in ids]).astype(np.float32))
    with torch.inference_mode():
        memory = network.encode_key(image(start))
        first = aggregate(masks)
        value = network.encode_value(image(start), memory.f16_BChw, first[1:])
        query = network.encode_key(image(start + 1))
        bank = MemoryBank(len(ids))
        bank.add(memory.key_BChw.flatten(2)[0].T, value.flatten(2).transpose(1, 2), range(len(ids)))
        reads = bank.read(query.key_BChw.flatten(2)[0].T, range(len(ids)), meta["top_k"])
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
