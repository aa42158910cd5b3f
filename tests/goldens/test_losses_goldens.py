"""Losses against values that were computed independently; float64 to the file's ten digits, float32 to 1e-4."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayvos.training.losses import (
    Bootstrap,
    PointLabels,
    binary_logits,
    cross_entropy_losses,
    hardest_loss,
    huberised_losses,
    lovasz_hinge,
    lovasz_probability,
    lovasz_softmax,
    mean_loss,
    point_loss,
    points_at_stride,
    sample_at_points,
)

GOLDENS = json.loads((Path(__file__).parent / "cases/losses/losses.json").read_text())
TOLERANCE = {torch.float64: {"rel": 1e-6, "abs": 1e-8}, torch.float32: {"rel": 1e-4, "abs": 1e-6}}

both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def row(values, dtype=torch.float64) -> Tensor:
    """Return pixels as one image of one row, with gradients."""
    found = torch.tensor(values, dtype=dtype)
    found = found.T[None, :, None, :] if found.ndim == 2 else found[None, None, :]
    return found.clone().requires_grad_(True)


def labels_of(values) -> Tensor:
    return torch.tensor(values)[None, None, :]


@both_dtypes
@pytest.mark.parametrize("tau", sorted(GOLDENS["phuber_scalar"]["table"]))
def test_the_huberised_table(tau, dtype):
    rows = [case for case in GOLDENS["phuber_scalar"]["table"][tau]["rows"] if 0 < case["p"] < 1]
    # Near p = 1 the file's ten digits of p are too few for a relative comparison of float32 logits.
    logits = row([math.log(case["p"] / (1 - case["p"])) for case in rows], dtype)

    losses = huberised_losses(binary_logits(logits), torch.ones(1, 1, len(rows), dtype=torch.int64), float(tau))
    losses.sum().backward()

    tolerance = TOLERANCE[dtype]
    assert losses.flatten().tolist() == pytest.approx([case["loss"] for case in rows], **tolerance)
    expected = [case["dloss_dz_own_logit"] for case in rows]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, **tolerance)


@pytest.mark.parametrize("tau", sorted(GOLDENS["phuber_scalar"]["table"]))
def test_the_huberised_loss_of_impossible_labels(tau):
    losses = huberised_losses(binary_logits(row([-1e4])), labels_of([1]), float(tau))

    assert losses.item() == pytest.approx(GOLDENS["phuber_scalar"]["table"][tau]["loss_at_p0"], rel=1e-9)


@both_dtypes
def test_the_cross_entropy_table(dtype):
    rows = [case for case in GOLDENS["ce_scalar"] if 0 < case["p"] < 1]
    logits = row([math.log(case["p"] / (1 - case["p"])) for case in rows], dtype)

    losses = cross_entropy_losses(binary_logits(logits), torch.ones(1, 1, len(rows), dtype=torch.int64))
    losses.sum().backward()

    assert losses.flatten().tolist() == pytest.approx([case["loss"] for case in rows], **TOLERANCE[dtype])
    expected = [case["dloss_dz_own_logit"] for case in rows]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, **TOLERANCE[dtype])


@both_dtypes
@pytest.mark.parametrize("tau", [math.inf, 2.0, 3.0, 10.0])
def test_several_classes_and_an_ignored_pixel(tau, dtype):
    case = GOLDENS["multiclass"]
    expected = case["ce"] if math.isinf(tau) else next(one for one in case["phuber"] if one["tau"] == tau)
    logits, labels = row(case["logits"], dtype), labels_of(case["labels"])

    losses = huberised_losses(logits, labels, tau)
    loss = mean_loss(losses, labels)
    loss.backward()

    assert loss.item() == pytest.approx(expected["mean_over_valid"], **TOLERANCE[dtype])
    gradient = logits.grad[0, :, 0].T
    torch.testing.assert_close(
        gradient, torch.tensor(expected["grad_logits"], dtype=dtype), rtol=TOLERANCE[dtype]["rel"], atol=1e-8
    )
    if "per_pixel_loss" in expected:
        assert losses.flatten().tolist() == pytest.approx(expected["per_pixel_loss"], **TOLERANCE[dtype])


@both_dtypes
def test_extreme_logits_stay_finite(dtype):
    case = GOLDENS["extreme_logits"]
    logits = row(case["logits"], dtype)

    losses = huberised_losses(logits, labels_of(case["labels"]), case["tau"])
    losses.sum().backward()

    assert losses.flatten().tolist() == pytest.approx(case["per_pixel_loss"], rel=1e-6)
    assert logits.grad.abs().max() < 1e-30


@pytest.mark.parametrize("case", GOLDENS["bootstrapped_schedule"]["rows"], ids=lambda case: str(case["it"]))
def test_the_bootstrapping_schedule(case):
    share = Bootstrap().share_at(case["it"])

    assert share == pytest.approx(case["p"], abs=1e-6)
    assert math.floor(384 * 384 * share) == case["k_of_147456"]


@pytest.mark.parametrize("case", GOLDENS["bootstrapped_values"]["rows"], ids=lambda case: str(case["p"]))
def test_the_hardest_pixels(case):
    losses = row(GOLDENS["bootstrapped_values"]["raw"])
    labels = torch.zeros(losses.shape, dtype=torch.int64)

    for rounding, kind in (("down", "floor"), ("half-even", "round")):
        loss = hardest_loss(losses, labels, case["p"], rounding=rounding)
        (gradient,) = torch.autograd.grad(loss, losses)

        assert loss.item() == pytest.approx(case[f"mean_{kind}"], rel=1e-9)
        k = case[f"k_{kind}"]
        assert sorted(gradient.flatten().tolist()) == pytest.approx([0.0] * (12 - k) + [1 / k] * k)


@both_dtypes
@pytest.mark.parametrize("case", GOLDENS["lovasz_hinge"], ids=lambda case: str(len(case["labels"])))
def test_the_lovasz_hinge(case, dtype):
    logits = row(case["logits"], dtype)

    loss = lovasz_hinge(logits, labels_of(case["labels"]))
    loss.backward()

    assert loss.item() == pytest.approx(case["loss"], **TOLERANCE[dtype])
    assert logits.grad.flatten().tolist() == pytest.approx(case["dloss_dlogits"], **TOLERANCE[dtype])


@both_dtypes
@pytest.mark.parametrize("case", GOLDENS["lovasz_softmax_binary_class1"], ids=lambda case: str(case["probs_fg"]))
def test_the_lovasz_loss_of_one_probability(case, dtype):
    probability, labels = row(case["probs_fg"], dtype), labels_of(case["labels"])

    loss = lovasz_probability(probability, labels)
    loss.backward()

    assert loss.item() == pytest.approx(case["loss"], **TOLERANCE[dtype])
    assert probability.grad.flatten().tolist() == pytest.approx(case["dloss_dp"], **TOLERANCE[dtype])
    if not any(case["labels"]):
        assert lovasz_probability(probability, labels, present_only=True).item() == 0


@pytest.mark.parametrize("case", GOLDENS["lovasz_softmax_hard_equals_1_minus_iou"], ids=lambda case: case["pred"][:8])
def test_the_lovasz_loss_of_hard_masks_is_one_minus_iou(case):
    probability = row([float(digit) for digit in case["pred"]])

    loss = lovasz_probability(probability, labels_of([int(digit) for digit in case["labels"]]))

    assert loss.item() == pytest.approx(case["one_minus_iou"], rel=1e-9)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)


def test_the_lovasz_loss_of_several_classes():
    case = GOLDENS["lovasz_softmax_multiclass"]
    probability, labels = row(case["logits"]).softmax(1), labels_of(case["labels"])

    each = [lovasz_softmax(probability, labels, classes=[number]).item() for number in range(3)]

    assert each == pytest.approx(case["per_class"], rel=1e-8)
    assert lovasz_softmax(probability, labels).item() == pytest.approx(case["mean_present"], rel=1e-8)


def golden_points(cases) -> PointLabels:
    return PointLabels(
        image_N=torch.zeros(len(cases), dtype=torch.int64),
        channel_N=torch.zeros(len(cases), dtype=torch.int64),
        xy_N2=torch.tensor([[case["x"], case["y"]] for case in cases], dtype=torch.float64),
        positive_N=torch.tensor([case["label"] == 1 for case in cases]),
    )


def test_points():
    case = GOLDENS["pointwise"]
    probability = torch.tensor(case["prob_map_fg"], dtype=torch.float64)[None, None]
    points = golden_points(case["points"])

    found = sample_at_points(probability, points)

    assert found.tolist() == pytest.approx([one["p_fg"] for one in case["points"]], rel=1e-9)
    assert point_loss(probability, points).item() == pytest.approx(case["mean_ce"], rel=1e-8)
    for label, key in ((1, "mean_ce_positive"), (0, "mean_ce_negative")):
        chosen = golden_points([one for one in case["points"] if one["label"] == label])
        assert point_loss(probability, chosen).item() == pytest.approx(case[key], rel=1e-8)
    for one in case["points"]:
        assert point_loss(probability, golden_points([one])).item() == pytest.approx(one["ce"], rel=1e-8)
        assert point_loss(probability, golden_points([one]), tau=3).item() == pytest.approx(
            one["phuber_tau3"], rel=1e-8
        )


@pytest.mark.parametrize("case", GOLDENS["pointwise_scale"]["rows"], ids=lambda case: f"{case['u']}/{case['stride']}")
def test_points_on_a_coarser_map(case):
    assert points_at_stride(torch.tensor([case["u"]]), case["stride"]).item() == pytest.approx(case["x"], abs=1e-6)


@pytest.mark.parametrize(
    "case", GOLDENS["phuber_constant_predictor"]["rows"], ids=lambda case: f"{case['tau']}/{case['minority_rate']}"
)
def test_a_constant_predictor_of_noisy_labels_ends_where_theory_says(case):
    p = torch.linspace(1e-5, 1 - 1e-5, 99_999, dtype=torch.float64)
    logits = (p / (1 - p)).log()[None, None, :]
    right = huberised_losses(binary_logits(logits), torch.ones_like(logits, dtype=torch.int64), case["tau"])
    wrong = huberised_losses(binary_logits(logits), torch.zeros_like(logits, dtype=torch.int64), case["tau"])

    risk = ((1 - case["minority_rate"]) * right + case["minority_rate"] * wrong).flatten()

    assert p[risk.argmin()].item() == pytest.approx(case["p_star"], abs=3e-5)
    assert risk.min().item() == pytest.approx(case["risk"], abs=2e-5)
