"""`rayvos import`: summaries, exit codes, skipped clips, outputs that are there already."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile
from rayvos.cli.main import main
from tests.annotations.formats.expectations import golden, write_frames
from tests.conftest import moving_square, write_video

HEADER = "clip_id,object_id,frame,x0,y0,x1,y1\n"


@pytest.fixture
def boxes(tmp_path):
    """A table of two good clips and one whose frames are missing, below a folder with a space in its name."""
    folder = tmp_path / "my data"
    for name in ("a", "b"):
        write_frames(folder / name, ["0.jpg", "1.jpg"])
    (folder / "boxes.csv").write_text(HEADER + "a,1,0,1,1,4,4\nb,1,0,1,1,4,4\nb,2,1,1,1,4,4\nlost,1,0,1,1,4,4\n")
    return folder / "boxes.csv"


def clip_ids(manifest):
    return [clip.clip_id for clip in ManifestFile(str(manifest))]


def test_the_command_runs_as_a_program_with_paths_that_hold_spaces(boxes, tmp_path):
    out = tmp_path / "out dir" / "m.parquet"
    command = [sys.executable, "-c", "import sys; from rayvos.cli.main import main; sys.exit(main(sys.argv[1:]))"]

    done = subprocess.run(
        [*command, "import", "boxes", str(boxes), "-o", str(out)], capture_output=True, text=True, timeout=600
    )

    assert done.returncode == 3, done.stderr
    assert f"{out}: 2 clips, 4 frames, 3 objects, 3 boxes in " in done.stdout
    assert "skipped clips: 1, listed in" in done.stdout
    assert "1 path_missing, such as: clip 'lost'" in done.stdout
    assert done.stderr == ""
    assert clip_ids(out) == ["a", "b"]


def test_skipped_clips_are_listed_in_a_file_that_a_clean_import_removes(boxes, tmp_path, capsys):
    out = tmp_path / "m.parquet"

    code = main(["import", "boxes", str(boxes), "-o", str(out), "--json"])
    summary = json.loads(capsys.readouterr().out)
    (tmp_path / "skip.txt").write_text("lost\n")
    again = main(["import", "auto", str(boxes), "-o", str(out), "--overwrite", "--exclude", str(tmp_path / "skip.txt")])

    assert (code, again) == (3, 0)
    assert summary["skipped_file"] == f"{out}.skipped.csv"
    assert (summary["clips"], summary["skipped"], summary["reasons"]) == (2, 1, {"path_missing": 1})
    assert not Path(summary["skipped_file"]).exists()


def test_the_list_of_skipped_clips_names_clip_code_and_reason(boxes, tmp_path):
    boxes.write_text(boxes.read_text() + "a,1,1,9,9,4,4\n")

    assert main(["import", "boxes", str(boxes), "-o", str(tmp_path / "m.parquet")]) == 3

    with (tmp_path / "m.parquet.skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["clip_id"], row["error"]) for row in rows] == [("a", "bad_format"), ("lost", "path_missing")]
    assert "boxes.csv line 6: " in rows[0]["message"]


def test_an_existing_manifest_is_kept_unless_overwrite_is_given(boxes, tmp_path, capsys):
    out = tmp_path / "m.parquet"
    out.write_bytes(b"precious")

    assert main(["import", "boxes", str(boxes), "-o", str(out)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert main(["import", "boxes", str(boxes), "-o", str(out), "--overwrite", "--limit", "1"]) == 0
    assert clip_ids(out) == ["a"]


def test_the_same_import_gives_the_same_bytes(boxes, tmp_path):
    for name in ("one", "two"):
        main(["import", "boxes", str(boxes), "-o", str(tmp_path / name)])

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bxes", "SRC"], "unknown format 'bxes'.*did you mean 'boxes'"),
        (["boxes", "SRC", "--limit", "0"], "--limit: expected a number from 1"),
        (["boxes", "SRC", "--drop-masks", "--no-boxes-from-masks"], "leave one out"),
        (["boxes", "SRC", "--split", "val"], "format 'boxes' has no option --split"),
        (["boxes", "SRC", "--option", "objects=nouns"], "unknown option of format 'boxes' 'objects'"),
        (["boxes", "SRC", "--option", "objects"], "expected key=value"),
        (["boxes", "SRC", "--frame", "x"], "Did you mean"),
        (["boxes"], "SOURCE"),
    ],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(boxes, tmp_path, capsys, arguments, message):
    words = [str(boxes) if word == "SRC" else word for word in arguments]

    code = main(["import", *words, "-o", str(tmp_path / "m.parquet")])

    output = capsys.readouterr()
    assert code == 2
    assert re.search(message, " ".join((output.err + output.out).split()))
    assert not (tmp_path / "m.parquet").exists()


def test_a_source_that_cannot_be_read_exits_with_1(tmp_path, capsys):
    assert main(["import", "boxes", str(tmp_path / "gone.csv"), "-o", str(tmp_path / "m.parquet")]) == 1
    assert "gone.csv: nothing is there to read" in capsys.readouterr().err
    assert not (tmp_path / "m.parquet").exists()


def test_an_import_without_any_good_clip_fails_and_leaves_the_list(tmp_path, capsys):
    (tmp_path / "boxes.csv").write_text(HEADER + "lost,1,0,1,1,4,4\n")

    assert main(["import", "boxes", str(tmp_path / "boxes.csv"), "-o", str(tmp_path / "m.parquet")]) == 1
    assert "all 1 clips were skipped, listed in" in capsys.readouterr().err
    assert not (tmp_path / "m.parquet").exists()
    assert "lost,path_missing" in (tmp_path / "m.parquet.skipped.csv").read_text()


def test_an_empty_data_set_fails(tmp_path, capsys):
    assert main(["import", "lasot", str(tmp_path), "-o", str(tmp_path / "m.parquet")]) == 1
    assert "expected clips of format 'lasot', found none" in capsys.readouterr().err


def test_source_manifest_and_list_may_be_urls(s3_bucket, tmp_path, capsys):
    write_frames(tmp_path, ["00000001.jpg"])
    picture = (tmp_path / "00000001.jpg").read_bytes()
    for number, truth in enumerate([b"1,2,3,4\n", b"oops\n", b"5,2,3,4\n"]):
        folder = f"{s3_bucket}/LaSOT/cat/cat-{number}"
        storage.write_bytes(f"{folder}/img/00000001.jpg", picture)
        storage.write_bytes(f"{folder}/groundtruth.txt", truth)

    assert main(["import", "auto", f"{s3_bucket}/LaSOT", "-o", f"{s3_bucket}/m.parquet"]) == 3

    assert f"{s3_bucket}/m.parquet: 2 clips, 2 frames, 2 objects, 2 boxes in" in capsys.readouterr().out
    assert clip_ids(f"{s3_bucket}/m.parquet") == ["cat-0", "cat-2"]
    assert b"cat-1,bad_format" in storage.read_bytes(f"{s3_bucket}/m.parquet.skipped.csv")


def test_two_clips_of_one_id_are_one_clip_and_one_skipped(tmp_path, capsys):
    for half in ("x", "y"):
        folder = tmp_path / half / "cat-1"
        write_frames(folder / "img", ["00000001.jpg"])
        (folder / "groundtruth.txt").write_text("1,2,3,4\n")

    assert main(["import", "lasot", str(tmp_path), "-o", str(tmp_path / "m.parquet")]) == 3
    assert "1 bad_id" in capsys.readouterr().out
    assert clip_ids(tmp_path / "m.parquet") == ["cat-1"]


def test_a_video_with_its_boxes_is_one_clip(tmp_path):
    write_video(tmp_path / "walk.mp4", moving_square(8))
    (tmp_path / "boxes.csv").write_text("object_id,frame,x0,y0,x1,y1,category\n4,7,1,1,9,9,dog\n")
    arguments = ["--frames", str(tmp_path / "walk.mp4"), "-o", str(tmp_path / "m.parquet")]

    assert main(["import", "boxes", str(tmp_path / "boxes.csv"), *arguments]) == 0

    (clip,) = ManifestFile(str(tmp_path / "m.parquet"))
    assert (clip.clip_id, clip.num_frames, clip.source.kind) == ("walk", 8, "video")
    assert clip.objects[0].source_id == "4"


def test_clips_whose_frames_are_unknown_are_counted(tmp_path, capsys):
    folder, _ = golden("cvat")

    assert main(["import", "cvat", str(folder), "-o", str(tmp_path / "m.parquet")]) == 0
    assert "clips whose frames were not found: 1; name their folder with --frames" in capsys.readouterr().out


def test_options_may_come_from_a_file_and_flags_win(boxes, tmp_path):
    (tmp_path / "o.yaml").write_text(f"out: {tmp_path}/from-file.parquet\nlimit: 1\n")

    code = main(
        ["--config", str(tmp_path / "o.yaml"), "import", "boxes", str(boxes), "-o", str(tmp_path / "flag.parquet")]
    )

    assert code == 0
    assert clip_ids(tmp_path / "flag.parquet") == ["a"]
    assert not (tmp_path / "from-file.parquet").exists()


def test_only_listed_clips_are_imported(boxes, tmp_path):
    (tmp_path / "ids.txt").write_text("b\r\n\r\n")

    main(["import", "boxes", str(boxes), "-o", str(tmp_path / "m.parquet"), "--clips-file", str(tmp_path / "ids.txt")])

    assert clip_ids(tmp_path / "m.parquet") == ["b"]


def test_help_shows_examples_and_loads_no_network_library():
    code = (
        "import sys; from rayvos.cli.main import main; main(['import', '--help']);"
        "print([name for name in ('torch', 'ray', 'torchvision', 'timm') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)

    assert "rayvos import davis DAVIS --split val" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
