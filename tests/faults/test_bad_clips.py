"""Clips that raise, crash, hang or eat memory: each is set aside alone, and the rest is as in a quiet run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rayvos.annotations.run_folder import read_dead_letters
from rayvos.pipelines.run import RunSummary, run_job
from tests.faults.test_failing_storage import label_here
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

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CODES = {
    "raise": "engine_failed",
    "segfault": "worker_crashed",
    "exit": "worker_crashed",
    "hog": "out_of_memory",
    "creep": "out_of_memory",
}
BAD = {f"clip{2 * number + 1}": trouble for number, trouble in enumerate(CODES)}  # a good one before and behind each


@dataclass(frozen=True)
class Troubled:
    """One run over all bad clips, good ones between them, and one over the same clips when they were good."""

    out: Path
    quiet: Path
    summary: RunSummary


@pytest.fixture(scope="module", params=[ALL_IN_ONE_UNIT, ONE_CLIP_A_UNIT])
def troubled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Troubled:
    folder = tmp_path_factory.mktemp("troubled")
    clips = make_clips(folder, 2 * len(BAD) + 1)
    label_here(job_on(clips, folder / "quiet", seconds_per_frame=request.param))
    for clip in clips:
        if clip.clip_id in BAD:
            make_trouble(clip, BAD[clip.clip_id])

    options = {"max_attempts": 2, "memory_limit_bytes": 1 << 30, "actors": 2}
    summary = run_job(job_on(clips, folder / "out", seconds_per_frame=request.param, **options))
    return Troubled(folder / "out", folder / "quiet", summary)


@pytest.mark.parametrize("clip_id", BAD, ids=BAD.values())
def test_a_bad_clip_is_one_dead_letter_that_says_why(troubled: Troubled, clip_id: str) -> None:
    (letter,) = [found for found in read_dead_letters(str(troubled.out)).to_pylist() if found["clip_id"] == clip_id]

    assert letter["error"] == CODES[BAD[clip_id]]
    if BAD[clip_id] == "segfault":
        assert "make_trouble" in letter["traceback"]


def test_bad_clips_are_set_aside_alone(troubled: Troubled) -> None:
    assert sum(troubled.summary.dead_letters.values()) == len(BAD)
    assert labels_of(troubled.out).equals(labels_of(troubled.quiet, without=tuple(BAD)))
    assert files_of(troubled.out).keys() == files_of(troubled.quiet).keys()
    assert not list((troubled.out / "attempts").iterdir())


@pytest.mark.parametrize("seconds_per_frame", [ALL_IN_ONE_UNIT, ONE_CLIP_A_UNIT])
def test_a_clip_that_hangs_is_set_aside_alone(tmp_path: Path, seconds_per_frame: float) -> None:
    clips = make_clips(tmp_path, 3)
    label_here(job_on(clips, tmp_path / "quiet", seconds_per_frame=seconds_per_frame))
    make_trouble(clips[1], "hang")

    # On a busy machine the good clips take a second or two, and must not be taken for hung ones.
    options = {"max_attempts": 1, "timeout_s": 10.0}
    run_job(job_on(clips, tmp_path / "out", seconds_per_frame=seconds_per_frame, **options))

    (letter,) = read_dead_letters(str(tmp_path / "out")).to_pylist()
    assert (letter["clip_id"], letter["error"]) == ("clip1", "timeout")
    assert "make_trouble" in letter["traceback"]
    assert labels_of(tmp_path / "out").equals(labels_of(tmp_path / "quiet", without=("clip1",)))
    assert not list((tmp_path / "out" / "attempts").iterdir())


def test_a_dead_letter_is_taken_up_again_when_asked_for(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 3)
    label_here(job_on(clips, tmp_path / "quiet", seconds_per_frame=ALL_IN_ONE_UNIT))
    make_trouble(clips[2], "raise")
    label_here(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))
    end_trouble(clips[2])

    left_alone = run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))
    summary = run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT, retry_failed=True))

    assert left_alone.dead_letters == {"engine_failed": 1}
    assert letters_of(tmp_path / "out") == []
    assert summary.dead_letters == {}
    assert summary.throughput["pieces"] == 1
    assert labels_of(tmp_path / "out").drop(["unit_id"]).equals(labels_of(tmp_path / "quiet").drop(["unit_id"]))
