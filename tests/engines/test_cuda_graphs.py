"""Recorded GPU work gives what the function gives; without a GPU, the same code runs unrecorded."""

from __future__ import annotations

import pytest
import torch

from rayvos.engines.cuda_graphs import CALLS_BEFORE, MOST_RECORDINGS, RecordedCall
from rayvos.engines.stcn.recorded import RecordedStcn
from rayvos.models.stcn import STCN

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


def test_each_call_gives_new_results_for_its_own_arguments(device):
    call = RecordedCall(lambda x, y: (x @ y, (x * y).sum(0)))

    found = []
    for number in range(CALLS_BEFORE + 4):
        x, y = torch.full((8, 8), number + 1.0, device=device), torch.eye(8, device=device)
        found.append((number + 1.0, call(x, y)))

    for value, (product, sums) in found:
        assert torch.equal(product, torch.full((8, 8), value, device=device))
        assert torch.equal(sums, torch.full((8,), value, device=device))


def test_arguments_of_many_shapes_are_told_apart(device):
    call = RecordedCall(lambda x: (x.cumsum(0),))

    for size in [*range(1, MOST_RECORDINGS + 3)] * (CALLS_BEFORE + 2):
        x = torch.arange(size, device=device, dtype=torch.float32)
        assert torch.equal(call(x)[0], x.cumsum(0))


@torch.inference_mode()
def test_the_recorded_network_computes_what_the_network_computes(device):
    torch.manual_seed(0)
    network = STCN(width=16).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    recorded = RecordedStcn(network, device)
    network.to(device)
    torch.backends.cudnn.allow_tf32 = False

    for number in range(CALLS_BEFORE + 2):
        image = torch.randn(1, 3, 64, 96, device=device)
        masks = torch.rand(1 + number % 2, 64, 96, device=device)
        expected, found = network.encode_key(image), recorded.encode_key(image)
        values = network.encode_value(image, expected.f16_BChw, masks)
        for one, other in zip(expected, found, strict=True):
            assert_close(other, one)
        assert_close(recorded.encode_value(image, found.f16_BChw, masks), values)
        assert_close(recorded.decode(values, found), network.decode(values, expected))


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
