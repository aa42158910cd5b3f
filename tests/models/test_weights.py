import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from rayvos.errors import WeightsError
from rayvos.models import weights
from rayvos.models.box2seg import Box2Seg
from rayvos.models.registry import build_model, load_model, packaged_weights
from rayvos.models.weights import load_state, read_checkpoint, read_weights, save_weights, weights_digest

TINY = {"backbone": "tiny", "size": 65, "margin": "abs:50"}


@pytest.fixture(scope="module")
def network():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_model("box2seg", TINY)


@pytest.fixture
def saved(network, tmp_path):
    path = str(tmp_path / "tiny.safetensors")
    digest = save_weights(
        path,
        network.state_dict(),
        architecture="box2seg",
        model=TINY,
        training={"steps": 3},
        metrics={"iou": 0.5},
        licence="Apache-2.0",
    )
    return path, digest


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_saved_weights_load_as_they_were(network, saved):
    path, digest = saved

    loaded, info = load_model(path)

    assert isinstance(loaded, Box2Seg)
    assert not loaded.training
    assert info.digest == digest
    assert (info.architecture, dict(info.model), dict(info.metrics)) == ("box2seg", TINY, {"iou": 0.5})
    assert (info.licence, dict(info.training), info.path) == ("Apache-2.0", {"steps": 3}, path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_same_weights_give_the_same_bytes(network, saved, tmp_path):
    again = str(tmp_path / "again.safetensors")

    save_weights(
        again,
        dict(reversed(network.state_dict().items())),
        architecture="box2seg",
        model=dict(reversed(TINY.items())),
        training={"steps": 3},
        metrics={"iou": 0.5},
        licence="Apache-2.0",
    )

    assert Path(again).read_bytes() == Path(saved[0]).read_bytes()


def test_weights_load_from_a_url(network):
    save_weights("memory://weights/tiny.safetensors", network.state_dict(), architecture="box2seg", model=TINY)

    loaded, _ = load_model("memory://weights/tiny.safetensors", architecture="box2seg")

    assert torch.equal(loaded.logits.weight, network.logits.weight)


def test_half_precision_halves_the_file_and_loads_in_float32(network, saved, tmp_path):
    path = str(tmp_path / "half.safetensors")

    save_weights(path, network.state_dict(), architecture="box2seg", model=TINY, dtype=torch.float16)
    loaded, _ = load_model(path)

    assert Path(path).stat().st_size < 0.55 * Path(saved[0]).stat().st_size
    assert loaded.logits.weight.dtype == torch.float32
    assert torch.equal(loaded.logits.weight, network.logits.weight.half().float())


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "value", "architecture", "model"])
def test_the_digest_depends_on_all_that_labels_depend_on(change):
    state, architecture, model = {"a": torch.tensor([[1.0, 2.0]])}, "box2seg", {"size": 385}
    before = weights_digest(state, architecture, model)

    if change == "name":
        state = {"b": state["a"]}
    elif change == "dtype":
        state = {"a": state["a"].view(torch.int32)}
    elif change == "shape":
        state = {"a": state["a"].T.contiguous()}
    elif change == "value":
        state = {"a": state["a"] + 1e-6}
    elif change == "architecture":
        architecture = "stm"
    else:
        model = {"size": 384}

    assert weights_digest(state, architecture, model) != before


def test_the_digest_ignores_the_memory_layout_and_the_order_of_names():
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)

    one = weights_digest({"a": tensor, "b": tensor}, "x", {})
    two = weights_digest({"b": tensor, "a": tensor.to(memory_format=torch.channels_last)}, "x", {})

    assert one == two


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors: expected a file, found nothing"):
        load_model(str(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.0005, 0.5, 0.999999])
def test_truncated_weights_are_refused(saved, tmp_path, share):
    data = Path(saved[0]).read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(data[: int(len(data) * share)])

    with pytest.raises(WeightsError, match=r"short\.safetensors"):
        load_model(str(path))


