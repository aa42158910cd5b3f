import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rayvos.errors import UsageError, WeightsError
from rayvos.models.sta import STA, StaModel, build_sta
from rayvos.models.sta_checkpoint import load_sta, read_foreign_state
from rayvos.models.sta_parts import enlarge_bicubic
from rayvos.models.sta_solver import correlate, solve
from rayvos.models.weights import save_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return STA()


def problem(num_objects=2, num_frames=3, channels=6, code=4, size=(5, 7), seed=1, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(num_objects, num_frames, channels, *size, generator=draw, dtype=dtype)
    e = torch.randn(num_objects, num_frames, code, *size, generator=draw, dtype=dtype)
    w = torch.randn(num_objects, num_frames, code, *size, generator=draw, dtype=dtype)
    return x, e, w, torch.tensor([0.3], dtype=dtype)


def plain_descent(x_TDhw, e, w, strength, steps):
    """Return the filter of one object, by the formula and autograd."""
    z = torch.zeros(e.shape[1], x_TDhw.shape[1], 3, 3, requires_grad=True)
    for _ in range(steps):
        residual = w * (F.conv2d(x_TDhw, z, padding=1) - e)
        objective = (residual.square().sum() + strength.square() * z.square().sum()).sum()
        g = torch.autograd.grad(objective, z)[0] / 2
        h = w * F.conv2d(x_TDhw, g, padding=1)
        step = g.square().sum() / (h.square().sum() + strength.square() * g.square().sum())
        z = (z - step * g).detach().requires_grad_()
    return z.detach()


def test_the_solver_takes_the_steps_of_the_formula_for_each_object_alone():
    x, e, w, strength = problem()

    solution = solve(x, e, w, strength, steps=4, keep_filters=True)

    for index in range(2):
        expected = plain_descent(x[index], e[index], w[index], strength, steps=4)
        torch.testing.assert_close(solution.filters_SKCDij[index, -1], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        solution.response_STChw, correlate(x, solution.filters_SKCDij[:, -1]), rtol=1e-4, atol=1e-6
    )


def test_correlate_is_a_convolution_with_zero_padding():
    x, *_ = problem()
    z = torch.randn(2, 4, 6, 3, 3, generator=torch.Generator().manual_seed(5))

    found = correlate(x, z)

    for index in range(2):
        torch.testing.assert_close(found[index], F.conv2d(x[index], z[index], padding=1), rtol=1e-4, atol=1e-5)


def test_every_step_lowers_the_objective():
    solution = solve(*problem(), steps=15)

    assert (solution.loss_SK.diff(dim=1) <= 0).all()
    assert solution.loss_SK.shape == (2, 16)


def test_a_frame_without_weight_changes_nothing():
    x, e, w, strength = problem()
    padding = torch.zeros(2, 1, *x.shape[2:]), torch.zeros(2, 1, *e.shape[2:]), torch.zeros(2, 1, *w.shape[2:])
    padded = [torch.cat([given, zeros], 1) for given, zeros in zip((x, e, w), padding, strict=True)]

    found = solve(*padded, strength, steps=5)

    expected = solve(x, e, w, strength, steps=5)
    torch.testing.assert_close(found.response_STChw[:, :3], expected.response_STChw, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.loss_SK, expected.loss_SK)


def test_the_solver_stays_finite_where_there_is_nothing_to_fit():
    zeros = torch.zeros(1, 1, 6, 3, 3), torch.zeros(1, 1, 4, 3, 3), torch.zeros(1, 1, 4, 3, 3)

    solution = solve(*zeros, torch.zeros(1), steps=5)

    assert torch.isfinite(solution.response_STChw).all()
    assert torch.isfinite(solution.step_SK).all()


def test_gradients_flow_through_all_steps():
    x, e, w, strength = problem(1, 1, 2, 2, (3, 3))

    def fit(w, strength):
        return solve(x, e, w, strength, steps=2).response_STChw.square().sum()

    grads = torch.autograd.grad(fit(w.requires_grad_(), strength.requires_grad_()), (w, strength))

    with torch.no_grad():
        across_w = [float(fit(w + shift, strength)) for shift in (-1e-2, 1e-2)]
        across_strength = [float(fit(w, strength + shift)) for shift in (-1e-2, 1e-2)]
    assert (across_w[1] - across_w[0]) / 2e-2 == pytest.approx(float(grads[0].sum()), rel=2e-2)
    assert (across_strength[1] - across_strength[0]) / 2e-2 == pytest.approx(float(grads[1]), rel=2e-2)


def test_a_window_of_one_frame_equals_encoding_and_decoding_it_step_by_step(network):
    image, box = torch.rand(1, 1, 3, 64, 96) * 100, torch.zeros(1, 1, 64, 96)
    box[..., 20:40, 30:60] = 1
    with torch.inference_mode():
        code = network.encode(image[0], box)
        whole = network(image, box, 5)
        first = network.aggregate(code.x_BDhw[None], code.e_BChw[None], code.w_BChw[None], steps=5, second=False)
        logits = network.decode(code.levels, code.pooled_BC11, first.response_STChw[0], (64, 96))

    torch.testing.assert_close(whole.logits1_TSHW[0], logits[0])


def test_batch_norms_keep_their_statistics_in_training(network):
    assert not network.train().training
    assert not any(module.training for module in network.modules())


def test_an_unknown_configuration_is_refused():
    with pytest.raises(WeightsError, match="unknown depth"):
        build_sta({"depth": 3})
    with pytest.raises(UsageError, match="did you mean 'compact'"):
        build_sta({"variant": "compct"})
    with pytest.raises(UsageError, match="width: expected a multiple of 32"):
        build_sta({"width": 100})


def test_a_compact_network_is_saved_and_loaded_as_such(tmp_path):
    model = StaModel(variant="compact", height=64, width=96)
    network, path = STA(model), str(tmp_path / "compact.safetensors")
    save_weights(path, network.state_dict(), architecture="sta", model=model.configuration())

    loaded, _ = load_sta(path)

    assert loaded.model == model
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in network.state_dict().items())
    assert sum(value.numel() for value in network.parameters()) < 3.2e6


