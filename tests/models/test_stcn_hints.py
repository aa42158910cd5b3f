from __future__ import annotations

import torch

from rayvos.models.stcn_hints import NUM_HINTS, Previous, color_histogram, hint_planes, warp

ONE = torch.zeros(1, dtype=torch.long)


def flow_of(x: float, y: float, height: int, width: int) -> torch.Tensor:
    return torch.tensor([x, y])[None, :, None, None].expand(1, 2, height, width).contiguous()


def test_a_flow_of_whole_pixels_shifts_a_picture():
    picture = torch.rand(1, 2, 12, 16, generator=torch.Generator().manual_seed(0))

    shifted = warp(picture, flow_of(3, -2, 12, 16))

    assert torch.allclose(shifted[..., 2:, :-3], picture[..., :-2, 3:], atol=1e-5)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a red square on a blue ground, (1, 3, 64, 64), and its mask."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:40, 16:40] = 1
    image = torch.stack([2 * mask[0] - 1, torch.zeros(64, 64), 1 - 2 * mask[0]])[None]
    return image, mask


def planes(flow: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    image, mask = scene()
    histogram = color_histogram(image, mask, ONE)
    found = hint_planes(image, Previous(image, flow, mask, torch.zeros_like(mask)), histogram, ONE)
    assert found.shape == (1, NUM_HINTS, 32, 32)
    return found[0], torch.nn.functional.avg_pool2d(mask, 2)[0] == 1


def test_colors_of_the_object_are_likely_on_it_and_unlikely_elsewhere():
    found, inside = planes(flow_of(0, 0, 64, 64))

    assert found[3][inside].min() > 1
    assert found[3][~inside].max() < -1


def test_pixels_that_move_like_the_object_are_told_from_the_rest():
    _, mask = scene()
    flow = flow_of(0, 0, 64, 64) + 3 * mask[:, None]

    found, inside = planes(flow)

    assert found[2][inside].mean() > 0.3
    assert found[2][~inside].mean() < -0.3


def test_without_motion_motion_tells_nothing():
    found, _ = planes(flow_of(0, 0, 64, 64))
    assert found[2].abs().max() < 1e-3


def test_nothing_is_infinite_without_an_object():
    image, mask = scene()
    histogram = color_histogram(image, torch.zeros_like(mask), ONE)
    previous = Previous(image, flow_of(1, 1, 64, 64), torch.zeros_like(mask), mask)
    assert hint_planes(image, previous, histogram, ONE).isfinite().all()
