"""Machines that come for the work and go after it, by Ray's real autoscaler and its simulated machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import REPOSITORY, files_of, job_on, make_clips, worker_environment

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_machines_come_for_the_work_and_go_after_it(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 6)
    job = job_on(clips, tmp_path / "out")
    label_here(job_on(clips, tmp_path / "quiet"))

    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.scale_up_and_down", job.manifest, job.out],
        cwd=REPOSITORY, env=worker_environment(), capture_output=True, text=True, timeout=880, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["before"], found["after"]) == (0, 0)
    assert 1 <= found["most"] <= 3
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
