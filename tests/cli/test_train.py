from __future__ import annotations

import json

import pytest

from rayvos.cli.main import main
from rayvos.models.weights import read_weights

TINY = "tests.training.tiny_task:plan_tiny"


def train(out, *words, task=TINY):
    return main(["train", task, "--in-process", "--loaders", "0", "--device", "cpu", "-o", str(out), *words])


def test_a_run_is_trained_and_the_same_command_has_nothing_left_to_do(tmp_path, capsys):
    out = tmp_path / "a folder"

    assert train(out, "--steps", "8") == 0
    first = capsys.readouterr().out
    assert train(out, "--steps", "8") == 0
    second = capsys.readouterr().out

    assert "8 of 8 steps" in first
    assert "trained now   steps 1 to 8" in first
    assert "waiting for samples" in first
    assert "trained now   nothing: all was done before" in second
    assert read_weights(str(out / "weights.safetensors"))[1].architecture == "tiny"


def test_a_run_goes_on_after_its_time_is_up(tmp_path, capsys):
    assert train(tmp_path, "--steps", "4", "--max-seconds", "0", "--json") == 0
    stopped = json.loads(capsys.readouterr().out)
    assert train(tmp_path, "--steps", "4", "--json") == 0
    gone_on = json.loads(capsys.readouterr().out)

    assert (stopped["step"], stopped["done"]) == (1, False)
    assert (gone_on["resumed_at"], gone_on["step"], gone_on["done"]) == (1, 4, True)


def test_another_configuration_is_refused_unless_the_run_is_discarded(tmp_path, capsys):
    assert train(tmp_path, "--steps", "3") == 0

    assert train(tmp_path, "--steps", "3", "--dropout", "0.5") == 2
    assert "task.dropout: there 0.3, now 0.5" in capsys.readouterr().err
    assert train(tmp_path, "--steps", "3", "--option", "dropout=0.5", "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dropuot", "0.5"], "did you mean 'dropout'"),
        (["--dropout", "much"], "expected a number, found 'much'"),
        (["--option", "dropout=0.5", "--dropout", "0.5"], "task option 'dropout' is there twice"),
        (["--steps", "0"], "steps 0"),
        (["--learning-rate", "-1"], "learning_rate -1"),
        (["--batch-size", "8", "--accumulate", "3"], "cannot be cut into 3 equal pieces"),
        (["--workers", "2"], "--in-process has one worker"),
        (["--sample-actors", "2"], "--in-process is without Ray"),
        (["--checkpoint-every", "0"], "checkpoint_every: expected a number from 1"),
    ],
)
def test_wrong_options_end_with_2_and_say_why(tmp_path, capsys, words, message):
    assert train(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_task_is_refused_with_the_nearest(tmp_path, capsys):
    assert train(tmp_path, task="box2sge") == 2
    assert "did you mean 'box2seg'" in capsys.readouterr().err
