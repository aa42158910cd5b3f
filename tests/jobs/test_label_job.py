"""Labelling as a submitted job, on a cluster that `ray start` made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rayvos.annotations.records import Box
from rayvos.annotations.run_folder import RunFolder
from rayvos.pipelines.label import LabelJob
from tests.engines_for_tests import ENGINE
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import PATIENCE_S, REPOSITORY, end_trouble, files_of, job_on, let_pass, make_clips
from tests.ray_head import NUM_CPUS, wait_for

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(4 * PATIENCE_S),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def submit(jobs: Any, job: LabelJob, *words: str) -> str:
    entry = ["python", "jobs/label.py", job.manifest, "-o", job.out, "--engine", ENGINE]
    entry += ["--option", f"seconds_per_frame={job.engine.options['seconds_per_frame']}", "--actors", "1", *words]
    environment = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return str(
        # Right after its start a cluster has no agent that takes jobs.
        wait_for(
            lambda: jobs.submit_job(
                entrypoint=" ".join(entry),
                runtime_env={"working_dir": str(REPOSITORY), "env_vars": environment},
                entrypoint_num_cpus=1,
            )
        )
    )


def ended(jobs: Any, submission: str) -> Any:
    return wait_for(lambda: jobs.get_job_status(submission).is_terminal() and jobs.get_job_info(submission))


def test_a_submitted_job_labels_on_its_cluster(jobs: Any, tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 3)
    clips[1] = dataclasses.replace(clips[1], boxes=(Box(1, 0, 9, 9, 2, 2),))
    label_here(job_on(clips, tmp_path / "quiet"))

    info = ended(jobs, submit(jobs, job_on(clips, tmp_path / "out"), "--json"))

    assert info.driver_exit_code == 3, info.message
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["ray"]["resources"]["CPU"] == NUM_CPUS


def test_wrong_options_end_a_job_with_their_own_code(jobs: Any, tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 1)

    info = ended(jobs, submit(jobs, job_on(clips, tmp_path / "out"), "--max-attempts", "0"))

    assert info.driver_exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_stopped_job_is_submitted_again_and_goes_on(jobs: Any, tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 6)
    job = job_on(clips, tmp_path / "out")
    label_here(job_on(clips, tmp_path / "quiet"))

    let_pass(clips, 1)
    first = submit(jobs, job)
    wait_for(lambda: RunFolder(job.out).committed())
    jobs.stop_job(first)
    ended(jobs, first)
    stopped = json.loads((tmp_path / "out" / "run.json").read_text())["state"]
    num_done = len(files_of(tmp_path / "out"))
    end_trouble(*clips)
    info = ended(jobs, submit(jobs, job))

    assert stopped == "stopped"
    assert num_done == 1
    assert info.driver_exit_code == 0, info.message
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