def test_a_flipped_bit_is_noticed(saved, tmp_path):
    data = bytearray(Path(saved[0]).read_bytes())
    data[-1000] ^= 1
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(data)

    with pytest.raises(WeightsError, match="does not match its digest"):
        load_model(str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>403</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "PyTorch checkpoint"),
        (b"hello", "5 bytes of something else"),
    ],
)
def test_other_files_are_recognised(tmp_path, content, said):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=said):
        load_model(str(path))


def test_safetensors_of_another_network_are_recognised_by_their_names(tmp_path):
    path = tmp_path / "stcn.safetensors"
    safetensors.torch.save_file({"key_encoder.conv1.weight": torch.zeros(1)}, path)

    with pytest.raises(WeightsError, match="names the architecture, found none; this looks like an STCN checkpoint"):
        load_model(str(path))


def test_another_architecture_is_refused(tmp_path, network):
    path = str(tmp_path / "other.safetensors")
    save_weights(path, network.state_dict(), architecture="perceiver", model={})

    with pytest.raises(WeightsError, match="expected a box2seg network, found 'perceiver'"):
        load_model(path, architecture="box2seg")
    with pytest.raises(WeightsError, match="unknown to this rayvos"):
        load_model(path)


def test_metadata_of_a_newer_version_is_refused(tmp_path, monkeypatch, network):
    path = str(tmp_path / "newer.safetensors")
    monkeypatch.setattr(weights, "METADATA_VERSION", 2)
    save_weights(path, network.state_dict(), architecture="box2seg", model=TINY)
    monkeypatch.undo()

    with pytest.raises(WeightsError, match="upgrade rayvos"):
        read_weights(path)


def test_missing_and_unexpected_tensors_are_counted_and_named(network):
    state = dict(network.state_dict())
    del state["logits.bias"]
    state["extra.one"] = torch.zeros(1)

    with pytest.raises(WeightsError) as raised:
        load_state(network, state, where="file")

    assert "tensors: 1 missing (logits.bias), 1 unexpected (extra.one)" in str(raised.value)


def test_a_wrong_shape_is_named_and_leaves_the_module_as_it_was():
    module = nn.Linear(2, 3)
    before = module.weight.clone()

    with pytest.raises(WeightsError, match=r"bias: expected shape \(3,\), found \(4,\)"):
        load_state(module, {"weight": torch.ones(3, 2), "bias": torch.ones(4)}, where="file")

    assert torch.equal(module.weight, before)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path, zipped):
    trap, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"a": Exploit(trap)}, path, _use_new_zipfile_serialization=zipped)

    for read in (read_checkpoint, read_weights, load_model):
        with pytest.raises(WeightsError, match=r"evil\.pth"):
            read(str(path))

    assert not trap.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    trap, path = tmp_path / "ran", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Exploit(trap)))

    with pytest.raises(WeightsError):
        read_checkpoint(str(path))

    assert not trap.exists()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_foreign_checkpoint_gives_its_tensors(tmp_path, wrapped):
    path = tmp_path / "foreign.pth"
    state = {"module.a.weight": torch.arange(3.0)}
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)

    loaded = read_checkpoint(str(path))

    assert list(loaded) == ["a.weight"]
    assert np.array_equal(loaded["a.weight"].numpy(), [0, 1, 2])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_truncated_foreign_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "foreign.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])

    with pytest.raises(WeightsError, match=r"foreign\.pth"):
        read_checkpoint(str(path))


def test_a_foreign_checkpoint_without_tensors_is_refused(tmp_path):
    path = tmp_path / "numbers.pth"
    torch.save({"epoch": 3}, path)

    with pytest.raises(WeightsError, match="expected tensors by name"):
        read_checkpoint(str(path))


def test_every_packaged_weights_file_loads():
    for name in packaged_weights():
        _, info = load_model(name)
        assert info.licence
