"""A training step of STA and its crops against the authors' implementation (weights made by a formula)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rayvos.engines.sta.crops import paint_box
from rayvos.training.sta_samples import place_frame_crop
from rayvos.training.sta_task import StaBatch, StaTask, StaTraining
from tests.goldens.sta_cases import GOLDENS, formula_network

pytestmark = pytest.mark.usefixtures("one_thread")

if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
TRAIN_CASES = sorted(path.name for path in GOLDENS.glob("train_*.npz"))
TRAINING_GEOMETRY = json.loads((GOLDENS / "crop_geometry.json").read_text())["training"]


def test_the_golden_folder_holds_training_steps():
    assert TRAIN_CASES


@pytest.mark.parametrize("name", TRAIN_CASES)
def test_one_training_step_gives_the_official_losses_and_gradients(name):
    data = np.load(GOLDENS / name)
    meta = json.loads((GOLDENS / name).with_suffix(".json").read_text())
    height, width = data["crops_rgb_u8"].shape[2:4]
    config = StaTraining(height=height, width=width, iterations=meta["num_iter"])
    task = StaTask(config=config)
    network = formula_network(meta["salt"], meta["overrides"]).train()
    task.parameter_groups(network)  # freezes what is not learnt
    boxes = [[paint_box(box, (height, width)) for box in row] for row in data["boxes_xywh"]]
    batch = StaBatch(
        torch.from_numpy(data["crops_rgb_u8"]),
        torch.from_numpy(np.array(boxes)),
        torch.from_numpy(data["gt"]),
        torch.ones(data["gt"].shape[:2]),
    )

    result = task.loss(network, batch, 0)
    result.loss.backward()

    with torch.no_grad():
        out = network(batch.images(), batch.boxes_TSHW.float(), meta["num_iter"])
    np.testing.assert_allclose(out.logits2_TSHW.numpy(), data["logits2"], rtol=0, atol=1e-3)
    for name_of_loss, key in (("loss_first", "loss1"), ("loss_second", "loss2")):
        assert result.stats[name_of_loss] == pytest.approx(float(data[key]), rel=1e-5)
    found = dict(network.named_parameters())
    assert {key for key, norm in meta["grad_norms"].items() if norm is not None} == {
        key for key, value in found.items() if value.requires_grad
    }
    for key, norm in meta["grad_norms"].items():
        if norm is None:
            assert found[key].grad is None, key
        else:
            assert found[key].grad.norm().item() == pytest.approx(norm, rel=1e-3), key
    for name in data.files:
        if name.startswith("grad:"):
            golden = data[name]
            grad = found[name.removeprefix("grad:").replace("/", ".")].grad.numpy()
            np.testing.assert_allclose(grad, golden, rtol=1e-3, atol=1e-3 * np.abs(golden).max(), err_msg=name)


def test_training_crops_and_boxes_in_them_lie_where_the_table_says():
    assert len(TRAINING_GEOMETRY) >= 100
    for row in TRAINING_GEOMETRY:
        box, size = np.array(row["box_xywh"]), tuple(row["out_wh"][::-1])

        crop = place_frame_crop(box, tuple(row["frame_hw"]), size, row["factor"])

        assert [crop.left, crop.top, crop.width, crop.height] == row["crop_xywh"], row
        np.testing.assert_allclose(crop.inside(box, size), row["box_in_crop"], atol=2e-3, err_msg=str(row))
