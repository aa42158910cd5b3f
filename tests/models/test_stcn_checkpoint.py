from __future__ import annotations

import logging

import fsspec
import pytest
import torch

from rayvos.errors import WeightsError
from rayvos.models.registry import build_model
from rayvos.models.stcn import STCN
from rayvos.models.stcn_checkpoint import ATTENTION, MASK_CONV, load_stcn


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state dict whose tensors hold one number each: files of it are small."""
    with torch.device("meta"):
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in STCN().state_dict().items()}
    numbers = torch.linspace(0.1, 1, len(shapes))
    return {
        name: number.to(dtype).expand(shape)
        for number, (name, (shape, dtype)) in zip(numbers, shapes.items(), strict=True)
    }


def load(tmp_path, content) -> tuple[STCN, str]:
    torch.save(content, tmp_path / "stcn.pth")
    return load_stcn(str(tmp_path / "stcn.pth"))


def test_an_official_state_dict_loads_as_it_is(tmp_path, state):
    network, digest = load(tmp_path, state)
    loaded = network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert len(digest) == 64


def test_a_training_checkpoint_of_parallel_training_is_the_same_network_by_path_and_by_url(tmp_path, state):
    wrapped = {"it": 7, "network": {f"module.{name}": tensor for name, tensor in state.items()}, "optimizer": {}}
    digest = load(tmp_path, wrapped)[1]
    fsspec.filesystem("memory").pipe("/stcn/wrapped.pth", (tmp_path / "stcn.pth").read_bytes())
    assert digest == load(tmp_path, state)[1] == load_stcn("memory://stcn/wrapped.pth")[1]


def test_a_stage_0_checkpoint_ignores_other_objects(tmp_path, state):
    network, _ = load(tmp_path, state | {MASK_CONV: state[MASK_CONV][:, :4]})
    weight = network.state_dict()[MASK_CONV]
    assert torch.equal(weight[:, :4], state[MASK_CONV][:, :4])
    assert not weight[:, 4].any()


def test_a_checkpoint_without_attention_adds_none_and_says_so(tmp_path, state, caplog):
    bare = {name: tensor for name, tensor in state.items() if not name.startswith(ATTENTION)}
    with caplog.at_level(logging.WARNING):
        network, digest = load(tmp_path, bare)
    assert network.value_encoder.fuser.attention is None
    assert "no_attention" in caplog.text
    assert digest != load(tmp_path, state)[1]


def test_another_networks_checkpoint_is_refused_by_its_names(tmp_path, state):
    with pytest.raises(WeightsError, match=r"405 missing .*1 unexpected .*STM checkpoint"):
        load(tmp_path, {"Encoder_M.conv1.weight": torch.zeros(1)})
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.pred")}
    with pytest.raises(WeightsError, match="2 missing"):
        load(tmp_path, partial)


def test_a_model_of_a_newer_version_is_refused():
    with pytest.raises(WeightsError, match="unknown model keys depth"):
        build_model("stcn", {"attention": True, "depth": 2})
