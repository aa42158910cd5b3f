"""A machine that disappears with its workers: the others take over its units."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayvos.annotations.run_folder import RunFolder
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import files_of, job_on, make_clips, run_beside

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_lost_machine_loses_no_label_and_adds_none(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 20)
    job = job_on(clips, tmp_path / "out")
    label_here(job_on(clips, tmp_path / "quiet"))

    run_beside("tests.faults.lose_a_machine", job, 240)

    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
    assert RunFolder(job.out).read_run_json()["ray"]["nodes"] == 3
