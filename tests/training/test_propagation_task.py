from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from rayvos.errors import UsageError
from rayvos.models.stcn import aggregate
from rayvos.training.propagation_samples import SampleDrawer, SampleSettings
from rayvos.training.propagation_task import PropagationTask, aggregate_objects, forward_clip
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation

SMALL = SampleSettings(size=64, height=96, width=128, clip_frames=6, window=2, uses=4)


def task(**options):
    return PropagationTask(samples=SMALL, num_validation=2, **options)


def same(first, second) -> bool:
    names = ("images", "labels", "flows", "previous")
    return all(getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in names)


def test_a_sample_is_a_function_of_its_index_in_any_order_and_any_process():
    drawer, other = SampleDrawer(3, SMALL), pickle.loads(pickle.dumps(SampleDrawer(3, SMALL)))
    forwards = [drawer.draw(index) for index in range(10)]
    backwards = [other.draw(index) for index in reversed(range(10))][::-1]

    assert all(same(first, second) for first, second in zip(forwards, backwards, strict=True))
    assert len({sample.images.tobytes() for sample in forwards}) == 10


def test_samples_of_more_frames_are_predicted_one_after_the_other():
    longer = PropagationTask(samples=SampleSettings(**{**vars_of(SMALL), "frames": 5}), num_validation=2)
    batch = longer.collate([longer.sample(index) for index in range(2)])

    assert batch.images_BT3HW.shape[:2] == (2, 5)
    assert batch.flows_BT2HW.shape[:2] == (2, 4)
    assert set(longer.validate(longer.build())) == {"iou", "iou_1", "iou_2", "iou_3", "iou_4"}


def test_every_object_of_a_sample_is_there_on_its_first_frame():
    for index in range(8):
        sample = task().sample(index)
        assert set(range(1, len(sample.previous) + 1)) <= set(np.unique(sample.labels[0]).tolist())
        assert sample.labels.max() <= len(sample.previous) <= 2
        assert 0 <= sample.previous.min() <= sample.previous.max() <= 1


def test_without_distortion_the_second_frame_is_told_the_first_masks():
    sample = SampleDrawer(0, SampleSettings(**{**vars_of(SMALL), "corrupted": 0.0})).draw(0)
    for number, mask in enumerate(sample.previous):
        assert np.array_equal(mask, sample.labels[0] == number + 1)


def vars_of(settings: SampleSettings) -> dict[str, float]:
    return {name: getattr(settings, name) for name in settings.__slots__}


def test_objects_of_many_samples_are_aggregated_as_those_of_each():
    probability = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    own, background = aggregate_objects(probability, torch.tensor([0, 0, 1]), 2)

    for sample, objects in enumerate(([0, 1], [2])):
        expected = aggregate(probability[objects])
        assert torch.allclose(torch.cat([background[sample][None], own[objects]]), expected, atol=1e-5)


def test_a_batch_gives_each_sample_what_it_gives_alone():
    learner = task()
    network = learner.build()
    samples = [learner.sample(index) for index in range(3)]
    with torch.inference_mode():
        together = forward_clip(network, learner.collate(samples))
        alone = [forward_clip(network, learner.collate([sample])) for sample in samples]

    for frame in range(2):
        expected = torch.cat([found[frame][0] for found in alone])
        assert torch.allclose(together[frame][0], expected, atol=1e-4)


def test_the_loss_of_one_batch_falls():
    trainer = Trainer(task(seed=5), Optimisation(steps=30, batch_size=2, learning_rate=2e-3), device="cpu")
    batch = trainer.task.collate([trainer.task.sample(index) for index in (0, 1)])

    losses = [trainer.advance([batch]).loss for _ in range(15)]

    assert losses[-1] < 0.8 * losses[0]


def test_validation_gives_the_same_numbers_twice():
    learner = task()
    network = learner.build()
    assert learner.validate(network) == learner.validate(network)


def test_the_default_recipe_is_planned_by_name_and_options_win():
    plan = plan_training("propagation", TrainingRequest(steps=100, options={"size": "64"}))

    assert plan.optimisation.steps == 100
    assert plan.task.options()["samples"]["size"] == 64
    assert plan.task.options()["bootstrap"] == {"start": 16, "end": 78, "share": 0.25}


@pytest.mark.parametrize(
    "request_",
    [{"data": ("clips.parquet",)}, {"options": {"size": "100"}}, {"recipe": "best"}, {"options": {"frames": "10"}}],
)
def test_requests_that_mean_nothing_are_refused(request_):
    with pytest.raises(UsageError):
        plan_training("propagation", TrainingRequest(**request_))
