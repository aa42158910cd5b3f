"""Learning to propagate: samples, losses of each supervision, recipes, and what is refused before the first step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt, ObjectInfo
from rayvos.errors import InputError, UsageError, WeightsError
from rayvos.masks.rle import mask_to_rle
from rayvos.models.stcn_checkpoint import load_stcn
from rayvos.training.loading import BatchLoader
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.sharing import Share
from rayvos.training.stcn_samples import draw_clip_sample, reference_map
from rayvos.training.stcn_task import StcnTask, StcnTraining
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation

TINY = {"width": 8, "size": 32, "clips": 2, "validated_clips": 1}


def tiny_task(**options) -> StcnTask:
    return StcnTask(config=StcnTraining(**{**TINY, **options}), steps=10, batch_size=2)


def test_a_sample_depends_on_its_number_alone():
    task = tiny_task()

    again = [task.sample(number) for number in (4, 3)][::-1]

    for found, number in zip(again, (3, 4), strict=True):
        expected = tiny_task().sample(number)
        for name in ("images", "labels", "reference", "point_xy"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))


def test_the_reference_of_masks_is_the_first_frames_mask():
    sample = tiny_task().sample(0)

    for number, reference in enumerate(sample.reference, start=1):
        assert np.array_equal(reference > 0, sample.labels[0] == number)


def test_the_reference_of_points_holds_no_more_than_the_points():
    task = tiny_task(supervision="points", reference_points=3)

    counts = [int(reference.sum()) for number in range(6) for reference in task.sample(number).reference]

    assert all(1 <= count <= 3 for count in counts)


def test_a_still_picture_is_warped_three_times():
    sample = tiny_task(static=True).sample(1)

    assert not np.array_equal(sample.images[0], sample.images[1])
    assert (sample.labels > 0).any(axis=(1, 2)).all()


def test_far_frames_are_met_in_the_middle_of_a_run_only():
    class Numbered:
        """A clip of 60 annotated frames that notes which are asked for."""

        def __init__(self):
            self.inner = tiny_task().clips()
            self.chosen: list[list[int]] = []

        def __len__(self):
            return 1

        def name(self, number):
            return "numbered"

        def frames(self, number):
            return tuple(range(60))

        def views(self, number, frames):
            self.chosen.append(list(frames))
            return self.inner.views(0, [0, 1, 2])

    clips = Numbered()
    spans = {}
    for share in (0.0, 0.5, 0.95):
        clips.chosen = []
        for index in range(30):
            draw_clip_sample(clips, StcnTraining(**TINY).rule(), 0, index, share)
        spans[share] = max(max(frames) - min(frames) for frames in clips.chosen)

    assert spans[0.0] <= 10
    assert spans[0.95] <= 10
    assert 10 < spans[0.5] <= 50


def test_discs_grow_around_points_and_stay_inside():
    found = reference_map(np.array([[0.0, 0.0], [10.0, 5.0]]), 16, 16, 2)

    assert found[0, 0] == found[0, 2] == found[5, 10] == found[7, 10] == 1
    assert found[2, 2] == found[5, 13] == 0
    assert reference_map(np.array([[3.0, 4.0]]), 16, 16, 0).sum() == 1


@pytest.mark.parametrize("options", [
    {}, {"loss": "huberised"}, {"loss": "ce"}, {"supervision": "points"}, {"supervision": "hybrid"},
    {"supervision": "points", "loss": "huberised", "balance": "class"},
])  # fmt: skip
def test_every_supervision_gives_gradients_to_all_parts(options):
    task = tiny_task(**options)
    network = task.build()

    result = task.loss(network, task.collate([task.sample(0), task.sample(1)]), 5)
    result.loss.backward()

    assert torch.isfinite(result.loss)
    for part in ("key_encoder", "value_encoder", "decoder"):
        norms = [float(p.grad.norm()) for p in getattr(network, part).parameters() if p.grad is not None]
        assert sum(norms) > 0, part


def test_learning_from_points_looks_at_nothing_but_the_points():
    task = tiny_task(supervision="points")
    batch = task.collate([task.sample(0)])
    network = task.build()

    before = task.loss(network, batch, 0).loss
    wrong = dataclasses.replace(batch, labels_BTHW=torch.ones_like(batch.labels_BTHW))

    assert torch.equal(before, task.loss(network, wrong, 0).loss)


@pytest.mark.parametrize("options", [
    {"loss": "ce"}, {"supervision": "points"}, {"supervision": "points", "balance": "class"},
])  # fmt: skip
def test_a_batch_teaches_what_its_pieces_teach(options):
    task = tiny_task(**options)
    network = task.build()
    one, two = task.sample(0), task.sample(1)

    with torch.no_grad():
        alone = [float(task.loss(network, task.collate([sample]), 0).loss) for sample in (one, two)]
        together = float(task.loss(network, task.collate([one, two]), 0).loss)

    assert together == pytest.approx(np.mean(alone), abs=1e-5)


@pytest.mark.slow
def test_a_few_steps_on_one_clip_lower_the_loss(tmp_path):
    optimisation = Optimisation(steps=30, batch_size=2, learning_rate=2e-3, clip_norm=1.0, warmup_steps=3)
    task = dataclasses.replace(tiny_task(loss="ce", clips=1), steps=30)
    trainer = Trainer(task, optimisation)
    losses = []
    with BatchLoader(task, optimisation, Share()) as loader:
        while trainer.step < optimisation.steps:
            losses.append(trainer.advance(loader.next_step()).loss)

    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])
    scores = trainer.validate()
    assert set(scores) == {"j_and_f", "jaccard", "boundary_f"}
    trainer.export(str(tmp_path / "weights.safetensors"))
    assert load_stcn(str(tmp_path / "weights.safetensors"))[0].configuration()["width"] == 8


class TestPlanning:
    def plan(self, name: str = "stcn", **request):
        return plan_training(name, TrainingRequest(**request))

    def test_the_papers_schedules_scale_with_the_steps(self):
        plan = self.plan(recipe="video", steps=1000)

        assert plan.optimisation.decay_at == (pytest.approx(125 / 150),)
        assert plan.optimisation.learning_rate == 1e-5
        assert plan.task.config.loss == "bootstrapped"

    def test_point_recipes_learn_from_points(self):
        plan = self.plan("point-stcn", recipe="pv-davis-youtube")

        assert plan.task.config.supervision == "points"
        assert plan.optimisation.steps == 38_000

    def test_masks_are_not_what_point_stcn_is_given(self):
        with pytest.raises(UsageError, match="use task 'stcn'"):
            self.plan("point-stcn", options={"supervision": "masks"})

    @pytest.mark.parametrize(("name", "value", "message"), [
        ("size", "50", "multiple of 16"), ("tau", "0.5", "tau: expected"), ("frames", "1", "at least 2"),
        ("corrupted", "2", "from 0 to 1"), ("reference_points", "0", "from 1"), ("loss", "mse", "loss"),
    ])  # fmt: skip
    def test_impossible_options_are_named(self, name, value, message):
        with pytest.raises(UsageError, match=message):
            self.plan(options={name: value})

    def test_cross_entropy_is_an_infinite_tau(self):
        assert self.plan(options={"tau": "inf"}).task.options()["tau"] == "inf"

    def test_weights_of_another_width_are_refused(self, tmp_path):
        path = str(tmp_path / "w.safetensors")
        Trainer(tiny_task(), Optimisation(steps=1, batch_size=1, learning_rate=1e-3)).export(path)

        assert self.plan(weights=path, recipe="quick", options=TINY_WORDS).task.weights == path
        with pytest.raises(WeightsError, match="of width 8, the training asks for 64"):
            self.plan(weights=path)

    def test_a_clip_of_one_annotated_frame_teaches_nothing(self, image_clip, tmp_path):
        mask = mask_to_rle(np.ones((image_clip.height, image_clip.width), np.bool_))
        clip = dataclasses.replace(image_clip, objects=(ObjectInfo(1),), masks=(MaskPrompt(1, 0, mask),))
        write_manifest([clip], str(tmp_path / "one.parquet"))

        with pytest.raises(InputError, match="on two frames or more"):
            self.plan(data=(str(tmp_path / "one.parquet"),))

    def test_what_is_learnt_from_and_validated_on_is_checked_before_the_first_step(self, image_clip, tmp_path):
        empty = mask_to_rle(np.zeros((image_clip.height, image_clip.width), np.bool_))
        masks = tuple(MaskPrompt(1, frame, empty) for frame in range(4))
        clip = dataclasses.replace(image_clip, objects=(ObjectInfo(1),), masks=masks)
        write_manifest([clip], str(tmp_path / "empty.parquet"))

        for kind in ("data", "validation"):
            with pytest.raises(InputError, match="masks of two classes"):
                self.plan(**{kind: (str(tmp_path / "empty.parquet"),)})

    def test_weights_of_another_network_are_refused(self):
        with pytest.raises(WeightsError, match="expected an stcn network"):
            self.plan(weights="stcn_compact")

    def test_an_empty_data_set_is_refused(self, tmp_path):
        write_manifest([], str(tmp_path / "none.parquet"))

        with pytest.raises(InputError, match="found none in 0 clips"):
            self.plan(data=(str(tmp_path / "none.parquet"),))


TINY_WORDS = {name: str(value) for name, value in TINY.items()}
