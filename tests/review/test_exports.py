import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rayvos.annotations.manifest import clip_to_row, write_manifest
from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.annotations.run_folder import Unit, read_labels
from rayvos.annotations.tables import MANIFEST
from rayvos.errors import InputError, MissingPathError, UsageError
from rayvos.masks.rle import mask_to_rle
from rayvos.review.export_options import LABEL_FORMATS, ExportOptions
from rayvos.review.exports import export_run
from rayvos.review.quality_report import write_report
from tests.engines_for_tests import PlannedEngine
from tests.review.runs import ellipse, files_under, make_clip, make_run, moved, read_video_size

COSTLY = PlannedEngine(halo=0, seconds_per_label=200)  # units of one frame


def all_but_starts(units: list[Unit]) -> list[Unit]:
    return [unit for unit in units if unit.pieces[0].frame_start != 0]


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    return [make_clip(tmp_path / "frames", name) for name in ("a", "set/b", "c d")]


@pytest.fixture
def run(tmp_path, clips) -> str:
    return make_run(tmp_path / "run", clips)


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_a_second_export_writes_nothing_and_the_files_stay(name, run, tmp_path):
    out = tmp_path / "out"
    first = export_run(run, str(out), ExportOptions(name))
    before = files_under(out)

    second = export_run(run, str(out), ExportOptions(name))

    assert first.failed == second.failed == []
    assert (first.clips, second.clips, second.already_done) == (3, 0, 3)
    assert files_under(out) == before
    assert len(before) > 1


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_two_exports_give_the_same_files_in_any_folder(name, run, tmp_path):
    export_run(run, str(tmp_path / "one"), ExportOptions(name))
    export_run(run, str(tmp_path / "two"), ExportOptions(name))

    assert files_under(tmp_path / "one") == files_under(tmp_path / "two")


def without_state(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.startswith(".rayvos-export/")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pattern"), [("davis", "*/*.png"), ("youtube-vos", "Annotations/*/*.png"), ("overlay", "*.mp4")]
)
def test_a_killed_export_is_finished_with_the_files_of_a_quiet_one(name, pattern, tmp_path):
    clips = [make_clip(tmp_path / "frames", f"clip-{number:02d}", num_frames=20) for number in range(20)]
    run = make_run(tmp_path / "run", clips)
    export_run(run, str(tmp_path / "quiet"), ExportOptions(name))
    num_files = len(list((tmp_path / "quiet").glob(pattern)))
    out = tmp_path / "killed"
    program = "from rayvos.cli.main import run; run()"
    arguments = ["export", run, "-o", str(out), "-f", name]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob(pattern))) < num_files // 8 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(list(out.glob(pattern))) < num_files

    summary = export_run(run, str(out), ExportOptions(name))

    assert summary.already_done > 0
    assert files_under(out) == files_under(tmp_path / "quiet")


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_leftovers_of_a_killed_export_are_removed(name, run, tmp_path):
    export_run(run, str(tmp_path / "quiet"), ExportOptions(name))
    out = tmp_path / "killed"
    export_run(run, str(out), ExportOptions(name))
    for path in [path for path in out.rglob("*") if path.is_file()]:
        path.with_name(f".{path.name}.0123abcd.tmp").write_bytes(b"half")
    for mark in (out / ".rayvos-export/done").iterdir():
        mark.unlink()  # nothing is finished: the kill came before every mark

    export_run(run, str(out), ExportOptions(name))

    assert files_under(out) == files_under(tmp_path / "quiet")


def test_only_clips_that_changed_are_made_again(run, clips, tmp_path):
    out = tmp_path / "out"
    export_run(run, str(out), ExportOptions("davis"))
    before = files_under(out)
    make_run(run, [clips[0], moved(clips[1], 3), clips[2]])

    summary = export_run(run, str(out), ExportOptions("davis"))

    changed = {name for name, data in files_under(out).items() if before.get(name) != data and name.endswith(".png")}
    assert (summary.clips, summary.already_done) == (1, 2)
    assert changed == {f"set/b/{frame:05d}.png" for frame in range(6)}


def test_one_file_formats_are_written_again_when_labels_changed(run, clips, tmp_path):
    out = tmp_path / "out"
    export_run(run, str(out), ExportOptions("parquet"))
    make_run(run, [clips[0], moved(clips[1], 3), clips[2]])

    export_run(run, str(out), ExportOptions("parquet"))

    assert read_labels(str(out / "labels.parquet")).equals(read_labels(run))
    assert len(list((out / ".rayvos-export/done").iterdir())) == 1


def test_the_label_table_holds_every_live_row_once_and_reads_back(run, tmp_path):
    export_run(run, str(tmp_path / "out"), ExportOptions("parquet"))

    labels = read_labels(run)
    assert read_labels(str(tmp_path / "out")).equals(labels)
    assert labels.num_rows == 3 * 6 * 2


def test_a_minimum_score_leaves_rows_out_of_the_table_but_no_absence(run, tmp_path):
    export_run(run, str(tmp_path / "out"), ExportOptions("parquet", min_score=0.5))

    rows = read_labels(str(tmp_path / "out")).to_pylist()
    expected = [row for row in read_labels(run).to_pylist() if not row["present"] or row["score"] >= 0.5]
    assert rows == expected
    assert any(not row["present"] for row in rows)


