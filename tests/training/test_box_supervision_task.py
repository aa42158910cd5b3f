from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Box, ObjectInfo
from rayvos.cli.main import main
from rayvos.errors import InputError, UsageError
from rayvos.models.guided import build_guided
from rayvos.models.weights import read_weights, save_weights
from rayvos.training.metrics_log import read_metrics
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.steps import Trainer
from tests.conftest import moving_square, write_image_folder

# Fewer channels crash oneDNN (torch 2.x, CPU) when three threads share a backward pass.
SMALL = {"size": 64, "widths": [16, 16, 16, 16, 16]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, str]:
    """Return a manifest of two boxed clips and weights to begin with."""
    folder = tmp_path_factory.mktemp("boxes")
    clips = []
    for number in range(2):
        clip = write_image_folder(folder / f"clip{number}", moving_square(7))
        boxes = tuple(Box(1, frame, 2 + frame, 24, 14 + frame, 36) for frame in range(7))
        clips.append(dataclasses.replace(clip, boxes=boxes, objects=(ObjectInfo(1),)))
    write_manifest(clips, str(folder / "clips.parquet"))
    torch.manual_seed(4)
    path = str(folder / "small.safetensors")
    save_weights(path, build_guided(SMALL).state_dict(), architecture="guided", model=SMALL)
    return str(folder / "clips.parquet"), path


def plan(data, **options):
    request = TrainingRequest(
        data=(data[0],), weights=data[1], steps=2, batch_size=2,
        options={"supervision": "boxes", "crops": "4", **options},
    )  # fmt: skip
    return plan_training("guided", request)


def test_a_sample_is_a_function_of_its_number_and_is_held_back_from_validation(data):
    task = plan(data).task

    samples = [task.sample(number) for number in range(6)]

    again = [task.sample(number) for number in reversed(range(6))][::-1]
    for first, second in zip(samples, again, strict=True):
        assert first.planes.tobytes() == second.planes.tobytes()
    learnt = {sample.frame for sample in samples}
    assert learnt <= {0, 3}  # of the four crops of a clip those in between validate


def test_steps_change_the_network_but_no_batch_norm_and_not_the_anchor(data):
    trainer = Trainer(plan(data).task, plan(data).optimisation, device="cpu")
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    reports = []
    for step in range(2):
        task = trainer.task
        reports.append(trainer.advance([task.collate([task.sample(2 * step), task.sample(2 * step + 1)])]))

    after = trainer.model.state_dict()
    norms = {name for name, module in trainer.model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    for name, value in after.items():
        if name.rpartition(".")[0] in norms:
            assert torch.equal(value, before[name]), name
    assert not torch.equal(after["mask.weight"], before["mask.weight"])
    assert set(reports[0].stats) == {"projection", "negatives", "pairwise", "temporal", "anchor"}
    assert np.isfinite([report.loss for report in reports]).all()


def test_validation_says_what_the_boxes_brought(data):
    task = plan(data).task

    found = task.validate(task.build().eval())

    assert list(found) == ["score_gain", "score"]  # the first one decides
    assert found["score_gain"] == pytest.approx(0, abs=1e-6)


def test_what_a_run_depends_on_is_remembered(data):
    assert plan(data).task.options() != plan(data, pairwise="0").task.options()
    assert plan(data).optimisation.steps == 2
    assert plan(data).task.model_config()["size"] == 64


def test_what_cannot_be_learnt_from_is_refused(data, tmp_path):
    with pytest.raises(UsageError, match="expected --data MANIFEST with boxes"):
        plan_training("guided", TrainingRequest(options={"supervision": "boxes"}))
    with pytest.raises(UsageError, match="supervision"):
        plan_training("guided", TrainingRequest(options={"supervision": "box"}))
    clip = write_image_folder(tmp_path / "bare", moving_square(3))
    write_manifest([clip], str(tmp_path / "bare.parquet"))
    with pytest.raises(InputError, match="no clip has an object with boxes"):
        plan((str(tmp_path / "bare.parquet"), data[1]))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_on_ray_learn_from_boxes_as_one_does(data, ray_cluster, tmp_path, capsys):
    def train(name, *words):
        command = ["train", "guided", "--supervision", "boxes", "--data", data[0], "--weights", data[1], "--crops", "4"]
        command += [
            "--steps",
            "2",
            "--batch-size",
            "4",
            "--loaders",
            "0",
            "--device",
            "cpu",
            "-o",
            f"{tmp_path}/{name}",
        ]
        assert main([*command, "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    pair, alone = train("two", "--workers", "2"), train("one", "--in-process")

    assert pair["done"]
    assert pair["loss"] == pytest.approx(alone["loss"], rel=1e-3)  # of the second step: two sums in another order
    info = read_weights(f"{tmp_path}/two/last.safetensors")[1]
    assert info.training["task"]["supervision"] == "boxes"
    names = {row["name"] for row in read_metrics(f"{tmp_path}/two/metrics.parquet").to_pylist()}
    assert {"projection", "negatives", "pairwise", "temporal", "anchor", "score_gain"} <= names
