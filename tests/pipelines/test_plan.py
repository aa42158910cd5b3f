"""Planning, committing and reading back, without Ray."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.prompts import Prompts
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.annotations.run_folder import DeadLetter, RunFolder, Unit, iter_labels, read_dead_letters, read_labels
from rayvos.annotations.tables import LABELS
from rayvos.errors import IdError, InputError
from rayvos.pipelines.fingerprints import clip_fingerprint, job_fingerprint
from rayvos.pipelines.label import Labelling
from rayvos.pipelines.plan import plan_run
from rayvos.pipelines.sink import commit_unit
from tests.engines_for_tests import PlannedEngine


def planned(prompts: Prompts = "all", **options: Any) -> Labelling:
    return Labelling(PlannedEngine(**options), prompts)


def make_clip(name: str, num_frames: int = 10, shift: float = 0.0) -> Clip:
    boxes = tuple(Box(1, frame, 10 + shift, 10, 50, 50) for frame in range(num_frames))
    source = ClipSource("images", f"frames/{name}", identity=f"identity of {name}")
    return Clip(name, source, 480, 854, num_frames, objects=(ObjectInfo(1, "dog"),), boxes=boxes)


def rows_of(unit: Unit) -> pa.Table:
    rows = [
        {
            "clip_id": piece.clip_id,
            "frame": frame,
            "object_id": 1,
            "present": True,
            "rle": piece.fingerprint.encode(),
            "fingerprint": piece.fingerprint,
            "unit_id": unit.unit_id,
        }
        for piece in unit.pieces
        for frame in range(piece.frame_start, piece.frame_stop)
    ]
    return pa.Table.from_pylist(rows, schema=LABELS)


def work(run: RunFolder, units: list[Unit]) -> None:
    for unit in units:
        commit_unit(run, unit, rows_of(unit), [])


def pieces_of(units: list[Unit]) -> set[str]:
    return {piece.clip_id for unit in units for piece in unit.pieces}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(str(tmp_path / "run"))


@pytest.fixture
def manifest(tmp_path) -> str:
    path = str(tmp_path / "manifest.parquet")
    write_manifest([make_clip(f"clip-{i:03d}") for i in range(100)], path)
    return path


def test_every_frame_of_every_clip_is_in_exactly_one_unit(run, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    write_manifest([make_clip("long", 1000), *(make_clip(f"short-{i}", 1 + i % 7) for i in range(50))], manifest)

    plan = plan_run(run, manifest, planned())

    frames = [
        (piece.clip_id, frame)
        for unit in plan.units
        for piece in unit.pieces
        for frame in range(piece.frame_start, piece.frame_stop)
    ]
    assert len(frames) == len(set(frames)) == plan.num_frames == 1000 + sum(1 + i % 7 for i in range(50))


def test_an_engine_that_cannot_split_gets_whole_clips(run, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    write_manifest([make_clip("long", 5000)], manifest)

    plan = plan_run(run, manifest, planned(halo=None))

    assert [(p.frame_start, p.frame_stop) for unit in plan.units for p in unit.pieces] == [(0, 5000)]


def test_units_hold_about_a_minute_and_short_clips_share_one(run, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    write_manifest([make_clip("long", 20_000), *(make_clip(f"short-{i}", 4) for i in range(200))], manifest)

    plan = plan_run(run, manifest, planned())

    assert max(unit.cost_s for unit in plan.units) <= 60
    assert sum(unit.cost_s for unit in plan.units) / len(plan.units) > 30


def test_labels_on_crops_cost_the_same_on_small_frames(run, tmp_path):
    small = dataclasses.replace(make_clip("small", num_frames=60), height=60, width=90)
    manifest = str(tmp_path / "small.parquet")
    write_manifest([small], manifest)

    by_frame = plan_run(run, manifest, planned(seconds_per_label=1))
    by_crop = plan_run(run, manifest, planned(seconds_per_label=0, seconds_per_crop=1, other="job"))

    assert len(by_frame.units) == 1
    assert len(by_crop.units) > 1


def test_a_rerun_finds_the_same_plan_and_nothing_to_do(run, manifest):
    first = plan_run(run, manifest, planned())
    work(run, first.todo)

    second = plan_run(run, manifest, planned())

    assert second.todo == []
    assert second.units == first.units
    assert run.plan_numbers() == [0]


def test_an_interrupted_run_goes_on_with_the_units_that_are_left(run, manifest):
    first = plan_run(run, manifest, planned())
    work(run, first.todo[:3])

    second = plan_run(run, manifest, planned())

    assert {u.unit_id for u in second.todo} == {u.unit_id for u in first.todo[3:]}


def test_only_corrected_and_added_clips_are_done_again(run, tmp_path):
    manifest, changed = str(tmp_path / "clips.parquet"), str(tmp_path / "changed.parquet")
    write_manifest((make_clip(f"clip-{i:03d}") for i in range(1000)), manifest)
    work(run, plan_run(run, manifest, planned()).todo)
    clips = [make_clip(f"clip-{i:03d}", shift=1.0 if i in (7, 500, 993) else 0.0) for i in range(1000)]
    write_manifest([*clips, *(make_clip(f"new-{i}") for i in range(5))], changed)

    plan = plan_run(run, changed, planned())
    work(run, plan.todo)

    assert pieces_of(plan.todo) == {"clip-007", "clip-500", "clip-993", *(f"new-{i}" for i in range(5))}
    labels = read_labels(run.path)
    assert labels.num_rows == 1005 * 10
    assert len(set(zip(labels["clip_id"].to_pylist(), labels["frame"].to_pylist(), strict=True))) == 1005 * 10


def test_readers_see_the_corrected_labels_and_not_the_older_ones(run, tmp_path, manifest):
    work(run, plan_run(run, manifest, planned()).todo)
    before = read_labels(run.path, clip_ids={"clip-007"})["rle"].to_pylist()
    changed = str(tmp_path / "changed.parquet")
    write_manifest([make_clip(f"clip-{i:03d}", shift=float(i == 7)) for i in range(100)], changed)
    work(run, plan_run(run, changed, planned()).todo)

    after = read_labels(run.path, clip_ids={"clip-007"})["rle"].to_pylist()

    assert len(before) == len(after) == 10
    assert not set(before) & set(after)


def test_a_removed_clip_is_no_longer_read_and_comes_back_without_work(run, tmp_path, manifest):
    work(run, plan_run(run, manifest, planned()).todo)
    fewer = str(tmp_path / "fewer.parquet")
    write_manifest([make_clip(f"clip-{i:03d}") for i in range(99)], fewer)

    plan_run(run, fewer, planned())
    without = [clip_id for clip_id, _ in iter_labels(run.path)]
    again = plan_run(run, manifest, planned())

    assert without == [f"clip-{i:03d}" for i in range(99)]
    assert again.todo == []


def test_a_lost_labels_file_is_made_again_under_its_name(run, tmp_path, manifest):
    plan = plan_run(run, manifest, planned())
    work(run, plan.todo)
    lost = plan.units[3]
    (tmp_path / "run" / "labels" / f"{lost.unit_id}.parquet").unlink()

    assert [u.unit_id for u in plan_run(run, manifest, planned()).todo] == [lost.unit_id]


def test_a_category_or_a_moved_folder_changes_no_fingerprint_but_a_box_does():
    clip, job = make_clip("a"), job_fingerprint(planned().configuration())
    renamed = dataclasses.replace(clip, objects=(ObjectInfo(1, "cat", "17"),))
    moved = dataclasses.replace(clip, source=dataclasses.replace(clip.source, uri="s3://elsewhere"))

    assert clip_fingerprint(renamed, job) == clip_fingerprint(moved, job) == clip_fingerprint(clip, job)
    assert clip_fingerprint(make_clip("a", shift=0.25), job) != clip_fingerprint(clip, job)


def test_options_weights_and_prompts_change_the_job_fingerprint():
    heavier = PlannedEngine()
    heavier.weights = "abc"

    works = [planned(), planned("boxes"), planned(cues="color"), Labelling(heavier)]
    jobs = {job_fingerprint(work.configuration()) for work in works}

    assert len(jobs) == 4


def test_a_dead_letter_stays_dead_until_it_is_taken_up_again(run, manifest):
    plan = plan_run(run, manifest, planned())
    unit = plan.todo[0]
    piece = unit.pieces[0]
    letter = DeadLetter(piece.clip_id, piece.frame_start, piece.frame_stop, "decode_failed", "clip: broken", "", 1)
    rest = dataclasses.replace(unit, pieces=unit.pieces[1:])
    commit_unit(run, unit, rows_of(rest), [letter])
    work(run, plan.todo[1:])

    assert plan_run(run, manifest, planned()).todo == []
    assert read_dead_letters(run.path)["clip_id"].to_pylist() == [piece.clip_id]
    retry = plan_run(run, manifest, planned(), retry_failed=True)
    assert pieces_of(retry.todo) == {piece.clip_id}
    # A second start of the same retry, after a kill, must neither forget the clip nor land on its old file.
    again = plan_run(run, manifest, planned(), retry_failed=True)
    assert again.todo == retry.todo
    work(run, again.todo)
    assert read_dead_letters(run.path).num_rows == 0
    assert read_labels(run.path).num_rows == 1000


def test_a_retry_that_fails_again_can_be_retried_again(run, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    write_manifest([make_clip("bad")], manifest)
    seen = set()
    for attempt in range(3):
        plan = plan_run(run, manifest, planned(), retry_failed=attempt > 0)
        assert len(plan.todo) > 0
        for unit in plan.todo:
            seen.add(unit.unit_id)
            dead = [DeadLetter(p.clip_id, p.frame_start, p.frame_stop, "failed", "no", "", 1) for p in unit.pieces]
            commit_unit(run, unit, LABELS.empty_table(), dead)

    assert len(seen) == 3 * len(plan.units)
    assert read_dead_letters(run.path).num_rows == len(plan.units)


def test_clips_that_are_not_complete_can_be_left_out(run, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    write_manifest([make_clip("long", 400), make_clip("short", 4)], manifest)
    plan = plan_run(run, manifest, planned())
    first_of_long = next(u for u in plan.todo if u.pieces[0].clip_id == "long")
    work(run, [u for u in plan.todo if u is not first_of_long])

    assert [clip_id for clip_id, _ in iter_labels(run.path)] == ["long", "short"]
    assert [clip_id for clip_id, _ in iter_labels(run.path, complete_only=True)] == ["short"]


def test_a_second_commit_of_a_unit_changes_nothing(run, manifest):
    unit = plan_run(run, manifest, planned()).todo[0]
    commit_unit(run, unit, rows_of(unit), [])
    before = read_labels(run.path)

    commit_unit(run, unit, LABELS.empty_table(), [])

    assert read_labels(run.path).equals(before)


def test_masks_do_not_count_where_only_boxes_are_used(run, tmp_path):
    manifest = str(tmp_path / "m.parquet")
    clip = make_clip("a")
    write_manifest([clip], manifest)
    work(run, plan_run(run, manifest, planned("boxes")).todo)
    with_mask = str(tmp_path / "masks.parquet")
    write_manifest([dataclasses.replace(clip, masks=(MaskPrompt(1, 0, b"x"),))], with_mask)

    assert plan_run(run, with_mask, planned("boxes")).todo == []


def test_a_part_of_the_clips_can_be_labelled_first_and_the_rest_later(run, manifest):
    part = plan_run(run, manifest, planned(), limit=10)
    work(run, part.todo)

    rest = plan_run(run, manifest, planned())

    assert pieces_of(part.units) == {f"clip-{i:03d}" for i in range(10)}
    assert pieces_of(rest.todo) == {f"clip-{i:03d}" for i in range(10, 100)}


def test_duplicate_clip_ids_are_refused_before_work_starts(run, tmp_path):
    import pyarrow.parquet as pq

    from rayvos.annotations.manifest import clip_to_row
    from rayvos.annotations.tables import MANIFEST

    path = str(tmp_path / "m.parquet")
    row = clip_to_row(make_clip("twice"))
    pq.write_table(pa.Table.from_pylist([row, row], schema=MANIFEST), path)

    with pytest.raises(IdError, match="'twice' is there twice"):
        plan_run(run, path, planned())


def test_an_empty_selection_is_refused(run, manifest):
    with pytest.raises(InputError, match="no clip to work on"):
        plan_run(run, manifest, planned(), clip_ids=["nothing"])


def test_a_retry_that_was_cut_short_is_not_forgotten_when_the_manifest_changes(run, tmp_path):
    manifest, changed = str(tmp_path / "m.parquet"), str(tmp_path / "changed.parquet")
    write_manifest([make_clip("bad", 1)], manifest)
    write_manifest([make_clip("bad", 1), make_clip("new", 1)], changed)
    for unit in plan_run(run, manifest, planned(halo=None), unit_s=0.1).todo:
        dead = [DeadLetter(p.clip_id, p.frame_start, p.frame_stop, "failed", "no", "", 1) for p in unit.pieces]
        commit_unit(run, unit, LABELS.empty_table(), dead)
    plan_run(run, manifest, planned(halo=None), retry_failed=True, unit_s=0.1)

    plan = plan_run(run, changed, planned(halo=None), unit_s=0.1)

    assert pieces_of(plan.todo) == {"bad", "new"}