def test_a_folder_of_something_else_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")

    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"found 'thesis.tex' and no export of rayvos"):
            export_run(run, str(tmp_path / "out"), ExportOptions("davis"), overwrite=overwrite)

    assert files_under(tmp_path / "out") == {"thesis.tex": b"x"}


def test_an_export_of_other_settings_is_refused_with_the_difference_and_replaced_on_request(run, tmp_path):
    out = tmp_path / "out"
    export_run(run, str(out), ExportOptions("davis"))

    with pytest.raises(UsageError, match=r"min_score 0.0, now 0.5"):
        export_run(run, str(out), ExportOptions("davis", min_score=0.5))
    export_run(run, str(out), ExportOptions("coco"), overwrite=True)

    assert set(without_state(files_under(out))) == {"instances.json"}


def test_the_run_folder_itself_is_refused_as_output(run):
    with pytest.raises(UsageError, match="no export of rayvos"):
        export_run(run, run, ExportOptions("davis"))


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(MissingPathError, match="no plan found"):
        export_run(str(tmp_path), str(tmp_path / "out"), ExportOptions("davis"))


def test_chosen_clips_are_exported_and_others_can_follow(run, tmp_path):
    out = tmp_path / "out"
    export_run(run, str(out), ExportOptions("davis"), clip_ids={"set/b"})
    assert {Path(name).parts[0] for name in without_state(files_under(out))} == {"set"}

    export_run(run, str(out), ExportOptions("davis"))
    export_run(run, str(tmp_path / "at once"), ExportOptions("davis"))

    assert files_under(out) == files_under(tmp_path / "at once")
    with pytest.raises(InputError, match="no clip 'zebra'"):
        export_run(run, str(out), ExportOptions("davis"), clip_ids={"zebra"})


def test_clips_that_are_not_wholly_labelled_wait_unless_asked_for(tmp_path):
    clips = [make_clip(tmp_path / "frames", "long", num_frames=40), make_clip(tmp_path / "frames", "s")]
    run = make_run(tmp_path / "run", clips, chosen=all_but_starts, engine=COSTLY)

    whole = export_run(run, str(tmp_path / "whole"), ExportOptions("davis"))
    partial = export_run(run, str(tmp_path / "partial"), ExportOptions("davis", partial=True))

    assert (whole.clips, whole.not_labelled) == (0, 2)
    assert partial.clips == 2
    assert len(list((tmp_path / "partial/long").iterdir())) == 39


def test_a_clip_that_failed_is_left_out_and_counted(tmp_path, clips):
    run = make_run(tmp_path / "run", clips, failed=["a"])

    for name in ("davis", "coco"):
        summary = export_run(run, str(tmp_path / name), ExportOptions(name))
        assert (summary.clips, summary.not_labelled) == (2, 1)


def test_a_run_in_progress_is_exported_again_when_it_went_on(tmp_path, clips):
    out = str(tmp_path / "out")
    run = make_run(tmp_path / "run", clips, chosen=lambda units: units[:1], engine=COSTLY)
    first = export_run(run, out, ExportOptions("coco"))
    make_run(tmp_path / "run", clips, engine=COSTLY)

    second = export_run(run, out, ExportOptions("coco"))

    assert first.clips == 0
    assert second.clips == 3


def test_a_clip_whose_frames_are_gone_stops_no_other(run, tmp_path):
    (tmp_path / "frames/a/00003.png").unlink()
    (tmp_path / "frames/c d/00000.png").write_bytes(b"no picture")

    summary = export_run(run, str(tmp_path / "out"), ExportOptions("overlay"))

    assert summary.clips == 1
    assert [(failure.clip_id, failure.error) for failure in summary.failed] == [
        ("a", "frame_missing"),
        ("c d", "decode_failed"),
    ]
    assert set(without_state(files_under(tmp_path / "out"))) == {"set/b.mp4"}


@pytest.mark.parametrize("hostile", ["../evil", "/etc/evil", "a/../../evil", "..", "x\x00y", ".rayvos-export/done/x"])
@pytest.mark.parametrize("name", ["davis", "youtube-vos", "sav", "overlay", "contact-sheet"])
def test_nothing_is_written_outside_the_folder(hostile, name, tmp_path):
    clip = make_clip(tmp_path / "frames", "good")
    rows = [clip_to_row(clip), clip_to_row(dataclasses.replace(clip, clip_id=hostile))]
    run = make_hostile_run(tmp_path / "run", rows)
    before = files_under(tmp_path)

    summary = export_run(run, str(tmp_path / "deep/er/out"), ExportOptions(name))

    after = files_under(tmp_path)
    assert summary.clips == 1
    assert [failure.error for failure in summary.failed] == ["bad_id"]
    assert {Path(new).parts[:3] for new in set(after) - set(before)} == {("deep", "er", "out")}


