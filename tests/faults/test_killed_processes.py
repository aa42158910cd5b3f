"""Workers and drivers that are killed: the next attempt, or the next start, ends with what a quiet run writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rayvos.annotations.run_folder import RunFolder
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.run import run_job
from tests.engines_for_tests import ENGINE
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import (
    ALL_IN_ONE_UNIT,
    PATIENCE_S,
    RAYVOS,
    RAYVOS_WITH_A_CLUSTER,
    end_trouble,
    files_of,
    job_on,
    labels_of,
    let_pass,
    make_clips,
    make_trouble,
    shared_address,
    worker_environment,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(2 * PATIENCE_S),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def wait_for(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.05)


def start_driver(job: LabelJob, address: str) -> subprocess.Popen[str]:
    """Start `rayvos label`, as a user would."""
    program = RAYVOS_WITH_A_CLUSTER if address == "local" else RAYVOS
    command = [*program, "label", job.manifest, "--out", job.out, "--engine", ENGINE, "--address", address]
    command += ["--option", f"seconds_per_frame={job.engine.options['seconds_per_frame']}", "--actors", "1"]
    return subprocess.Popen(
        command, env=worker_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def num_committed(out: Path) -> int:
    return len(RunFolder(str(out)).committed())


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("seconds_per_frame", [ALL_IN_ONE_UNIT, 15.0, 60.0])
def test_a_killed_worker_loses_no_label_and_adds_none(tmp_path: Path, seconds_per_frame: float) -> None:
    clips = make_clips(tmp_path, 4)
    label_here(job_on(clips, tmp_path / "quiet", seconds_per_frame=seconds_per_frame))
    for clip in clips[:3]:
        make_trouble(clip, "kill once")

    summary = run_job(job_on(clips, tmp_path / "out", seconds_per_frame=seconds_per_frame, actors=2, max_attempts=4))

    assert summary.dead_letters == {}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_driver_is_resumed_by_the_next_start(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 6)
    quiet, job = job_on(clips, tmp_path / "quiet"), job_on(clips, tmp_path / "out")
    label_here(quiet)
    let_pass(clips, 2)

    driver = start_driver(job, "local")
    wait_for(lambda: num_committed(tmp_path / "out") >= 2, "committed unit")
    driver.kill()
    driver.communicate()
    found = files_of(tmp_path / "out")
    end_trouble(*clips)
    summary = run_job(job)

    assert len(found) == 2
    assert summary.throughput["units"] == 4
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
    assert labels_of(tmp_path / "out").equals(labels_of(tmp_path / "quiet"))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_driver_says_so_at_once_and_is_resumable(tmp_path: Path, number: signal.Signals, code: int) -> None:
    clips = make_clips(tmp_path, 6)
    job = job_on(clips, tmp_path / "out")
    let_pass(clips, 1)

    driver = start_driver(job, shared_address())
    wait_for(lambda: num_committed(tmp_path / "out") >= 1, "committed unit")
    os.kill(driver.pid, number)
    _, errors = driver.communicate(timeout=PATIENCE_S)

    assert driver.returncode == code
    assert "run the same command again to go on" in errors
    assert json.loads((tmp_path / "out" / "run.json").read_text())["state"] == "stopped"
    assert num_committed(tmp_path / "out") == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_clip_that_is_interrupted_again_and_again_is_not_blamed(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 1)
    job = job_on(clips, tmp_path / "out", max_attempts=2)
    label_here(job_on(clips, tmp_path / "quiet"))
    unit_id = next(iter(files_of(tmp_path / "quiet"))).removesuffix(".parquet")
    marks = Path(RunFolder(job.out).attempts_folder(unit_id))
    marks.mkdir(parents=True)
    for attempt in range(5):
        (marks / f"unit.anothersession.{attempt}").write_text('{"host": "elsewhere", "note": "", "pid": 1}')
        (marks / f"0.anothersession.{attempt}").write_text('{"host": "elsewhere", "note": "", "pid": 1}')

    summary = run_job(job)

    assert summary.dead_letters == {}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_die_while_they_load_the_engine_end_the_job(tmp_path: Path) -> None:
    job = job_on(make_clips(tmp_path, 2), tmp_path / "out")
    command = [*RAYVOS, "label", job.manifest, "-o", job.out, "--engine", "tests.engines_for_tests:DyingEngine"]
    command += ["--option", f"driver={tmp_path / 'driver'}", "--actors", "1", "--max-attempts", "1", "--json"]
    command += ["--address", shared_address()]

    ended = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=PATIENCE_S)

    assert ended.returncode == 1
    assert "workers died while they loaded the engine" in ended.stderr
    assert ended.stdout == ""
