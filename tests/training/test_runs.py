from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayvos.errors import FormatError, InputError, RunError, UsageError, WeightsError
from rayvos.models.weights import read_weights
from rayvos.training.metrics_log import read_metrics
from rayvos.training.registry import TrainingPlan
from rayvos.training.runs import RunSettings, discard_run, train_run
from rayvos.training.state import newest_checkpoint
from tests.ray_cluster import worker_environment
from tests.training.tiny_task import TinyTask, tiny_optimisation


def plan_of(task=None, **changes):
    return TrainingPlan(task=task or TinyTask(), optimisation=tiny_optimisation(**changes))


def settings_of(out, **changes):
    return RunSettings(
        **{"out": str(out), "device": "cpu", "processes": 0, "checkpoint_every": 4, "validate_every": 3, **changes}
    )


class Killed(BaseException):
    """Stands for SIGKILL where the process has to go on: nothing in the code handles it."""


def kill_at(step):
    def watch(note):
        if note.step == step:
            raise Killed

    return watch


def weights_of(out):
    return read_weights(str(out / "weights.safetensors"))[0]


def metrics_of(out):
    rows = read_metrics(str(out / "metrics.parquet")).to_pylist()
    return [row for row in rows if row["name"] != "waiting_share"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("steps_done", [2, 4, 7, 11])
def test_a_run_that_was_killed_ends_like_one_that_was_not(tmp_path, steps_done):
    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    train_run(plan_of(), settings_of(undisturbed))

    with pytest.raises(Killed):
        train_run(plan_of(), settings_of(killed), watch=kill_at(steps_done))
    summary = train_run(plan_of(), settings_of(killed))

    assert summary.done
    assert summary.resumed_at == steps_done // 4 * 4
    assert same(weights_of(undisturbed), weights_of(killed))
    assert metrics_of(undisturbed) == metrics_of(killed)
    for name in ("weights.safetensors", "last.safetensors", "checkpoints/step-000000012.safetensors"):
        assert (undisturbed / name).read_bytes() == (killed / name).read_bytes()


@pytest.fixture
def one_thread():
    """Compute with one thread, as the processes that tests start do: equal bits need equal numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_process_that_was_killed_is_followed_by_one_that_ends_like_an_undisturbed_run(tmp_path):
    undisturbed, killed = tmp_path / "a", tmp_path / "b"
    train_run(plan_of(), settings_of(undisturbed))
    words = ["train", "tests.training.tiny_task:plan_tiny", "--in-process", "--device", "cpu", "--loaders", "1"]
    words += ["--checkpoint-every", "4", "--validate-every", "3", "-o", str(killed), "--fatal", f"7 {tmp_path}/killed"]

    done = subprocess.run(
        [sys.executable, "-c", "from rayvos.cli.main import run; run()", *words],
        env=worker_environment(), check=False, timeout=600,
    )  # fmt: skip
    summary = train_run(plan_of(), settings_of(killed))

    assert done.returncode == -signal.SIGKILL
    assert summary.resumed_at == 4
    assert same(weights_of(undisturbed), weights_of(killed))
    assert metrics_of(undisturbed) == metrics_of(killed)


def test_a_run_goes_on_in_pieces(tmp_path):
    train_run(plan_of(), settings_of(tmp_path / "whole"))
    starts = 0
    while True:
        summary = train_run(plan_of(), settings_of(tmp_path / "pieces", max_seconds=0.0))
        starts += 1
        if summary.done:
            break

    assert starts == 12
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces"))


def test_a_run_that_is_done_stays_as_it_is(tmp_path):
    first = train_run(plan_of(), settings_of(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}

    again = train_run(plan_of(), settings_of(tmp_path))

    assert (again.step, again.resumed_at, again.loss) == (12, 12, None)
    assert again.best == first.best
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}


def test_the_best_weights_are_exported_with_their_metrics(tmp_path):
    summary = train_run(plan_of(steps=60, learning_rate=0.05), settings_of(tmp_path))

    _, info = read_weights(str(tmp_path / "weights.safetensors"))
    validated = [row for row in metrics_of(tmp_path) if row["split"] == "validation"]
    assert info.metrics["right"] == summary.best["right"] == max(row["value"] for row in validated)
    assert info.training["step"] == summary.best["step"]
    assert read_weights(str(tmp_path / "last.safetensors"))[1].training["step"] == 60


def test_without_validation_the_last_weights_are_exported(tmp_path):
    class Unvalidated(TinyTask):
        def validate(self, model):
            return {}

    summary = train_run(plan_of(Unvalidated()), settings_of(tmp_path))

    assert summary.best == {}
    assert same(weights_of(tmp_path), read_weights(str(tmp_path / "last.safetensors"))[0])


def test_another_configuration_is_refused_before_anything_changes(tmp_path):
    train_run(plan_of(), settings_of(tmp_path, max_seconds=0.0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    for plan, settings, difference in (
        (plan_of(learning_rate=0.5), settings_of(tmp_path), "optimisation.learning_rate: there 0.01, now 0.5"),
        (plan_of(TinyTask(seed=3)), settings_of(tmp_path), "task.seed: there 0, now 3"),
        (plan_of(), settings_of(tmp_path, precision="bfloat16"), "precision: there 'auto', now 'bfloat16'"),
    ):
        with pytest.raises(UsageError, match=difference):
            train_run(plan, settings)

    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_discarded_run_takes_nothing_else_with_it(tmp_path):
    train_run(plan_of(), settings_of(tmp_path))
    (tmp_path / "notes.txt").write_text("mine")

    discard_run(str(tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert train_run(plan_of(learning_rate=0.5), settings_of(tmp_path)).resumed_at == 0


def test_a_truncated_checkpoint_is_named_and_removing_it_helps(tmp_path):
    with pytest.raises(Killed):
        train_run(plan_of(), settings_of(tmp_path), watch=kill_at(9))
    newest = tmp_path / "checkpoints" / "step-000000008.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])

    with pytest.raises(WeightsError, match=r"step-000000008\.safetensors: .*truncated or damaged; remove it"):
        train_run(plan_of(), settings_of(tmp_path))
    newest.unlink()

    assert train_run(plan_of(), settings_of(tmp_path)).resumed_at == 4


def test_a_damaged_run_json_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "trai')
    with pytest.raises(FormatError, match=r"run\.json: expected JSON"):
        train_run(plan_of(), settings_of(tmp_path))


def test_a_labelling_run_is_no_training_run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"configuration": {}}))
    with pytest.raises(UsageError, match="holds a run that is no training run"):
        train_run(plan_of(), settings_of(tmp_path))


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    train_run(plan_of(), settings_of(tmp_path / "a"))
    train_run(plan_of(TinyTask(seed=1)), settings_of(tmp_path / "b", max_seconds=0.0))
    newest = newest_checkpoint(str(tmp_path / "a" / "checkpoints"))
    (tmp_path / "b" / "checkpoints" / "step-000000012.safetensors").write_bytes(Path(newest).read_bytes())

    with pytest.raises(UsageError, match=r"step-000000012.*task\.seed: there 0, now 1"):
        train_run(plan_of(TinyTask(seed=1)), settings_of(tmp_path / "b"))


def test_errors_of_the_data_and_of_the_loss_are_named(tmp_path):
    with pytest.raises(InputError, match="clip 'c11': no such frame"):
        train_run(plan_of(TinyTask(unreadable=frozenset({11}))), settings_of(tmp_path / "a"))
    with pytest.raises(RunError, match=r"step 4: the loss of samples 24–31 is nan"):
        train_run(plan_of(TinyTask(poisoned=frozenset({30}))), settings_of(tmp_path / "b"))


def test_settings_that_are_not_possible_are_refused(tmp_path):
    for change in ({"checkpoint_every": 0}, {"accumulate": 0}, {"processes": -1}):
        with pytest.raises(UsageError, match=next(iter(change))):
            replace(settings_of(tmp_path), **change)


def test_a_run_may_lie_in_object_storage(tmp_path, s3_bucket):
    with pytest.raises(Killed):
        train_run(plan_of(), settings_of(f"{s3_bucket}/run"), watch=kill_at(9))
    summary = train_run(plan_of(), settings_of(f"{s3_bucket}/run"))
    train_run(plan_of(), settings_of(tmp_path))

    assert summary.resumed_at == 8
    assert same(read_weights(f"{s3_bucket}/run/weights.safetensors")[0], weights_of(tmp_path))


def test_event_files_say_what_the_table_says(tmp_path):
    train_run(plan_of(), settings_of(tmp_path))

    (file,) = (tmp_path / "tensorboard").iterdir()
    losses = [row["value"] for row in metrics_of(tmp_path) if row["name"] == "loss"]
    assert event_values(file.read_bytes(), "train/loss") == pytest.approx(losses)


def event_values(data, tag):
    """Return the numbers of a TensorBoard event file: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [value.simple_value for value in event.summary.value if value.tag == tag]
        at += length + 16
    return found
