from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.cli.main import main
from rayvos.cli.running import parse_bytes
from rayvos.errors import UsageError
from tests.conftest import moving_square, write_video
from tests.engines_for_tests import ENGINE
from tests.ray_cluster import (
    PATIENCE_S,
    RAYVOS,
    RAYVOS_WITH_A_CLUSTER,
    labels_of,
    make_clips,
    make_trouble,
    worker_environment,
)
from tests.ray_cluster import ray_cluster as ray_cluster

pytestmark = [pytest.mark.ray]

ENGINE_WORDS = ["--engine", ENGINE, "--actors", "1"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "my clips" / "clips.parquet"
    write_manifest(make_clips(tmp_path / "my clips", 3), str(path))
    return path


@pytest.fixture(scope="module")
def labelled(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A manifest and the folder of its finished run."""
    place = tmp_path_factory.mktemp("labelled")
    write_manifest(make_clips(place / "clips", 3), str(place / "clips.parquet"))
    assert main(["label", str(place / "clips.parquet"), "-o", str(place / "out"), *ENGINE_WORDS]) == 0
    return place / "clips.parquet", place / "out"


@pytest.fixture
def words_of_a_finished_run(labelled: tuple[Path, Path], tmp_path: Path) -> list[str]:
    """The command whose run is done in the folder `out`."""
    manifest, out = labelled
    shutil.copytree(out, tmp_path / "out")
    return ["label", str(manifest), "-o", str(tmp_path / "out"), *ENGINE_WORDS]


@pytest.mark.usefixtures("ray_cluster")
def test_a_manifest_is_labelled_and_then_done(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["label", str(manifest), "-o", str(tmp_path / "my run"), *ENGINE_WORDS]

    assert main(words) == 0
    first = capsys.readouterr()
    assert main(words) == 0
    second = capsys.readouterr()

    assert "3 clips, 18 frames" in first.out
    assert "dead letters  none" in first.out
    assert "nothing: all was done before" in second.out
    assert labels_of(tmp_path / "my run").num_rows == 36


@pytest.mark.usefixtures("ray_cluster")
def test_dead_letters_end_with_their_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = make_clips(tmp_path, 2)
    make_trouble(clips[0], "raise")
    write_manifest(clips, str(tmp_path / "m.parquet"))

    code = main(["label", str(tmp_path / "m.parquet"), "-o", str(tmp_path / "out"), "--json", *ENGINE_WORDS])

    assert code == 3
    assert json.loads(capsys.readouterr().out)["dead_letters"] == {"engine_failed": 1}


@pytest.mark.usefixtures("ray_cluster")
def test_a_video_and_its_boxes_need_no_manifest(tmp_path: Path) -> None:
    write_video(tmp_path / "my clip.mp4", moving_square())
    rows = [f"my clip,1,{frame},{2 + frame},24,{14 + frame},36" for frame in range(12)]
    (tmp_path / "boxes.csv").write_text("\n".join(["clip_id,object_id,frame,x0,y0,x1,y1", *rows]) + "\n")
    words = ["label", str(tmp_path / "my clip.mp4"), "--boxes", str(tmp_path / "boxes.csv"), "-o", str(tmp_path / "o")]

    assert main([*words, *ENGINE_WORDS]) == 0

    assert labels_of(tmp_path / "o")["present"].to_pylist() == [True] * 12


@pytest.mark.usefixtures("ray_cluster")
def test_some_clips_are_chosen_by_a_file_or_by_number(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "chosen.txt").write_text("clip2\n\nclip0\n")

    assert main(["label", str(manifest), "-o", str(tmp_path / "a"), "--limit", "1", *ENGINE_WORDS]) == 0
    chosen = ["--clips-file", str(tmp_path / "chosen.txt")]
    assert main(["label", str(manifest), "-o", str(tmp_path / "b"), *chosen, *ENGINE_WORDS]) == 0

    assert set(labels_of(tmp_path / "a")["clip_id"].to_pylist()) == {"clip0"}
    assert set(labels_of(tmp_path / "b")["clip_id"].to_pylist()) == {"clip0", "clip2"}


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(manifest), "-o", str(tmp_path / "out"), "--dry-run", "--json", *ENGINE_WORDS]) == 0

    assert json.loads(capsys.readouterr().out)["frames_todo"] == 18
    assert not (tmp_path / "out").exists()


def test_a_run_is_discarded_only_when_asked_for(words_of_a_finished_run: list[str], tmp_path: Path) -> None:
    (tmp_path / "out" / "mine.txt").write_text("kept")

    assert main([*words_of_a_finished_run, "--option", "threshold=99"]) == 2
    assert main([*words_of_a_finished_run, "--option", "threshold=99", "--overwrite"]) == 0

    assert (tmp_path / "out" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such.parquet"], "no-such.parquet: nothing is there to read"),
        (["clip.mp4"], "expected a manifest (.parquet), or a video or folder with --boxes FILE"),
        (["m.parquet", "--boxes", "b.csv"], "a manifest holds its boxes"),
        (["m.parquet", "--option", "treshold=3"], "did you mean 'threshold'"),
        (["m.parquet", "--memory-limit", "much"], "expected a number with a unit"),
        (["m.parquet", "--timeout-s", "0"], "timeout_s: expected more than 0"),
        (["m.parquet", "--cues", "color"], "unknown option of engine"),
    ],
)
def test_wrong_words_are_answered_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code = main(["label", *words, "-o", str(tmp_path / "out"), *ENGINE_WORDS])

    assert code in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 512 << 20), ("1.5g", 15 * 10**8), ("1000", 1000)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "1.2.3GB", "4 bananas", "-1GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number"):
        parse_bytes(text)


@pytest.mark.slow
def test_the_command_brings_its_own_cluster_and_is_quiet(manifest: Path, tmp_path: Path) -> None:
    command = [*RAYVOS_WITH_A_CLUSTER, "label", str(manifest), "-o", str(tmp_path / "out"), "--engine", ENGINE]

    done = subprocess.run(
        command, env=worker_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )

    assert done.returncode == 0, done.stderr
    assert all(line.startswith("labelling: ") for line in done.stderr.splitlines()), done.stderr
    assert "3 clips, 18 frames" in done.stdout


def test_a_dry_run_on_a_video_writes_nothing_either(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square())
    (tmp_path / "boxes.csv").write_text("object_id,frame,x0,y0,x1,y1\n1,0,2,24,14,36\n")
    words = ["label", str(tmp_path / "clip.mp4"), "--boxes", str(tmp_path / "boxes.csv"), "-o", str(tmp_path / "o")]

    assert main([*words, "--dry-run", *ENGINE_WORDS]) == 0

    assert not (tmp_path / "o").exists()


def test_wrong_options_discard_nothing(words_of_a_finished_run: list[str], tmp_path: Path) -> None:
    assert main([*words_of_a_finished_run, "--overwrite", "--option", "treshold=3"]) == 2

    assert labels_of(tmp_path / "out").num_rows == 36


@pytest.mark.slow
def test_an_address_where_no_cluster_answers_is_named_at_once(manifest: Path, tmp_path: Path) -> None:
    command = [*RAYVOS, "label", str(manifest), "-o", str(tmp_path / "out"), "--engine", ENGINE]

    done = subprocess.run(
        [*command, "--address", "127.0.0.1:9"],
        env=worker_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip

    assert done.returncode == 1
    assert "Ray at '127.0.0.1:9': could not start or connect" in done.stderr
