"""`rayvos status`: counts, dead letters, exit codes, and run folders that are damaged or none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayvos import storage
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.main import main
from rayvos.pipelines.run_record import RunRecord
from tests.engines_for_tests import PlannedEngine
from tests.review.runs import make_clip, make_run, moved


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "some where"


def run_of(place: Path, *, num_committed: int | None = None, failed: tuple[str, ...] = ()) -> str:
    """Return a run on three clips of six frames, a unit each."""
    clips = [make_clip(place / "frames", name) for name in "abc"]
    engine = PlannedEngine(halo=None, seconds_per_label=60.0)
    return make_run(
        place / "my run", clips, failed=failed, chosen=lambda units: units[:num_committed], engine=engine
    )  # fmt: skip


def test_a_finished_run_is_counted_and_says_what_comes_next(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(place)

    assert main(["status", run]) == 0

    found = capsys.readouterr()
    assert "clips   3 of 3 done" in found.out
    assert "frames  18 of 18 done" in found.out
    assert "units   3 of 3 committed" in found.out
    assert "dead letters  none" in found.out
    assert f"next: rayvos report {run}" in found.err


def test_an_unfinished_run_says_what_is_left(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(place, num_committed=1)
    RunRecord(RunFolder(run), {"engine": "ellipse"}, {}).write("stopped")

    assert main(["status", run, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["engine"]) == ("stopped", "ellipse")
    assert (found["clips"], found["clips_done"]) == (3, 1)
    assert (found["frames"], found["frames_done"]) == (18, 6)
    assert (found["units"], found["units_left"]) == (3, 2)


def test_dead_letters_are_told_with_exit_code_3(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(place, failed=("b",))

    assert main(["status", run]) == 3
    short = capsys.readouterr().out
    assert main(["status", run, "--dead-letters"]) == 3
    long = capsys.readouterr().out

    assert "dead letters  1: 1 decode_failed" in short
    assert "b frames 0…5 decode_failed: clip 'b': <b>broken</b> & lost" in short
    assert "trace" not in short
    assert "      trace" in long


def test_many_dead_letters_are_cut_unless_all_are_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"clip{number:02}" for number in range(25)]
    clips = [make_clip(place / "frames", name, num_frames=1) for name in names]
    run = make_run(place / "run", clips, failed=names)

    assert main(["status", run]) == 3
    short = capsys.readouterr().out
    assert main(["status", run, "--dead-letters"]) == 3

    assert short.count("decode_failed:") == 20
    assert "5 more: rayvos status" in short
    assert capsys.readouterr().out.count("decode_failed:") == 25


def test_a_corrected_clips_old_dead_letter_is_forgotten(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [make_clip(place / "frames", name) for name in "ab"]
    run = make_run(place / "run", clips, failed=["b"])
    make_run(run, [clips[0], moved(clips[1], 1)])

    assert main(["status", run, "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["dead_letters"] == []


def test_watching_ends_with_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(place, num_committed=1)
    RunRecord(RunFolder(run), {"engine": "ellipse"}, {}).write("failed")

    assert main(["status", run, "--watch"]) == 0

    assert capsys.readouterr().out.count("units   1 of 3 committed") == 1


def test_looking_changes_nothing(place: Path) -> None:
    run = run_of(place, num_committed=2)
    before = {path: path.stat().st_mtime_ns for path in Path(run).rglob("*")}

    assert main(["status", run]) == 0

    assert {path: path.stat().st_mtime_ns for path in Path(run).rglob("*")} == before


def test_a_run_in_a_bucket_is_looked_at_as_one_on_a_disk(
    place: Path, s3_bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(place, failed=("c",))
    for path in Path(run).rglob("*.parquet"):
        storage.write_bytes(f"{s3_bucket}/run/{path.relative_to(run)}", path.read_bytes())

    assert main(["status", run, "--json"]) == 3
    here = json.loads(capsys.readouterr().out)
    assert main(["status", f"{s3_bucket}/run", "--json"]) == 3

    assert json.loads(capsys.readouterr().out) == here


@pytest.mark.parametrize("damage", [b"", b"junk", b"PAR1" + bytes(100) + b"PAR1"])
@pytest.mark.parametrize("part", ["labels/*.parquet", "plans/*.parquet"])
def test_a_damaged_file_is_named(place: Path, capsys: pytest.CaptureFixture[str], part: str, damage: bytes) -> None:
    run = run_of(place)
    (path, *_) = Path(run).glob(part)
    path.write_bytes(damage)

    assert main(["status", run]) == 1

    found = capsys.readouterr().err
    assert str(path) in found
    assert "[bad_format]" in found


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_damaged_run_json_is_named(place: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    run = run_of(place)
    (Path(run) / "run.json").write_bytes(text.encode("latin-1"))

    assert main(["status", run]) == 1

    assert "run.json: expected " in capsys.readouterr().err


@pytest.mark.parametrize(("name", "error"), [("nowhere", "path_missing"), (".", "path_missing")])
def test_what_is_no_run_folder_is_named(place: Path, capsys: pytest.CaptureFixture[str], name: str, error: str) -> None:
    place.mkdir()

    assert main(["status", str(place / name)]) == 1

    found = capsys.readouterr().err
    assert "no plan found; is it the output folder of `rayvos label` or `rayvos candidates`?" in found
    assert f"[{error}]" in found


def test_a_running_job_can_be_watched_from_another_process(place: Path) -> None:
    run = run_of(place, num_committed=2)
    record = RunRecord(RunFolder(run), {"engine": "ellipse"}, {})
    record.write("running")
    command = [sys.executable, "-c", "from rayvos.cli.main import run; run()", "status", run, "--watch", "--json"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None

    first = json.loads(process.stdout.readline())
    record.write("done")
    rest, errors = process.communicate(timeout=600)

    assert process.returncode == 0, errors
    assert (first["state"], json.loads(rest.splitlines()[-1])["state"]) == ("running", "done")
