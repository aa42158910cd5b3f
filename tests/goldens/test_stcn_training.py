"""One training step of STCN against the official implementation: logits, losses, gradients."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from rayvos.training.losses import Bootstrap, cross_entropy_losses, hardest_loss
from rayvos.training.stcn_forward import propagate_clip
from tests.goldens.stcn_cases import DEVIATION, GOLDENS, MEAN, case_names, formula_network

if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
CASES = case_names("grad_norms_it0")
# Computed in float64, as the goldens' losses and gradients were; in float32 gradient norms come within 2e-3.
LOGITS, LOSSES, NORMS = 1e-4, 1e-6, 1e-5
EXACTLY_ZERO = "key_proj.key_proj.bias"  # a common shift of keys cancels: what is there is rounding noise


@pytest.fixture(scope="module", params=CASES)
def step(request):
    data = np.load(GOLDENS / request.param)
    network = copy.deepcopy(formula_network()).double().requires_grad_(True)
    images = ((torch.from_numpy(data["frames"]).double() / 255 - MEAN) / DEVIATION).permute(0, 1, 4, 2, 3)
    labels = torch.from_numpy(data["labels"]).long()
    objects = [(sample, number + 1) for sample, row in enumerate(data["selector"]) for number in np.flatnonzero(row)]
    owner = torch.tensor([sample for sample, _ in objects])
    first = torch.stack([labels[sample, 0] == number for sample, number in objects]).double()
    logits = propagate_clip(network, images.contiguous(), first, owner)
    return data, network, labels, logits


def losses_of(logits, labels, share):
    return [
        hardest_loss(cross_entropy_losses(found, labels[:, frame]), labels[:, frame], share)
        for frame, found in enumerate(logits, start=1)
    ]


def test_the_golden_folder_holds_training_steps():
    assert CASES


def test_logits_equal_the_official_ones(step):
    data, _, _, logits = step
    for frame, found in enumerate(logits, start=1):
        golden = data[f"logits_{frame}"]
        for sample, row in enumerate(data["selector"]):
            channels = [0, *(number + 1 for number in np.flatnonzero(row))]
            assert np.abs(found[sample, channels].detach().numpy() - golden[sample, channels]).max() <= LOGITS


@pytest.mark.parametrize("iteration", [0, 45_000, 80_000])
def test_losses_equal_the_official_ones(step, iteration):
    data, _, labels, logits = step
    golden = json.loads(str(data["losses"]))[str(iteration)]

    share = Bootstrap().share_at(iteration)
    first, second = losses_of(logits, labels, share)

    assert share == pytest.approx(golden["p"])
    assert first.item() == pytest.approx(golden["frame1"], rel=LOSSES)
    assert second.item() == pytest.approx(golden["frame2"], rel=LOSSES)


@pytest.mark.parametrize("iteration", [0, 45_000])
def test_gradients_equal_the_official_ones(step, iteration):
    data, network, labels, logits = step
    golden = json.loads(str(data[f"grad_norms_it{iteration}"]))
    network.zero_grad(set_to_none=True)

    sum(losses_of(logits, labels, Bootstrap().share_at(iteration))).backward(retain_graph=True)

    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert set(found) == set(golden)
    for name, norm in golden.items():
        if name != EXACTLY_ZERO:
            assert float(found[name].norm()) == pytest.approx(norm, rel=NORMS), name
    for key in data.files if iteration == 0 else ():
        if key.startswith("grad0:") and not key.endswith(EXACTLY_ZERO):
            gradient = found[key.removeprefix("grad0:")].numpy()
            assert np.abs(gradient - data[key]).max() <= NORMS * np.abs(data[key]).max(), key
