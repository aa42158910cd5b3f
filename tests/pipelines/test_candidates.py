"""The candidates job on Ray: the same points however many workers there are, and whatever kills them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Clip, Point, Trace
from rayvos.annotations.run_folder import RunFolder, iter_labels, read_candidates
from rayvos.annotations.tables import CANDIDATES
from rayvos.cli.main import main
from rayvos.engines.candidates.mining import MiningOptions, mine_clip
from rayvos.engines.candidates.selection import CandidateRule
from rayvos.engines.registry import EngineChoice
from rayvos.errors import UsageError
from rayvos.pipelines.candidates import CandidateJob
from rayvos.pipelines.run import plan_only, run_job
from rayvos.video.source import open_clip
from tests.engines_for_tests import ENGINE, PROPAGATOR
from tests.ray_cluster import ALL_IN_ONE_UNIT, job_on, letters_of, make_clips, make_trouble

OPTIONS = MiningOptions(rule=CandidateRule(distance_px=6, num_frames=3))


def make_traced(folder: Path, num_clips: int) -> list[Clip]:
    """Write clips whose first object has a trace, whose second one has boxes."""
    clips = []
    for clip in make_clips(folder, num_clips):
        trace = Trace(1, 2, tuple(float(x) for x in range(6, 14)), (29.0,) * 8)
        boxes = tuple(box for box in clip.boxes if box.object_id == 2)
        clips.append(dataclasses.replace(clip, traces=(trace,), boxes=boxes))
    return clips


def candidates_on(clips: list[Clip], out: Path, *, seconds_per_frame: float = 15.0, **options: object) -> CandidateJob:
    manifest = Path(clips[0].source.uri).parent / "clips.parquet"
    write_manifest(clips, str(manifest))
    engine = EngineChoice(PROPAGATOR, {"seconds_per_frame": seconds_per_frame})
    cheap = {"guide": EngineChoice("scribble"), "actors": 1, "max_failed": 1000}
    return CandidateJob(str(manifest), str(out), engine, options=OPTIONS, **{**cheap, **options})


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "candidates").iterdir())}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_two_and_seven_workers_and_killed_ones_give_the_same_candidates(tmp_path: Path) -> None:
    clips = make_traced(tmp_path, 7)

    run_job(candidates_on(clips, tmp_path / "one", actors=1))
    run_job(candidates_on(clips, tmp_path / "two", actors=2))
    for clip in clips[:2]:
        make_trouble(clip, "kill once")
    killed = run_job(candidates_on(clips, tmp_path / "seven", actors=7, max_attempts=4))

    work = candidates_on(clips, tmp_path).work().load()
    direct = []
    for clip in clips:
        with open_clip(clip) as images:
            direct.append(mine_clip(work._engine, work._guide, clip, images, OPTIONS))
    assert read_candidates(str(tmp_path / "one")).equals(pa.concat_tables(direct))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "seven")
    assert len(files_of(tmp_path / "one")) == 7
    assert killed.dead_letters == {}
    assert killed.throughput["worker_deaths"] == 2


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_bad_clips_are_dead_letters_and_a_corrected_one_is_all_that_is_redone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, outside, bare = make_traced(tmp_path, 3)
    outside = dataclasses.replace(outside, boxes=(), points=(Point(2, 0, 66.0, 5),))
    bare = dataclasses.replace(bare, boxes=(), traces=())
    out = tmp_path / "out"

    summary = run_job(candidates_on([good, outside, bare], out, seconds_per_frame=ALL_IN_ONE_UNIT))
    mended = dataclasses.replace(outside, points=(Point(2, 0, 60.0, 5),))
    again = run_job(candidates_on([good, mended, bare], out, seconds_per_frame=ALL_IN_ONE_UNIT))

    assert summary.dead_letters == {"bad_format": 1, "bad_input": 1}
    assert again.throughput["pieces"] == 1
    assert letters_of(out) == [("clip2", "bad_input")]
    assert set(read_candidates(str(out)).column("clip_id").to_pylist()) == {"clip0", "clip1"}
    capsys.readouterr()
    assert main(["status", str(out), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["clips_done"], found["units_left"]) == ("done", 3, 0)
    assert found["throughput"]["candidates"] > 0


def test_a_folder_belongs_to_one_kind_of_run(tmp_path: Path) -> None:
    clips = make_traced(tmp_path, 1)
    job = candidates_on(clips, tmp_path / "out")
    run = RunFolder(job.out, "candidates")
    record = {"configuration": job.work().load().configuration()}
    Path(job.out).mkdir()
    Path(run.run_json).write_text(json.dumps(record))

    with pytest.raises(UsageError, match="task: candidates there, none now"):
        plan_only(job_on(clips, tmp_path / "out"))
    with pytest.raises(UsageError, match="candidates distance_px: 6 there, 20"):
        plan_only(dataclasses.replace(job, options=MiningOptions(rule=CandidateRule(num_frames=3))))


def test_candidates_are_no_labels_and_labels_no_candidates(tmp_path: Path) -> None:
    from rayvos.pipelines.plan import plan_run

    clips = make_traced(tmp_path, 1)
    job = candidates_on(clips, tmp_path / "out")
    plan_run(RunFolder(job.out, "candidates"), job.manifest, job.work().load())

    with pytest.raises(UsageError, match="expected a run that makes labels, found one that makes candidates"):
        list(iter_labels(job.out))
    assert read_candidates(job.out).num_rows == 0


def test_an_engine_without_probabilities_is_refused(tmp_path: Path) -> None:
    job = dataclasses.replace(candidates_on(make_traced(tmp_path, 1), tmp_path / "out"), engine=EngineChoice(ENGINE))

    with pytest.raises(UsageError, match="gives no probabilities to mine candidates from"):
        plan_only(job)


def test_a_candidate_table_outside_a_run_is_read(tmp_path: Path) -> None:
    row = {"clip_id": "a", "frame": 3, "object_id": 1, "x": 1, "y": 2, "kind": "foreground", "rank": 0}
    pq.write_table(pa.Table.from_pylist([row], schema=CANDIDATES), tmp_path / "candidates.parquet")

    assert read_candidates(str(tmp_path / "candidates.parquet")).to_pylist() == [row | {"probability": None}]
