from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayvos.annotations.label_rows import stamp_labels
from rayvos.annotations.records import Box, MaskPrompt
from rayvos.annotations.run_folder import RunFolder, read_labels
from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import EngineChoice
from rayvos.errors import RunError, UsageError
from rayvos.masks.rle import mask_to_rle
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.progress import RunProgress
from rayvos.pipelines.run import plan_only, run_job
from tests.engines_for_tests import ENGINE
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import (
    ALL_IN_ONE_UNIT,
    NUM_FRAMES,
    files_of,
    job_on,
    labels_of,
    make_clip,
    make_clips,
    make_trouble,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("seconds_per_frame", [ALL_IN_ONE_UNIT, 15.0, 60.0])
def test_a_job_gives_the_labels_of_a_direct_call(tmp_path: Path, seconds_per_frame: float) -> None:
    clips = make_clips(tmp_path)
    job = job_on(clips, tmp_path / "out", seconds_per_frame=seconds_per_frame)

    summary = run_job(job)

    engine = job.engine.load()
    found = read_labels(job.out)
    bare = pa.concat_tables([label_clip(engine, clip) for clip in clips])
    assert stamp_labels(found, fingerprint="", unit_id="", object_fingerprints={}).equals(bare)
    assert found.num_rows == len(clips) * NUM_FRAMES * 2
    assert summary.throughput["labels"] == found.num_rows
    assert summary.dead_letters == {}


def test_one_worker_and_three_actors_write_the_same_files(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 6)

    label_here(job_on(clips, tmp_path / "one"))
    run_job(job_on(clips, tmp_path / "three", actors=3))

    assert files_of(tmp_path / "one") == files_of(tmp_path / "three")
    assert len(files_of(tmp_path / "one")) == 6


@dataclass(frozen=True)
class Finished:
    """A job of five units that is done."""

    job: LabelJob
    counts: list[int]
    """Units done, as often as progress was told."""

    def copied(self, folder: Path) -> LabelJob:
        """Return the job of a copy of the run."""
        shutil.copytree(self.job.out, folder)
        return dataclasses.replace(self.job, out=str(folder))


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    clips = make_clips(folder, 5)
    job, counts = job_on(clips, folder / "out", actors=2), list[int]()
    run_job(job, on_progress=lambda found: counts.append(found.units_done))
    for clip in clips:  # whoever looks at a frame from now on fails
        for picture in Path(clip.source.uri).iterdir():
            picture.unlink()
    return Finished(job, counts)


def test_progress_counts_every_unit_once(finished: Finished) -> None:
    assert finished.counts == [1, 2, 3, 4, 5]


def test_a_second_start_does_nothing(finished: Finished, tmp_path: Path) -> None:
    job = finished.copied(tmp_path / "out")
    before = files_of(tmp_path / "out")

    seen: list[RunProgress] = []
    summary = run_job(job, on_progress=seen.append)

    assert seen == []
    assert summary.dead_letters == {}
    assert files_of(tmp_path / "out") == before


def test_added_and_corrected_clips_are_all_that_is_redone(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)
    run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))
    before = files_of(tmp_path / "out")

    wider = tuple(dataclasses.replace(box, x1=box.x1 + 4) for box in clips[1].boxes)
    changed = [clips[0], dataclasses.replace(clips[1], boxes=wider), clips[3], make_clip(tmp_path / "clip9")]
    job = job_on(changed, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT)
    summary = run_job(job)

    after = files_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert summary.throughput["pieces"] == 2
    engine = job.engine.load()
    expected = pa.concat_tables([label_clip(engine, clip) for clip in changed])
    labels = read_labels(job.out)
    rounds = {(row["clip_id"], row["round"]) for row in labels.select(["clip_id", "round"]).to_pylist()}
    assert rounds == {(clip.clip_id, int(clip is changed[1])) for clip in changed}
    assert stamp_labels(labels, fingerprint="", unit_id="", round_=0, object_fingerprints={}).equals(expected)


def test_another_configuration_is_refused_with_the_difference(finished: Finished) -> None:
    other = EngineChoice(ENGINE, {**finished.job.engine.options, "threshold": 99})

    with pytest.raises(UsageError, match="option threshold: 60 there, 99 now"):
        run_job(dataclasses.replace(finished.job, engine=other))
    with pytest.raises(UsageError, match="prompts: all there, boxes now"):
        plan_only(dataclasses.replace(finished.job, prompts="boxes"))


def test_masks_that_people_gave_are_kept_unless_boxes_alone_are_asked_for(tmp_path: Path) -> None:
    (clip,) = make_clips(tmp_path, 1)
    drawn = np.zeros((clip.height, clip.width), bool)
    drawn[3:9, 5:7] = True
    clip = dataclasses.replace(clip, masks=(MaskPrompt(1, 2, mask_to_rle(drawn)), MaskPrompt(2, 4, None)))

    run_job(job_on([clip], tmp_path / "all"))
    label_here(job_on([clip], tmp_path / "boxes", prompts="boxes"))

    rows = {(row["frame"], row["object_id"]): row for row in labels_of(tmp_path / "all").to_pylist()}
    human = {key for key, row in rows.items() if row["provenance"] == "human"}
    assert human == {(2, 1), (4, 2)}
    assert (rows[2, 1]["rle"], rows[2, 1]["score"], rows[2, 1]["area"]) == (mask_to_rle(drawn), 1.0, 12)
    assert rows[2, 1]["box"] == {"x0": 5, "y0": 3, "x1": 7, "y1": 9}
    assert not rows[4, 2]["present"]
    assert set(labels_of(tmp_path / "boxes").column("provenance").to_pylist()) == {"pseudo"}


def test_run_json_holds_what_repeats_the_run(finished: Finished) -> None:
    found = RunFolder(finished.job.out).read_run_json()

    assert found["state"] == "done"
    assert found["configuration"] == {
        "engine": "boxfill",
        "options": {"threshold": 60},
        "weights": "",
        "prompts": "all",
    }
    assert found["throughput"]["frames"] == 5 * NUM_FRAMES
    assert {"python", "ray", "numpy", "opencv-python", "av"} <= found["versions"].keys()


def test_a_run_in_which_most_fails_stops_and_says_why(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 24)
    for clip in clips:
        make_trouble(clip, "raise")

    with pytest.raises(RunError, match=r"engine_failed.*the clip made the engine fail"):
        run_job(job_on(clips, tmp_path / "out", max_failed=0.5))

    assert RunFolder(str(tmp_path / "out")).read_run_json()["state"] == "failed"


def test_a_clip_with_a_bad_box_is_one_dead_letter(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 3)
    clips[1] = dataclasses.replace(clips[1], boxes=(Box(1, 0, 5, 5, 2, 9),))

    summary = run_job(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))

    assert summary.dead_letters == {"bad_box": 1}
    assert set(labels_of(tmp_path / "out").column("clip_id").to_pylist()) == {"clip0", "clip2"}


def test_more_actors_than_the_cluster_holds_end_the_job_all_the_same(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)

    summary = run_job(job_on(clips, tmp_path / "out", actors=4, engine_options={"num_cpus": 4}))

    assert summary.throughput["units"] == 4


def test_a_driver_that_died_before_its_last_word_is_set_right_by_the_next(finished: Finished, tmp_path: Path) -> None:
    job = finished.copied(tmp_path / "out")
    record = tmp_path / "out" / "run.json"
    record.write_text(record.read_text().replace('"done"', '"running"'))

    run_job(job)

    assert RunFolder(job.out).read_run_json()["state"] == "done"