@pytest.mark.parametrize("size", [(8, 12), (9, 20), (7, 3)])
def test_enlarging_by_matrices_is_bicubic_interpolation(size):
    maps = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(3))

    found = enlarge_bicubic(maps, size)

    torch.testing.assert_close(found, F.interpolate(maps, size=size, mode="bicubic", align_corners=False))


def foreign_checkpoint(path, state, **more):
    """Write a checkpoint as the authors' trainer does: objects of `ltr` beside the tensors."""
    module = types.ModuleType("ltr.admin.settings")
    module.Settings = type("Settings", (), {"__module__": "ltr.admin.settings"})
    constructor = type("Constructor", (dict,), {"__module__": "ltr.admin.settings", "__qualname__": "Constructor"})
    module.Constructor = constructor
    packages = {"ltr": types.ModuleType("ltr"), "ltr.admin": types.ModuleType("ltr.admin"), module.__name__: module}
    sys.modules.update(packages)
    settings = module.Settings()
    settings.batch_size = 4
    try:
        torch.save(
            {"epoch": 3, "net": OrderedDict(state), "settings": settings, "constructor": constructor(a=1)}, path, **more
        )
    finally:
        for name in packages:
            del sys.modules[name]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_foreign_checkpoint_gives_its_tensors_and_nothing_else(tmp_path, zipped):
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    path = str(tmp_path / "sta.pth.tar")
    foreign_checkpoint(path, state, _use_new_zipfile_serialization=zipped)

    found = read_foreign_state(path)

    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_is_never_run(tmp_path, zipped):
    path, trace = str(tmp_path / "sta.pth"), tmp_path / "trace"
    foreign_checkpoint(path, {"a": Exploit(trace)}, _use_new_zipfile_serialization=zipped)

    with pytest.raises(WeightsError, match="nothing of it was run"):
        read_foreign_state(path)

    assert not trace.exists()


def test_code_in_a_bare_pickle_is_never_run(tmp_path):
    path, trace = tmp_path / "sta.pth", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"net": Exploit(trace)}))

    with pytest.raises(WeightsError):
        load_sta(str(path))

    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    path = str(tmp_path / "sta.pt")
    torch.jit.script(torch.nn.Linear(1, 1)).save(path)

    with pytest.raises(WeightsError, match="TorchScript"):
        read_foreign_state(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x02 broken", b"<html>"])
def test_damaged_bytes_are_named(tmp_path, content):
    path = tmp_path / "sta.pth"
    path.write_bytes(content)

    with pytest.raises(WeightsError, match=r"sta\.pth"):
        load_sta(str(path))


def test_a_checkpoint_without_a_network_is_refused(tmp_path):
    path = str(tmp_path / "sta.pth")
    torch.save({"net": [1, 2]}, path)

    with pytest.raises(WeightsError, match="'net'"):
        load_sta(path)


def test_weights_that_are_not_there_are_named():
    with pytest.raises(WeightsError, match=r"nowhere\.pth: expected a file"):
        load_sta("memory://nowhere.pth")


def test_the_authors_checkpoint_and_ours_give_the_same_network(network, tmp_path):
    foreign, ours = str(tmp_path / "sta.pth.tar"), str(tmp_path / "sta.safetensors")
    foreign_checkpoint(foreign, network.state_dict())
    digest = save_weights(ours, network.state_dict(), architecture="sta", model={})

    loaded = [load_sta(path) for path in (foreign, ours)]

    assert [found for _, found in loaded] == [digest, digest]
    for name, tensor in network.state_dict().items():
        assert all(torch.equal(found.state_dict()[name], tensor) for found, _ in loaded), name


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = str(tmp_path / "other.pth")
    foreign_checkpoint(path, {"key_encoder.conv1.weight": torch.zeros(1)})

    with pytest.raises(WeightsError, match="527 missing"):
        load_sta(path)
