from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt
from rayvos.engines.box2seg.engine import Box2SegEngine
from rayvos.errors import InputError, RayvosError, UsageError, WeightsError
from rayvos.masks.ignore import IGNORE
from rayvos.masks.rle import mask_to_rle
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.runs import RunSettings, train_run
from rayvos.training.steps import Trainer
from rayvos.video.source import open_clip
from rayvos.video.synthetic import SynthConfig, generate_clip
from tests.conftest import write_image_folder
from tests.review.runs import make_clip

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"size": "33", "margin": "rel:0.2,min8"}


def plan(options=None, **request):
    return plan_training(
        "box2seg", TrainingRequest(**{"batch_size": 4, **request, "options": {**SMALL, **(options or {})}})
    )


def boxed_manifest(tmp_path):
    """Write a clip whose objects are exact boxes, so that the guidance of a tight box is the mask."""
    clip = make_clip(tmp_path, "a")
    masks = []
    for box in clip.boxes:
        if box.visible and box.object_id == 1:
            mask = np.zeros((clip.height, clip.width), np.bool_)
            mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
            masks.append(MaskPrompt(1, box.frame, mask_to_rle(mask)))
    path = str(tmp_path / "clips.parquet")
    write_manifest([dataclasses.replace(clip, masks=tuple(masks))], path)
    return path


def test_a_sample_is_a_pure_function_of_its_number(tmp_path):
    for task in (plan().task, plan(data=(boxed_manifest(tmp_path),)).task):
        again = pickle.loads(pickle.dumps(task))
        for index in (0, 7, 3):
            first, second = task.sample(index), again.sample(index)
            assert np.array_equal(first.crop, second.crop)
            assert np.array_equal(first.labels, second.labels)
        assert not np.array_equal(task.sample(0).crop, task.sample(7).crop)


def test_guidance_and_labels_lie_on_each_other(tmp_path):
    task = plan({"jitter": "0"}, data=(boxed_manifest(tmp_path),)).task

    for index in range(12):
        sample = task.sample(index)
        known = sample.labels != IGNORE
        assert np.array_equal(sample.labels[known] == 1, sample.crop[..., 3][known] == 1)


def test_the_box_of_a_rejected_object_is_ignored(tmp_path):
    task = plan({"jitter": "0"}, data=(boxed_manifest(tmp_path),)).task

    shares = [(task.sample(index).labels == IGNORE).mean() for index in range(6)]

    assert max(shares) > 0.05  # the second object has boxes and no masks


def test_every_object_comes_once_in_an_epoch(tmp_path):
    task = plan({"jitter": "0", "flip": "0", "gamma": "0", "colour": "0"}, data=(boxed_manifest(tmp_path),)).task

    first = [task.sample(index).crop.tobytes() for index in range(6)]
    second = [task.sample(index).crop.tobytes() for index in range(6, 12)]

    assert len(set(first)) == 6
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_mirrored_sample_is_the_mirror_of_the_other():
    kept, mirrored = plan({"flip": "0"}).task.sample(3), plan({"flip": "1"}).task.sample(3)

    assert np.array_equal(kept.crop, mirrored.crop[:, ::-1])
    assert np.array_equal(kept.labels, mirrored.labels[:, ::-1])


def test_rough_boxes_are_rougher(tmp_path):
    data = (boxed_manifest(tmp_path),)
    exact, careful, rough = (
        plan({"jitter": jitter, "rough_share": share, "flip": "0"}, data=data).task
        for jitter, share in (("0", "0"), ("0.05", "0"), ("0.05", "1"))
    )

    def spread(task):
        pairs = [(task.sample(index).crop[..., 3], exact.sample(index).crop[..., 3]) for index in range(24)]
        return np.mean([(first != second).mean() for first, second in pairs])

    assert spread(rough) > 1.5 * spread(careful) > 0


@pytest.mark.parametrize("loss", ["bootstrapped", "ce", "huberised"])
def test_ignored_pixels_do_not_teach(loss):
    task = plan({"loss": loss, "tau_warmup": "0"}).task
    model = task.build().train()
    batch = task.collate([task.sample(0), task.sample(1)])
    batch.labels_BHW[:] = IGNORE

    result = task.loss(model, batch, 0)
    result.loss.backward()

    assert result.loss.item() == 0
    assert all(parameter.grad is None or parameter.grad.abs().max() == 0 for parameter in model.parameters())


@pytest.mark.slow
def test_a_few_dozen_steps_on_generated_clips_teach_something_that_the_engine_uses(tmp_path):
    short = plan({"loss": "ce", "jitter": "0"}, steps=40, learning_rate=3e-3, seed=1)
    settings = RunSettings(out=str(tmp_path / "run"), device="cpu", processes=0, validate_every=40)
    losses = []

    train_run(short, settings, watch=lambda note: losses.append(note.loss))

    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:5])
    made = generate_clip(5, 0, SynthConfig(num_frames=2, height=96, width=128, num_objects=1))
    clip = made.record(write_image_folder(tmp_path / "clip", made.images).source)
    engine = Box2SegEngine(weights=str(tmp_path / "run" / "weights.safetensors"), device="cpu")
    with open_clip(clip) as reader:
        labels = list(engine.label(clip, reader, range(2)))
    assert [label.frame for label in labels] == [0, 1]


def test_training_begins_with_given_weights(tmp_path):
    first = plan(seed=5, steps=1)
    trainer = Trainer(first.task, first.optimisation, device="cpu")
    trainer.export(str(tmp_path / "w.safetensors"))

    second = plan(seed=6, weights=str(tmp_path / "w.safetensors"))

    built = second.task.build().state_dict()
    assert all(torch.equal(value, built[name]) for name, value in trainer.weights().items())
    assert second.task.options()["weights"]


def test_weights_of_another_configuration_or_network_are_refused(tmp_path):
    first = plan(steps=1)
    Trainer(first.task, first.optimisation, device="cpu").export(str(tmp_path / "w.safetensors"))

    with pytest.raises(WeightsError, match="give the same backbone, size and margin"):
        plan({"margin": "abs:50"}, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match="found nothing"):
        plan(weights=str(tmp_path / "nothing.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "70"}, "needs 16n or 16n"),
        ({"backbone": "resnet5"}, "did you mean 'resnet50'"),
        ({"hardest": "1.5"}, "hardest: expected a number from 0 to 1"),
        ({"freeze_norms": "true"}, "batch norms of random weights know nothing"),
        ({"jiter": "0.1"}, "did you mean 'jitter'"),
        ({"jitter": "much"}, "expected a number, found 'much'"),
    ],
)
def test_options_that_are_not_possible_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        plan(options)


def test_an_unknown_recipe_or_task_is_refused():
    with pytest.raises(UsageError, match=r"unknown recipe 'papper'.*did you mean 'paper'"):
        plan(recipe="papper")
    with pytest.raises(UsageError, match=r"unknown task 'box2sag'.*did you mean 'box2seg'"):
        plan_training("box2sag", TrainingRequest())


def test_data_without_masks_is_refused_when_it_is_planned(tmp_path):
    clip = make_clip(tmp_path, "a")
    write_manifest([clip], str(tmp_path / "clips.parquet"))
    with pytest.raises(InputError, match="expected objects with masks"):
        plan(data=(str(tmp_path / "clips.parquet"),))


def test_frames_that_are_not_there_are_met_when_it_is_planned(tmp_path):
    source = boxed_manifest(tmp_path)
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    with pytest.raises(RayvosError, match=r"'a'|a/00000"):
        plan(data=(source,))