def make_hostile_run(folder: Path, rows: list[dict]) -> str:
    import pyarrow as pa

    from rayvos.annotations.manifest import ManifestFile
    from rayvos.annotations.run_folder import RunFolder
    from rayvos.pipelines.label import Labelling
    from rayvos.pipelines.plan import plan_run
    from tests.engines_for_tests import PlannedEngine
    from tests.review.runs import commit

    manifest = folder.parent / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST), manifest)
    run = RunFolder(str(folder))
    plan = plan_run(run, str(manifest), Labelling(PlannedEngine()))
    by_id = {clip.clip_id: clip for clip in ManifestFile(str(manifest))}
    for unit in plan.todo:
        commit(run, unit, by_id)
    return str(folder)


def test_an_overlay_has_every_frame_in_even_size(run, tmp_path):
    export_run(run, str(tmp_path / "out"), ExportOptions("overlay", max_side=33))

    assert read_video_size(tmp_path / "out/a.mp4") == (6, 24, 34)


def test_a_contact_sheet_shows_as_many_frames_as_asked_for(run, tmp_path):
    export_run(run, str(tmp_path / "two"), ExportOptions("contact-sheet", rows=2))
    export_run(run, str(tmp_path / "five"), ExportOptions("contact-sheet", rows=5))

    two, five = (Image.open(tmp_path / name / "a.jpg").height for name in ("two", "five"))
    assert five - two > 2.5 * 48


def test_an_export_to_an_object_store_has_the_same_files(run, tmp_path):
    import fsspec

    for name in ("davis", "coco", "overlay", "parquet"):
        remote = f"memory://{tmp_path.name}/{name}"
        export_run(run, remote, ExportOptions(name))
        export_run(run, str(tmp_path / name), ExportOptions(name))

        fs, root = fsspec.url_to_fs(remote)
        found = {path.removeprefix(root + "/"): fs.cat_file(path) for path in fs.find(root)}
        assert found == files_under(tmp_path / name)


@pytest.mark.slow
def test_a_run_in_a_bucket_is_exported_into_a_bucket_and_reported(clips, s3_bucket, tmp_path):
    import s3fs

    run = make_run(f"{s3_bucket}/run", clips)
    local = make_run(tmp_path / "run", clips)
    for name in ("youtube-vos", "youtube-vis", "overlay"):
        export_run(run, f"{s3_bucket}/out/{name}", ExportOptions(name))
        again = export_run(run, f"{s3_bucket}/out/{name}", ExportOptions(name))
        export_run(local, str(tmp_path / name), ExportOptions(name))

        fs = s3fs.S3FileSystem()
        root = f"{s3_bucket.removeprefix('s3://')}/out/{name}/"
        found = {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root)}
        assert without_state(found) == without_state(files_under(tmp_path / name))
        assert again.already_done == 3
    assert write_report(run, f"{s3_bucket}/report.html").clips == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "davos"}, "did you mean 'davis'"),
        ({"format": "davis", "min_score": 1.5}, r"--min-score 1.5: expected a number in \[0, 1\]"),
        ({"format": "davis", "fps": 10}, "only overlays have a frame rate"),
        ({"format": "coco", "max_side": 100}, "only pictures can be scaled"),
        ({"format": "davis", "overlap": "score "}, "unknown overlap"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        ExportOptions(**options)


def test_label_maps_follow_the_labels(run, clips, tmp_path):
    export_run(run, str(tmp_path / "out"), ExportOptions("davis"))

    labels = [row for row in read_labels(run, clip_ids={"a"}).to_pylist() if row["frame"] == 2]
    found = np.asarray(Image.open(tmp_path / "out/a/00002.png"))
    winner = max(labels, key=lambda row: row["score"])
    assert set(np.unique(found)) == {0, 1, 2}
    assert (found == winner["object_id"]).sum() == winner["area"]


def test_labels_that_truth_proves_wrong_become_ignore(run, clips, tmp_path):
    clip = clips[0]
    right = {box.object_id: ellipse(box) for box in clip.boxes if box.frame == 2}
    shifted = np.roll(right[2], 12, axis=1)
    truth = [MaskPrompt(1, 2, mask_to_rle(right[1])), MaskPrompt(2, 2, mask_to_rle(shifted))]
    write_manifest([dataclasses.replace(clip, masks=tuple(truth))], str(tmp_path / "gt.parquet"))
    options = ExportOptions("davis", min_score=0.5, truth=str(tmp_path / "gt.parquet"))

    export_run(run, str(tmp_path / "out"), options, clip_ids={"a"})

    found = np.asarray(Image.open(tmp_path / "out/a/00002.png"))
    box = next(box for box in clip.boxes if (box.frame, box.object_id) == (2, 2))
    inside = np.zeros(found.shape, bool)
    inside[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    assert (found[right[1]] == 1).all()  # accepted, and seen inside the ignored box
    assert (found[inside & ~right[1]] == 255).all()
    assert not found[~inside & ~right[1]].any()


def test_json_files_are_json(run, tmp_path):
    for name in ("coco", "youtube-vis"):
        export_run(run, str(tmp_path / name), ExportOptions(name))
        for path in (tmp_path / name).glob("*.json"):
            json.loads(path.read_text())
