from __future__ import annotations

import math

import pytest
import torch

from rayvos.errors import UsageError
from rayvos.training.losses import (
    Bootstrap,
    PointLabels,
    binary_logits,
    cross_entropy_losses,
    dice_loss,
    hardest_loss,
    huberised_losses,
    lovasz_hinge,
    lovasz_probability,
    lovasz_softmax,
    mean_loss,
    point_loss,
    sample_at_points,
    tau_at,
)

IGNORE = 255


def make_batch(num_images=2, num_classes=3, size=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, num_classes, size, size, dtype=dtype, generator=generator)
    labels = torch.randint(0, num_classes, (num_images, size, size), generator=generator)
    labels[:, 0, :2] = IGNORE
    return logits, labels


def one_class(labels):
    return torch.where(labels == IGNORE, IGNORE, (labels == 1).long())


def random_points(num, num_images, num_channels, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return PointLabels(
        image_N=torch.randint(0, num_images, (num,), generator=generator),
        channel_N=torch.randint(0, num_channels, (num,), generator=generator),
        xy_N2=torch.rand(num, 2, dtype=torch.float64, generator=generator) * (size + 2) - 1.5,
        positive_N=torch.rand(num, generator=generator) < 0.5,
    )


DENSE = {
    "cross entropy": lambda z, y: mean_loss(cross_entropy_losses(z, y), y),
    "cross entropy per image": lambda z, y: mean_loss(cross_entropy_losses(z, y), y, per_image=True),
    "bootstrapped": lambda z, y: hardest_loss(cross_entropy_losses(z, y), y, 0.4),
    "bootstrapped half-even": lambda z, y: hardest_loss(cross_entropy_losses(z, y), y, 0.25, rounding="half-even"),
    "huberised": lambda z, y: mean_loss(huberised_losses(z, y, 3.0), y),
    "huberised and bootstrapped": lambda z, y: hardest_loss(huberised_losses(z, y, 3.0), y, 0.4),
    "lovasz hinge": lambda z, y: lovasz_hinge(z[:, 1], one_class(y)),
    "lovasz hinge per image": lambda z, y: lovasz_hinge(z[:, 1], one_class(y), per_image=True),
    "lovasz probability": lambda z, y: lovasz_probability(z[:, 1].sigmoid(), one_class(y)),
    "lovasz probability per image": lambda z, y: lovasz_probability(z[:, 1].sigmoid(), one_class(y), per_image=True),
    "lovasz softmax": lambda z, y: lovasz_softmax(z.softmax(1), y),
    "lovasz softmax of all": lambda z, y: lovasz_softmax(z.softmax(1), y, classes="all", per_image=True),
    "dice": lambda z, y: dice_loss(z[:, 1].sigmoid(), one_class(y)),
}
every_dense_loss = pytest.mark.parametrize("loss", DENSE.values(), ids=DENSE.keys())


@every_dense_loss
def test_the_gradient_is_that_of_the_value(loss):
    logits, labels = make_batch()

    assert torch.autograd.gradcheck(lambda z: loss(z, labels), logits.requires_grad_(True))


@every_dense_loss
def test_ignored_pixels_change_nothing_and_are_not_changed(loss):
    logits, labels = make_batch()
    shifted = logits.clone()
    shifted[:, :, 0, :2] += 7 * torch.randn(2, 3, 2, dtype=torch.float64)
    logits.requires_grad_(True)

    value = loss(logits, labels)
    value.backward()

    assert value.item() == loss(shifted, labels).item()
    assert logits.grad[:, :, 0, :2].abs().max() == 0
    assert logits.grad.abs().max() > 0


@every_dense_loss
def test_a_batch_without_a_valid_pixel_gives_zero(loss):
    logits, labels = make_batch(dtype=torch.float32)
    logits.requires_grad_(True)

    value = loss(logits, torch.full_like(labels, IGNORE))
    value.backward()

    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@every_dense_loss
def test_an_image_without_a_valid_pixel_beside_others_keeps_everything_finite(loss):
    logits, labels = make_batch(dtype=torch.float32)
    labels[0] = IGNORE
    logits.requires_grad_(True)

    value = loss(logits, labels)
    value.backward()

    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].abs().max() == 0
    assert logits.grad[1].abs().max() > 0


