import json

import numpy as np
import pytest
import torch

from rayvos.cli.main import main
from rayvos.errors import UsageError
from rayvos.models.guided import PLANES, GuidedModel
from rayvos.models.registry import load_model
from rayvos.models.weights import read_weights, save_weights
from rayvos.training import guided_task
from rayvos.training.guided_samples import draw_sample
from rayvos.training.guided_task import HELD_OUT_PROGRAMS, PROGRAMS, GuidedTask, fill_cache
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation

SMALL = GuidedModel(size=64, widths=(8, 8, 12, 16, 16))


def task(**options):
    return GuidedTask(model=SMALL, num_validation=4, window=16, **options)


def test_a_sample_is_a_function_of_its_number():
    forwards = [draw_sample(3, number, 64, PROGRAMS) for number in range(5)]
    backwards = [draw_sample(3, number, 64, PROGRAMS) for number in reversed(range(5))][::-1]

    for first, second in zip(forwards, backwards, strict=True):
        assert first.planes.tobytes() == second.planes.tobytes()
        assert first.mask.tobytes() == second.mask.tobytes()


def test_samples_hold_an_object_and_surroundings():
    for number in range(0, 48, 4):
        sample = draw_sample(1, number, 64, PROGRAMS)
        assert sample.planes.shape == (len(PLANES), 64, 64)
        assert 0 < sample.mask.mean() < 1
        assert sample.planes[PLANES.index("region")].any()


def test_seeds_and_numbers_differ():
    content = {draw_sample(seed, number, 64, PROGRAMS).planes.tobytes() for seed in (0, 1) for number in range(4)}

    assert len(content) == 8


def test_the_cache_changes_no_sample(tmp_path):
    plain, cached = task(), task(cache=str(tmp_path))
    fill_cache(cached, range(1))

    for index in range(6):
        expected = plain.sample(index)
        for _ in range(2):
            found = cached.sample(index)
            assert found.planes.tobytes() == expected.planes.tobytes()
            assert found.mask.tobytes() == expected.mask.tobytes()


def test_the_cache_changes_no_validation(tmp_path):
    plain, cached = task(), task(cache=str(tmp_path))
    network = plain.build().eval()

    expected = plain.validate(network)
    assert [cached.validate(network) for _ in range(2)] == [expected, expected]
    assert len(list(tmp_path.iterdir())) == 4


def test_mirroring_turns_motion_and_mask_along(monkeypatch):
    monkeypatch.setattr("rayvos.training.guided_task.HEAD_START", 1)  # the first visits all show the first sample
    drawn = task().drawn_sample(0)
    visits = [task(seed=0).sample(index) for index in range(6)]

    masks = {visit.mask.tobytes() for visit in visits}
    assert drawn.mask.tobytes() in masks
    assert drawn.mask[:, ::-1].tobytes() in masks


def test_validation_uses_other_texture_programs():
    assert not set(PROGRAMS) & set(HELD_OUT_PROGRAMS)


def test_the_loss_falls_and_a_perfect_mask_has_a_small_one():
    trainer = Trainer(task(seed=5), Optimisation(steps=20, batch_size=2, learning_rate=3e-3), device="cpu")
    batch = trainer.task.collate([trainer.task.drawn_sample(0), trainer.task.drawn_sample(4)])

    losses = [trainer.advance([batch]).loss for _ in range(20)]

    assert losses[-1] < 0.75 * losses[0]


def test_runs_of_the_same_seed_end_with_the_same_weights():
    def train():
        trainer = Trainer(task(), Optimisation(steps=2, batch_size=2, learning_rate=1e-3, ema_decay=0.9), device="cpu")
        for step in range(2):
            trainer.advance([trainer.task.collate([trainer.task.sample(2 * step + k) for k in range(2)])])
        return trainer.weights()

    first, second = train(), train()

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_says_how_good_mask_and_quality_are():
    model = task().build().eval()

    found = task().validate(model)

    assert set(found) == {"iou", "recall_70", "quality_error", "quality_spearman"}
    assert 0 <= found["iou"] <= 1
    assert found == task().validate(model)


def test_the_registry_plans_a_run_from_words():
    request = TrainingRequest(recipe="short", seed=4, steps=20, options={"size": "64", "cache": "somewhere"})

    plan = plan_training("guided", request)

    assert plan.task.model.size == 64
    assert plan.task.seed == 4
    assert plan.optimisation.steps == 20
    assert "cache" not in plan.task.options()


@pytest.mark.parametrize(
    "request_", [TrainingRequest(recipe="long"), TrainingRequest(data=("x",)), TrainingRequest(options={"sise": "64"})]
)
def test_what_cannot_be_planned_is_refused(request_):
    with pytest.raises(UsageError):
        plan_training("guided", request_)


def test_a_run_may_begin_with_the_weights_of_another(tmp_path):
    first, path = task(seed=1), str(tmp_path / "first.safetensors")
    save_weights(path, first.build().state_dict(), architecture="guided", model=first.model_config())

    begun = task(seed=2, initial=path)

    assert torch.equal(begun.build().mask.weight, first.build().mask.weight)
    assert begun.options()["initial"]


@pytest.mark.slow
def test_many_samples_are_sound():
    areas, fills = [], []
    for number in range(0, 320, 8):
        sample = draw_sample(7, number, 64, PROGRAMS)
        region = sample.planes[PLANES.index("box")] > 0
        areas.append(sample.mask.mean())
        if region.any():
            fills.append(sample.mask[region].mean())

    assert np.quantile(areas, 0.02) > 0.005
    assert np.quantile(areas, 0.98) < 0.7
    assert 0.35 < np.mean(fills) < 0.55


def test_the_default_recipe_is_trained_by_the_command_in_pieces(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guided_task, "HEAD_START", 8)  # few scenes are enough here

    def train(name, *words):
        command = ["train", "guided", "--recipe", "default", "--in-process", "--loaders", "0", "--device", "cpu"]
        command += ["--size", "32", "--num-validation", "2", "--steps", "3", "--batch-size", "2"]
        command += ["--cache", str(tmp_path / "cache"), "-o", str(tmp_path / name), "--json"]
        assert main([*command, *words]) == 0
        return json.loads(capsys.readouterr().out)

    pieces = [train("pieces", "--max-seconds", "0") for _ in range(3)]
    train("whole")

    assert [piece["step"] for piece in pieces] == [1, 2, 3]
    assert pieces[-1]["done"]
    found, expected = (read_weights(str(tmp_path / name / "last.safetensors")) for name in ("pieces", "whole"))
    assert all(torch.equal(value, expected[0][name]) for name, value in found[0].items())
    assert load_model(str(tmp_path / "pieces" / "weights.safetensors"))[1].architecture == "guided"
    assert list((tmp_path / "pieces" / "tensorboard").glob("events.*"))
