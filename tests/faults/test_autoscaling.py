"""Machines that come for the work and go after it, by Ray's real autoscaler and its simulated machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import files_of, job_on, make_clips, run_beside

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_machines_come_for_the_work_and_go_after_it(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)
    job = job_on(clips, tmp_path / "out")
    label_here(job_on(clips, tmp_path / "quiet"))

    printed = run_beside("tests.faults.scale_up_and_down", job, 880)

    found = json.loads(printed.splitlines()[-1])
    assert (found["before"], found["after"]) == (0, 0)
    assert 1 <= found["most"] <= 2
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