@every_dense_loss
def test_the_order_of_pixels_does_not_matter(loss):
    logits, labels = make_batch()
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))

    moved = loss(
        logits.flatten(2)[:, :, order].reshape(logits.shape), labels.flatten(1)[:, order].reshape(labels.shape)
    )

    assert moved.item() == pytest.approx(loss(logits, labels).item(), abs=1e-12)


@every_dense_loss
@pytest.mark.parametrize("scale", [200.0, 1e4])
def test_extreme_logits_stay_finite(loss, scale):
    logits, labels = make_batch(dtype=torch.float32)
    logits = (logits.sign() * scale).requires_grad_(True)

    value = loss(logits, labels)
    value.backward()

    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in DENSE if "hinge" in name or "entropy" in name or "rised" in name])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(name, half):
    logits, labels = make_batch(dtype=torch.float32)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = DENSE[name](logits.to(half), labels)

    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(DENSE[name](logits.to(half).float(), labels).item(), rel=1e-6)


def test_cross_entropy_is_that_of_torch():
    logits, labels = make_batch()

    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE)

    assert mean_loss(cross_entropy_losses(logits, labels), labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_huge_tau_is_cross_entropy():
    p = torch.logspace(-6, -1e-9, 1000, dtype=torch.float64)
    logits = torch.stack([torch.zeros_like(p), (p / (1 - p)).log()])[None, :, None]
    labels = torch.ones(1, 1, 1000, dtype=torch.int64)

    difference = huberised_losses(logits, labels, 1e9) - cross_entropy_losses(logits, labels)

    assert difference.abs().max() < 1e-9


def logit_of(p):
    return (p / (1 - p)).log()


@pytest.mark.parametrize("tau", [1.0, 1.5, 3.0, 10.0])
def test_the_huberised_loss_falls_with_p(tau):
    p = torch.linspace(1e-6, 1 - 1e-6, 100_001, dtype=torch.float64)

    losses = huberised_losses(binary_logits(logit_of(p)[None, None]), torch.ones(1, 1, len(p), dtype=torch.int64), tau)

    assert (losses.diff() < 0).all()


@pytest.mark.parametrize("tau", [1.5, 3.0, 10.0])
def test_the_huberised_loss_has_no_step_and_no_kink(tau):
    around = torch.tensor([1 / tau - 1e-11, 1 / tau + 1e-11], dtype=torch.float64)
    logits = logit_of(around)[None, None].requires_grad_(True)

    losses = huberised_losses(binary_logits(logits), torch.ones(1, 1, 2, dtype=torch.int64), tau)
    losses.sum().backward()

    slope = logits.grad.flatten() / (around * (1 - around))
    assert abs(losses.flatten().diff().item()) < 1e-9
    assert abs(slope.diff().item()) < 1e-8  # the slope itself changes by tau² · 2e-11 where the logarithm begins


def test_a_tau_below_one_is_refused():
    logits, labels = make_batch()
    with pytest.raises(UsageError, match=r"tau 0\.333"):
        huberised_losses(logits, labels, 1 / 3)


def test_huberising_begins_after_the_warm_up():
    assert tau_at(49, 1000, 3.0) == math.inf
    assert tau_at(50, 1000, 3.0) == 3.0
    assert tau_at(0, 1000, 3.0, warmup_share=0) == 3.0


def margins_learnt(tau, wrong_share):
    """Return by which logits a linear classifier tells Long and Servedio's data right after learning wrong labels, too.

    Source: Random classification noise defeats all convex potential boosters (2010). The first of four pixels has a
    large margin, so that a wrong label there pulls hard; the last two have a small one, which gives way. Each pixel is
    there with both labels, weighed by their shares: the same as endless samples of any seed.
    """
    pixels_N2 = torch.tensor([[1, 0], [1 / 24, 5 / 24], [1 / 24, -1 / 24], [1 / 24, -1 / 24]]).double().repeat(2, 1)
    labels_BHW = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).reshape(1, 1, 8)
    shares = torch.tensor([1 - wrong_share] * 4 + [wrong_share] * 4, dtype=torch.float64)
    weights = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        losses_BHW = huberised_losses((pixels_N2 @ weights).T.reshape(1, 2, 1, 8), labels_BHW, tau)
        (losses_BHW * shares).sum().backward()
        optimiser.step()
    logits_N2 = (pixels_N2[:4] @ weights).detach()
    return (logits_N2[:, 1] - logits_N2[:, 0]).tolist()


