from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rayvos.errors import InputError, RunError, UsageError, WeightsError
from rayvos.models.weights import read_weights
from rayvos.training.loading import BatchLoader
from rayvos.training.optimising import learning_rate_factor
from rayvos.training.sharing import Share
from rayvos.training.state import load_state_file, newest_checkpoint, save_checkpoint, save_state_file
from rayvos.training.steps import Trainer
from tests.training.tiny_task import TinyTask, tiny_optimisation


def train(trainer, steps, *, processes=0):
    with BatchLoader(
        trainer.task, trainer.optimisation, trainer.share, first_step=trainer.step, processes=processes
    ) as loader:
        return [trainer.advance(loader.next_step()) for _ in range(steps)]


def make(task=None, *, share=None, precision="float32", **changes):
    return Trainer(task or TinyTask(), tiny_optimisation(**changes), share=share, device="cpu", precision=precision)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_falls_and_the_averaged_weights_are_good():
    trainer = make(steps=150)

    reports = train(trainer, 150)

    assert reports[-1].loss < 0.5 * reports[0].loss
    assert trainer.validate()["right"] > 0.8


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, optimiser, precision):
    changes = {"optimiser": optimiser, "weight_decay": 0.01, "clip_norm": 1.0, "precision": precision}
    whole, first, second = make(**changes), make(**changes), make(**changes)
    train(whole, 12)

    train(first, 5)
    save_state_file(str(tmp_path / "state.safetensors"), first.state())
    second.restore(load_state_file(str(tmp_path / "state.safetensors")))
    train(second, 7)

    assert same(whole.state().tensors, second.state().tensors)
    assert same(whole.weights(), second.weights())


def test_what_others_draw_between_steps_changes_nothing_nor_do_steps_disturb_others():
    calm, disturbed = make(), make()
    train(calm, 4)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()

    for _ in range(4):
        torch.rand(3)
        with BatchLoader(disturbed.task, disturbed.optimisation, disturbed.share, first_step=disturbed.step) as loader:
            disturbed.advance(loader.next_step())

    torch.manual_seed(1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert same(calm.weights(), disturbed.weights())


def test_validation_changes_nothing():
    plain, validated = make(), make()
    train(plain, 6)

    train(validated, 3)
    found = validated.validate()
    assert validated.validate() == found
    train(validated, 3)

    assert same(plain.state().tensors, validated.state().tensors)


def test_accumulated_pieces_give_the_step_of_the_whole_batch():
    task = TinyTask(dropout=0.0, frozen_norm=True)
    whole, pieces = make(task), make(task, share=Share(accumulate=4))

    losses = [[report.loss for report in train(trainer, 12)] for trainer in (whole, pieces)]

    assert losses[0] == pytest.approx(losses[1], abs=1e-5)  # float32 sums in another order
    for name, value in whole.weights().items():
        torch.testing.assert_close(value, pieces.weights()[name], atol=1e-5, rtol=1e-5)


def test_processes_that_make_samples_ahead_change_nothing():
    alone, helped = make(), make()

    train(alone, 6)
    train(helped, 6, processes=1)

    assert same(alone.weights(), helped.weights())


@pytest.mark.parametrize("processes", [0, 1])
def test_a_sample_that_cannot_be_read_is_an_error_of_the_data(processes):
    with pytest.raises(InputError, match=r"^clip 'c11': no such frame$"):
        train(make(TinyTask(unreadable=frozenset({11}))), 4, processes=processes)


def test_a_loss_that_is_not_finite_names_the_step_and_the_samples():
    trainer = make(TinyTask(poisoned=frozenset({19})), share=Share(accumulate=4))
    train(trainer, 2)
    before = {name: value.clone() for name, value in trainer.weights().items()}

    with pytest.raises(RunError, match=r"step 3: the loss of samples 18–19 is nan"):
        train(trainer, 1)

    names = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], trainer.weights()[name]) for name in names)


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    path = save_checkpoint(str(tmp_path), make().state())

    with pytest.raises(
        UsageError, match=r"optimisation.learning_rate: there 0.01, now 0.02; task.seed: there 0, now 1"
    ):
        make(TinyTask(seed=1), learning_rate=0.02).restore(load_state_file(path), where=path)
    with pytest.raises(UsageError, match=r"architecture: there 'tiny', now 'other'"):
        make(TinyTask(architecture="other")).restore(load_state_file(path), where=path)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path, length):
    path = tmp_path / "state.safetensors"
    save_state_file(str(path), make().state())
    path.write_bytes(path.read_bytes()[:length])

    with pytest.raises(WeightsError, match=r"state.safetensors: \d+ bytes that do not hold .* remove it"):
        load_state_file(str(path))


def test_a_checkpoint_without_the_tensors_of_its_run_is_named(tmp_path):
    state = make().state()
    tensors = {name: value for name, value in state.tensors.items() if name != "model/0.weight"}

    with pytest.raises(WeightsError, match=r"0\.weight"):
        make().restore(replace(state, tensors=tensors))


def test_a_pickle_is_no_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(pickle.dumps({"step": 1}))

    with pytest.raises(WeightsError):
        load_state_file(str(path))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    trainer = make()
    assert newest_checkpoint(str(tmp_path)) is None

    for _ in range(4):
        train(trainer, 1)
        path = save_checkpoint(str(tmp_path), trainer.state())

    assert newest_checkpoint(str(tmp_path)) == path
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"step-{n:09d}.safetensors" for n in (3, 4)]


def test_a_checkpoint_may_lie_in_object_storage(s3_bucket):
    trainer = make()
    train(trainer, 2)

    path = save_checkpoint(f"{s3_bucket}/train/checkpoints", trainer.state())

    assert newest_checkpoint(f"{s3_bucket}/train/checkpoints") == path
    assert load_state_file(path).step == 2


def test_exported_weights_are_those_that_are_validated_and_say_how_they_were_learnt(tmp_path):
    trainer = make()
    train(trainer, 3)

    trainer.export(str(tmp_path / "w.safetensors"), metrics={"right": 0.5})

    state, info = read_weights(str(tmp_path / "w.safetensors"))
    assert same(state, trainer.weights())
    assert info.training["step"] == 3
    assert info.training["optimisation"]["learning_rate"] == 0.01
    assert info.metrics == {"right": 0.5}


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(UsageError, match="a batch of 8 samples cannot be cut into 3 equal pieces"):
        make(share=Share(size=3))


def test_workers_take_disjoint_pieces_that_make_up_the_step():
    for size, accumulate in ((1, 1), (2, 3), (4, 1), (3, 2)):
        shares = [Share(rank=rank, size=size, accumulate=accumulate) for rank in range(size)]
        taken = [index for share in shares for piece in share.pieces(5, 24) for index in piece]
        assert taken == list(range(120, 144))


def test_the_rate_rises_then_falls_as_the_schedule_says():
    cosine = tiny_optimisation(steps=100, warmup_steps=10)
    rates = [learning_rate_factor(cosine, step) for step in range(100)]
    assert rates[10] == max(rates) == 1
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01

    steps = tiny_optimisation(steps=100, warmup_steps=0, schedule="multistep", decay_at=(0.5, 0.8))
    factors = [learning_rate_factor(steps, step) for step in (0, 49, 50, 79, 80, 99)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_steps_need_no_ray():
    code = "import sys, rayvos.training.steps, rayvos.training.loading; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode == 0
