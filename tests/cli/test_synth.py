from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rayvos.annotations.formats.label_maps import read_label_map
from rayvos.annotations.manifest import ManifestFile, check_clip
from rayvos.annotations.records import Clip
from rayvos.masks.rle import rle_to_mask
from rayvos.video.source import open_clip
from rayvos.video.synthetic import SynthConfig, generate_clip

SMALL = ("--clips", "3", "--frames", "4", "--size", "64x96", "--objects", "2")
CONFIG = SynthConfig(num_frames=4, height=64, width=96, num_objects=2)


def rayvos(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from rayvos.cli.main import run; run()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)


def synth(out: Path, *words: str) -> None:
    done = rayvos("synth", str(out), *words, *(() if "--workers" in words else ("--workers", "1")))
    assert done.returncode == 0, done.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def clips_of(out: Path) -> list[Clip]:
    return [check_clip(clip) for clip in ManifestFile(str(out / "manifest.parquet"))]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "my clips"
    synth(out, *SMALL, "--images", "png", "--workers", "1")
    return out


def test_frames_truth_boxes_and_manifest_are_those_of_the_generator(small):
    clips = clips_of(small)
    with (small / "boxes.csv").open() as file:
        rows = {(row["clip_id"], int(row["object_id"]), int(row["frame"])): row for row in csv.DictReader(file)}

    assert len(clips) == 3
    for index, clip in enumerate(clips):
        made = generate_clip(0, index, CONFIG)
        assert clip == made.record(clip.source)
        with open_clip(clip) as reader:
            for frame, image in reader.read(range(4)):
                np.testing.assert_array_equal(image, made.images[frame])
                truth = read_label_map(str(small / f"Annotations/480p/{clip.clip_id}/{frame:05d}.png"))
                assert truth.kind == "palette"
                np.testing.assert_array_equal(truth.ids, made.labels[frame])
        for box in clip.boxes:
            row = rows.pop((clip.clip_id, box.object_id, box.frame), None)
            assert (row is not None) == box.visible
            if row is not None:
                assert [float(row[side]) for side in ("x0", "y0", "x1", "y1")] == [box.x0, box.y0, box.x1, box.y1]
                assert row["category"] == made.objects[box.object_id - 1].category
    assert not rows


def test_the_folder_is_read_as_a_davis_data_set(small, tmp_path):
    done = rayvos("import", "davis", str(small), "--split", "train", "-o", str(tmp_path / "m.parquet"))

    assert done.returncode == 0, done.stderr
    for read, made in zip(ManifestFile(str(tmp_path / "m.parquet")), clips_of(small), strict=True):
        assert (read.clip_id, read.height, read.width, read.num_frames) == (made.clip_id, 64, 96, 4)
        masks = {(mask.object_id, mask.frame): mask.rle for mask in read.masks if mask.rle is not None}
        assert masks.keys() == {(box.object_id, box.frame) for box in made.boxes if box.visible}
        with open_clip(read) as reader:
            assert len(list(reader.read(range(4)))) == 4


def test_two_workers_write_the_bytes_of_one_into_another_folder(small, tmp_path):
    synth(tmp_path / "b", *SMALL, "--images", "png", "--workers", "2")

    one, two = files(small), files(tmp_path / "b")
    tables = {name for name in one if name.endswith(".parquet")}
    assert one.keys() == two.keys()
    assert {name: one[name] for name in one.keys() - tables} == {name: two[name] for name in two.keys() - tables}
    for a, b in zip(clips_of(small), clips_of(tmp_path / "b"), strict=True):
        assert dataclasses.replace(a.source, uri="") == dataclasses.replace(b.source, uri="")
        assert dataclasses.replace(a, source=b.source) == b


def test_the_same_command_again_changes_nothing_and_more_clips_are_added(tmp_path):
    out = tmp_path / "out"
    synth(out, *SMALL)
    before = files(out)

    again = rayvos("synth", str(out), *SMALL, "--json")
    assert json.loads(again.stdout)["generated"] == 0
    assert files(out) == before

    more = rayvos("synth", str(out), "--clips", "5", *SMALL[2:], "--json")
    assert json.loads(more.stdout)["generated"] == 2
    assert [clip.clip_id for clip in clips_of(out)] == [f"synth-0-{index:05d}" for index in range(5)]
    assert all(files(out)[name] == data for name, data in before.items() if "JPEGImages" in name)


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    words = ("--clips", "12", "--frames", "6", "--size", "128x192", "--workers", "1")
    synth(tmp_path / "a", *words)
    undisturbed = files(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "kept")

    program = "from rayvos.cli.main import run; run()"
    process = subprocess.Popen([sys.executable, "-c", program, "synth", str(tmp_path / "a"), *words])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "a" / "records").glob("*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a" / "manifest.parquet").exists()

    synth(tmp_path / "a", *words)

    found = {name: data for name, data in files(tmp_path / "a").items() if not name.endswith(".tmp")}
    assert found == undisturbed


def test_videos_hold_the_frames_at_their_places(tmp_path):
    synth(tmp_path, *SMALL, "--video", "mp4", "--masks", "none", "--mask-prompts", "first")

    assert not (tmp_path / "Annotations").exists()
    for index, clip in enumerate(clips_of(tmp_path)):
        made = generate_clip(0, index, CONFIG)
        with open_clip(clip) as reader:
            for frame, image in reader.read(range(4)):
                assert np.abs(image.astype(int) - made.images[frame]).mean() < 12
        assert {mask.frame for mask in clip.masks} == {0}
        for mask in clip.masks:
            expected = made.mask(mask.object_id, 0)
            np.testing.assert_array_equal(rle_to_mask(mask.rle, 64, 96), expected)


def test_other_settings_are_refused_unless_the_clips_may_be_discarded(tmp_path):
    out = tmp_path / "out"
    synth(out, *SMALL)

    refused = rayvos("synth", str(out), *SMALL, "--seed", "4")
    assert refused.returncode == 2
    assert "other settings (seed)" in refused.stderr

    synth(out, *SMALL, "--seed", "4", "--overwrite")
    assert [clip.clip_id for clip in clips_of(out)] == [f"synth-4-{index:05d}" for index in range(3)]
    assert not [name for name in files(out) if "synth-0-" in name]


def test_a_folder_of_other_things_is_never_touched(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages" / "mine.jpg").write_bytes(b"precious")

    for words in ((), ("--overwrite",)):
        done = rayvos("synth", str(tmp_path), *SMALL, *words)
        assert done.returncode == 2
        assert "not empty" in done.stderr
    assert files(tmp_path) == {"JPEGImages/mine.jpg": b"precious"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "480"), "such as 480x854"),
        (("--size", "8x8"), "64 to 4096"),
        (("--clips", "0"), "at least 1"),
        (("--objects", "0"), "1 to 50"),
        (("--seed", "-1"), "seed -1"),
        (("--video", "mp4", "--images", "png"), "leave one out"),
        (("--video", "mp4", "--size", "65x96"), "even sides"),
        (("--video", "avi"), "mp4"),
    ],
)
def test_wrong_usage_says_what_is_expected_and_exits_with_2(words, message, tmp_path):
    done = rayvos("synth", str(tmp_path / "out"), *words)

    assert done.returncode == 2
    assert message in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()


def test_help_shows_an_example():
    done = rayvos("synth", "--help")

    assert done.returncode == 0
    assert "rayvos synth clips --clips 8" in done.stdout
