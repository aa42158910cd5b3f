"""Sweeps on Ray Tune: each trial once, results that outlive the driver, failures by name."""

from __future__ import annotations

import json

import pytest
import yaml

from rayvos import storage
from rayvos.cli.main import main
from rayvos.errors import UsageError
from rayvos.training.registry import TrainingRequest
from rayvos.tuning.spaces import space_of
from rayvos.tuning.trials import TrialResult, claim_sweep, read_result, write_result

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TASK = "tests.tuning.swept_task:plan_swept"


def tune(out, *words, steps=6):
    return main(["tune", "points", "--task", TASK, "--steps", str(steps), "-o", str(out), "--json", *words])


def test_a_sweep_is_run_gone_on_with_and_extended(tmp_path, capsys):
    assert tune(tmp_path, "--values", "1", "--values", "10", "--seeds", "1") == 0
    first = json.loads(capsys.readouterr().out)
    marks = sorted(tmp_path.glob("trials/*/*/result.json"))
    times = [mark.stat().st_mtime_ns for mark in marks]

    assert first["best"] == "points=10"
    assert len(marks) == 2
    assert tune(tmp_path, "--values", "1", "--values", "10", "--values", "5", "--seeds", "1") == 0

    assert [mark.stat().st_mtime_ns for mark in marks] == times
    assert len(json.loads(capsys.readouterr().out)["settings"]) == 3
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert "points=10" in best["option"]
    assert "points=10" in (tmp_path / "report.html").read_text()


def test_a_failed_trial_is_named_and_run_again_while_others_stay(tmp_path, capsys):
    words = ["--values", "1", "--values", "10", "--seeds", "1", "--option", f"broken={tmp_path / 'broken'}"]
    (tmp_path / "broken").write_text("10")

    assert tune(tmp_path / "out", *words) == 1
    assert "points=10 with seed 0" in capsys.readouterr().err
    (tmp_path / "broken").unlink()
    assert tune(tmp_path / "out", *words) == 0


def test_bad_trials_end_early(tmp_path):
    values = [word for value in (30, 20, 10, 5, 2, 1) for word in ("--values", str(value))]

    assert tune(tmp_path, *values, "--seeds", "1", "--early-stopping", "--concurrent", "2", steps=18) == 0

    results = [read_result(str(mark.parent)) for mark in tmp_path.glob("trials/*/*/result.json")]
    assert len(results) == 6
    assert any(not result.stopped_early for result in results)
    assert any(result.stopped_early for result in results)


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    claim_sweep(str(tmp_path), {"sweep": "tau", "steps": 9})

    with pytest.raises(UsageError, match="steps: 9 there, 8 now"):
        claim_sweep(str(tmp_path), {"sweep": "tau", "steps": 8})


def test_a_result_comes_back_as_it_was(tmp_path):
    result = TrialResult(
        varied={"tau": float("inf")}, seed=1, seconds=None, step=4, stopped_early=True, scores={"j_and_f": 0.5}
    )

    write_result(str(tmp_path), result)

    assert read_result(str(tmp_path)) == result
    assert read_result(storage.join(str(tmp_path), "other")) is None


def test_settings_travel_as_words(tmp_path):
    (setting,) = space_of("tau", values=(float("inf"),)).settings

    assert TrainingRequest(options=setting.options).options["tau"] == "inf"
