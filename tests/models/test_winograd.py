from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rayvos.models.winograd import WinogradConv2d, use_winograd

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40))


def make_conv(channels: int = 6, outputs: int = 5, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, outputs, 3, padding=1, bias=bias).requires_grad_(False)


@settings(max_examples=40, deadline=None)
@given(SIZES, st.booleans())
def test_the_result_is_that_of_the_direct_convolution(size, bias):
    conv = make_conv(bias=bias)
    number, height, width = size
    x = torch.randn(number, 6, height, width, generator=torch.Generator().manual_seed(1))

    found, truth = WinogradConv2d(conv)(x), conv(x)

    assert found.shape == truth.shape
    assert (found - truth).abs().max() <= 5e-5 * truth.abs().max()  # float32 sums in another order


def test_a_relu_before_it_may_be_left_to_the_convolution():
    fast = WinogradConv2d(make_conv())
    x = torch.randn(2, 6, 31, 40)
    assert torch.equal(fast.convolve(x, rectified=True), fast(x.relu()))


def test_stripes_join_without_a_seam(monkeypatch):
    conv = make_conv()
    x = torch.randn(3, 6, 61, 47)
    whole = WinogradConv2d(conv)(x)
    monkeypatch.setattr("rayvos.models.winograd.TILES_AT_ONCE", 1)
    assert torch.allclose(WinogradConv2d(conv)(x), whole, atol=5e-5)


def test_parts_of_the_channels_add_up_to_the_whole():
    conv = make_conv()
    fast = WinogradConv2d(conv)
    x = torch.randn(2, 6, 33, 30)
    parts = fast.convolve(x[:, :2], slice(None, 2), biased=False) + fast.convolve(x[:, 2:], slice(2, None))
    assert torch.allclose(parts, conv(x), atol=5e-5)


@pytest.mark.parametrize("size", [(36, 60), (31, 40), (6, 6)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_result_may_be_added_to_other_maps(size, layout):
    conv = make_conv()
    fast = WinogradConv2d(conv)
    x, other = torch.randn(2, 6, *size), torch.randn(2, 5, *size).contiguous(memory_format=layout)
    truth = conv(x.relu()) + other

    found = fast.convolve(x, rectified=True, onto_BCHW=other.clone(memory_format=torch.preserve_format))

    assert torch.allclose(found, truth, atol=5e-5)


def test_a_view_with_gaps_is_convolved_like_its_copy():
    conv = make_conv()
    x = torch.randn(1, 12, 40, 60)[:, ::2, :, ::2].permute(0, 1, 3, 2)
    assert torch.allclose(WinogradConv2d(conv)(x), conv(x.contiguous()), atol=5e-5)


def test_only_wide_plain_3x3_convolutions_are_replaced_and_names_stay():
    network = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 1),
        nn.Sequential(nn.Conv2d(128, 64, 3, padding=1), nn.Conv2d(256, 128, 3, padding=1, bias=False)),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
    )
    before = network.state_dict()

    use_winograd(network)

    kinds = [type(module) is WinogradConv2d for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert kinds == [True, False, False, False, True, False]
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("channels", [128, 512])
def test_errors_stay_near_those_of_the_direct_convolution(channels):
    conv = make_conv(channels, 128)
    x = torch.randn(1, channels, 30, 30).relu()
    truth = conv.double()(x.double())
    conv.float()
    assert (WinogradConv2d(conv)(x) - truth).abs().max() <= 3e-5 * truth.abs().max()