def test_a_fifth_of_wrong_labels_misleads_cross_entropy_and_not_the_huberised_loss():
    assert min(margins_learnt(math.inf, 0.0)) > 0.5
    assert min(margins_learnt(math.inf, 0.2)) < -0.05
    assert min(margins_learnt(3.0, 0.2)) > 0.5


def test_the_bootstrapping_schedule_scales_with_the_run():
    scaled, whole = Bootstrap.scaled(1500), Bootstrap.scaled(150_000)

    assert whole == Bootstrap()
    assert [scaled.share_at(step) for step in (0, 200, 450, 700, 1500)] == pytest.approx([1, 1, 0.575, 0.15, 0.15])


def test_all_pixels_are_the_hardest_ones_at_share_one():
    logits, labels = make_batch()
    losses = cross_entropy_losses(logits, labels)

    assert hardest_loss(losses, labels, 1.0).item() == pytest.approx(mean_loss(losses, labels, per_image=True).item())


def test_dice_of_perfect_and_empty_masks_is_zero():
    labels = torch.tensor([[[1, 1, 0]], [[0, 0, 0]]])

    assert dice_loss((labels == 1).double(), labels).item() == pytest.approx(0)


def test_points_are_sampled_like_grid_sample():
    probability = torch.rand(2, 3, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = random_points(1000, 2, 3, 9)

    found = sample_at_points(probability, points)

    grid = (2 * points.xy_N2 + 1) / torch.tensor([9.0, 7.0], dtype=torch.float64) - 1
    expected = torch.nn.functional.grid_sample(
        probability, grid[None, None].expand(2, 1, -1, -1), align_corners=False, padding_mode="border"
    )[points.image_N, points.channel_N, 0, torch.arange(1000)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_points_and_map_shifted_together_change_nothing():
    probability = torch.rand(1, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = random_points(50, 1, 1, 6)
    inside = PointLabels(
        image_N=points.image_N, channel_N=points.channel_N, xy_N2=points.xy_N2 + 2, positive_N=points.positive_N
    )
    shifted = PointLabels(
        image_N=points.image_N, channel_N=points.channel_N, xy_N2=points.xy_N2 + 4, positive_N=points.positive_N
    )

    value = point_loss(probability.roll((2, 2), (2, 3)), shifted)

    assert value.item() == pytest.approx(point_loss(probability, inside).item(), abs=1e-12)


@pytest.mark.parametrize("tau", [math.inf, 3.0])
@pytest.mark.parametrize("balance", ["none", "class"])
def test_the_gradient_of_points_is_that_of_the_value(tau, balance):
    logits, _ = make_batch()
    points = random_points(20, 2, 3, 5)

    assert torch.autograd.gradcheck(
        lambda z: point_loss(z.softmax(1), points, tau=tau, balance=balance), logits.requires_grad_(True)
    )


def test_only_the_neighbours_of_points_get_a_gradient():
    probability = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    points = PointLabels(
        image_N=torch.tensor([0]),
        channel_N=torch.tensor([0]),
        xy_N2=torch.tensor([[2.25, 4.5]]),
        positive_N=torch.tensor([True]),
    )

    point_loss(probability, points).backward()

    touched = probability.grad[0, 0].nonzero().tolist()
    assert touched == [[4, 2], [4, 3], [5, 2], [5, 3]]


def test_no_points_give_zero_with_a_graph():
    probability = torch.rand(1, 1, 4, 4, requires_grad=True)
    value = point_loss(probability, random_points(0, 1, 1, 4))
    value.backward()

    assert value.item() == 0
    assert probability.grad.abs().max() == 0


def test_balanced_points_weigh_both_kinds_alike():
    probability = torch.full((1, 1, 4, 4), 0.2, dtype=torch.float64)
    points = PointLabels(
        image_N=torch.zeros(4, dtype=torch.int64),
        channel_N=torch.zeros(4, dtype=torch.int64),
        xy_N2=torch.ones(4, 2, dtype=torch.float64),
        positive_N=torch.tensor([True, False, False, False]),
    )

    balanced = point_loss(probability, points, balance="class")

    assert balanced.item() == pytest.approx((-math.log(0.2) - math.log(0.8)) / 2)
    assert point_loss(probability, points).item() == pytest.approx((-math.log(0.2) - 3 * math.log(0.8)) / 4)
