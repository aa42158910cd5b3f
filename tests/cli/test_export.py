import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.review.runs import files_under, make_clip, make_run


def rayvos(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from rayvos.cli.main import run; run()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)


@pytest.fixture
def run(tmp_path) -> str:
    clips = [make_clip(tmp_path / "my frames", name) for name in ("a", "b")]
    return make_run(tmp_path / "my run", clips)


def test_an_export_twice_in_a_row_writes_once_and_says_so(run, tmp_path):
    out = tmp_path / "my masks"
    first = rayvos("export", run, "-o", str(out), "--format", "davis")
    files = files_under(out)

    second = rayvos("export", run, "-o", str(out), "--format", "davis")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "2 clips written, 12 files" in first.stdout
    assert "0 clips written, 2 were there already, 0 files" in second.stdout
    assert files_under(out) == files


def test_the_summary_is_one_json_object_on_request(run, tmp_path):
    done = rayvos("export", run, "-o", str(tmp_path / "out"), "-f", "coco", "--clips", "a", "b", "--json")

    assert json.loads(done.stdout)["clips"] == 2


def test_clips_can_be_named_in_a_file(run, tmp_path):
    (tmp_path / "wanted.txt").write_text("b\n\n")

    done = rayvos(
        "export", run, "-o", str(tmp_path / "out"), "-f", "contact-sheet", "--clips-file", str(tmp_path / "wanted.txt")
    )

    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").glob("*.jpg")] == ["b.jpg"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-f", "davos"], 2, '"davis"?'),
        (["-f", "davis", "--min-score", "2"], 2, "--min-score 2.0: expected a number in [0, 1]"),
        (["-f", "davis", "--clips", "zebra"], 1, "no clip 'zebra' in this run"),
        (["-f", "davis", "--clips-file", "nothing.txt"], 1, "nothing is there to read"),
    ],
)
def test_wrong_usage_is_answered_in_one_line(run, tmp_path, words, code, message):
    done = rayvos("export", run, "-o", str(tmp_path / "out"), *words)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_clip_that_cannot_be_exported_is_told_with_exit_code_3(run, tmp_path):
    (Path(tmp_path) / "my frames/a/00002.png").unlink()

    done = rayvos("export", run, "-o", str(tmp_path / "out"), "-f", "overlay")

    assert done.returncode == 3
    assert "failed a frame_missing" in done.stderr
    assert "1 clips written" in done.stdout
