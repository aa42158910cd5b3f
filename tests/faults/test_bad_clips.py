"""Clips that raise, crash, hang or eat memory: each is set aside alone, and the rest is as in a quiet run."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayvos.annotations.run_folder import read_dead_letters
from rayvos.pipelines.run import run_job
from tests.ray_cluster import (
    ALL_IN_ONE_UNIT,
    ONE_CLIP_A_UNIT,
    end_trouble,
    files_of,
    job_on,
    labels_of,
    letters_of,
    make_clips,
    make_trouble,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

TROUBLES = {
    "raise": ("engine_failed", {}),
    "segfault": ("worker_crashed", {"max_attempts": 2}),
    "exit": ("worker_crashed", {"max_attempts": 2}),
    "hang": ("timeout", {"max_attempts": 1, "timeout_s": 4.0}),
    "hog": ("out_of_memory", {"memory_limit_bytes": 1 << 30}),
    "creep": ("out_of_memory", {"memory_limit_bytes": 1 << 30}),
}


@pytest.mark.parametrize("seconds_per_frame", [ALL_IN_ONE_UNIT, ONE_CLIP_A_UNIT])
@pytest.mark.parametrize("trouble", list(TROUBLES))
def test_a_bad_clip_is_set_aside_alone(tmp_path: Path, trouble: str, seconds_per_frame: float) -> None:
    code, options = TROUBLES[trouble]
    clips = make_clips(tmp_path, 4)
    run_job(job_on(clips, tmp_path / "quiet", seconds_per_frame=seconds_per_frame))
    make_trouble(clips[1], trouble)

    job = job_on(clips, tmp_path / "out", seconds_per_frame=seconds_per_frame, **options)
    summary = run_job(job)

    assert letters_of(tmp_path / "out") == [("clip1", code)]
    assert summary.dead_letters == {code: 1}
    assert labels_of(tmp_path / "out").equals(labels_of(tmp_path / "quiet", without=("clip1",)))
    assert files_of(tmp_path / "out").keys() == files_of(tmp_path / "quiet").keys()
    assert not list((tmp_path / "out" / "attempts").iterdir())
    if trouble in ("segfault", "hang"):
        (letter,) = read_dead_letters(str(tmp_path / "out")).to_pylist()
        assert "make_trouble" in letter["traceback"]


def test_a_dead_letter_is_taken_up_again_when_asked_for(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 3)
    run_job(job_on(clips, tmp_path / "quiet", seconds_per_frame=ALL_IN_ONE_UNIT))
    make_trouble(clips[2], "raise")
    run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))
    end_trouble(clips[2])

    left_alone = run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))
    summary = run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT, retry_failed=True))

    assert left_alone.dead_letters == {"engine_failed": 1}
    assert summary.dead_letters == {}
    assert summary.throughput["pieces"] == 1
    assert labels_of(tmp_path / "out").drop(["unit_id"]).equals(labels_of(tmp_path / "quiet").drop(["unit_id"]))
