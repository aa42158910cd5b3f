"""Sweeps on Ray Tune: each trial once, results that outlive the driver, failures by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rayvos import storage
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt, ObjectInfo
from rayvos.cli.main import main
from rayvos.errors import UsageError
from rayvos.masks.rle import mask_to_rle
from rayvos.training.registry import TrainingRequest
from rayvos.tuning.spaces import space_of
from rayvos.tuning.trials import TrialResult, claim_sweep, read_result, write_result
from tests.ray_cluster import PATIENCE_S, RAYVOS, shared_address, worker_environment

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TASK = "tests.tuning.swept_task:plan_swept"


def tune(out, *words, steps=6):
    return main(["tune", "points", "--task", TASK, "--steps", str(steps), "-o", str(out), "--json", *words])


def test_a_sweep_is_run_gone_on_with_and_extended(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert tune(tmp_path.name, "--values", "1", "--values", "10", "--seeds", "1") == 0
    first = json.loads(capsys.readouterr().out)
    marks = sorted(tmp_path.glob("trials/*/*/result.json"))
    times = [mark.stat().st_mtime_ns for mark in marks]

    assert first["best"] == "points=10"
    assert len(marks) == 2
    assert all(mark.with_name("weights.safetensors").exists() for mark in marks)
    assert tune(tmp_path, "--values", "1", "--values", "10", "--values", "5", "--seeds", "1") == 0

    assert [mark.stat().st_mtime_ns for mark in marks] == times
    assert len(json.loads(capsys.readouterr().out)["settings"]) == 3
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert "points=10" in best["option"]
    assert "Best: points 10" in (tmp_path / "report.html").read_text()


@dataclass
class Restored:
    """A sweep whose driver was killed and that was gone on with."""

    out: Path
    words: list[str]
    before: dict[Path, tuple[int, bytes]]
    """What trials had written that had ended when the driver was killed: time and content."""
    num_ended: int


@pytest.fixture(scope="module")
def restored(ray_cluster, tmp_path_factory):
    """`rayvos tune tau --quick` of a tiny network, killed when its first trial had ended, and restored."""
    out = tmp_path_factory.mktemp("killed") / "sweep"
    tiny = ("width=8", "size=32", "clips=2", "validated_clips=1")
    words = ["tune", "tau", "--quick", "--steps", "3", "--seeds", "1", "--concurrent", "1", "--json"]
    words += [word for option in tiny for word in ("--option", option)]
    command = [*RAYVOS, *words, "-o", str(out), "--address", shared_address()]

    driver = subprocess.Popen(command, env=worker_environment(), stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE_S
    while not (ended := sorted(out.glob("trials/*/*/result.json"))):
        assert driver.poll() is None, driver.stderr.read().decode()
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.05)
    driver.kill()
    driver.communicate()
    files = [file for mark in ended for file in mark.parent.rglob("*") if file.is_file()]
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    assert main([*words, "-o", str(out)]) == 0
    return Restored(out, words, before, len(ended))


def test_a_killed_sweep_runs_no_finished_trial_again(restored):
    assert 1 <= restored.num_ended < 3
    assert restored.before == {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in restored.before}


def test_a_killed_sweep_ends_like_one_that_was_not(restored, tmp_path):
    assert main([*restored.words, "-o", str(tmp_path)]) == 0

    tables = [pd.read_parquet(out / "results.parquet") for out in (restored.out, tmp_path)]
    assert len(tables[0]) == 3
    pd.testing.assert_frame_equal(*tables)


def test_the_best_setting_is_a_file_that_train_and_label_read(restored, tmp_path, image_clip):
    mask = MaskPrompt(1, 0, mask_to_rle(np.eye(image_clip.height, image_clip.width, dtype=np.bool_)))
    write_manifest(
        [dataclasses.replace(image_clip, objects=(ObjectInfo(1),), masks=(mask,))], str(tmp_path / "c.parquet")
    )
    train = ["train", "stcn", "--steps", "1", "--in-process", "-o", str(tmp_path / "trained")]
    label = ["label", str(tmp_path / "c.parquet"), "--dry-run", "-o", str(tmp_path / "out")]

    assert main(["--config", str(restored.out / "best.yaml"), *train]) == 0
    assert main(["--config", str(restored.out / "label.yaml"), *label]) == 0

    identity = json.loads((tmp_path / "trained" / "run.json").read_text())["identity"]
    assert identity["task"]["loss"] == "huberised"
    assert identity["model"]["width"] == 8


def test_a_failed_trial_is_named_and_run_again_while_others_stay(tmp_path, capsys):
    words = ["--values", "1", "--values", "10", "--seeds", "1", "--option", f"broken={tmp_path / 'broken'}"]
    (tmp_path / "broken").write_text("10")

    assert tune(tmp_path / "out", *words) == 1
    assert "points=10 with seed 0" in capsys.readouterr().err
    (tmp_path / "broken").unlink()
    assert tune(tmp_path / "out", *words) == 0


def test_bad_trials_end_early(tmp_path):
    values = [word for value in (30, 20, 10) for word in ("--values", str(value))]

    assert tune(tmp_path, *values, "--seeds", "1", "--early-stopping", "--concurrent", "2", steps=18) == 0

    results = [read_result(str(mark.parent)) for mark in tmp_path.glob("trials/*/*/result.json")]
    assert len(results) == 3
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
