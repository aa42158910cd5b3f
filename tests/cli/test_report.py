import json
import subprocess
import sys

import pytest

from tests.review.runs import make_clip, make_run


def rayvos(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from rayvos.cli.main import run; run()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)


@pytest.fixture
def run(tmp_path) -> str:
    return make_run(tmp_path / "my run", [make_clip(tmp_path / "frames", name) for name in ("a", "b")])


def test_the_page_is_written_into_the_run_folder_by_default(run, tmp_path):
    first = rayvos("report", run)
    second = rayvos("report", run, "--json")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert "2 clips, 22 masks, mean score" in first.stdout
    assert json.loads(second.stdout)["masks"] == 22
    assert (tmp_path / "my run/report.html").read_text().startswith("<!DOCTYPE html>")


def test_dead_letters_are_told_with_exit_code_3(tmp_path):
    run = make_run(tmp_path / "run", [make_clip(tmp_path / "frames", name) for name in ("a", "b")], failed=["b"])

    done = rayvos("report", run, "-o", str(tmp_path / "page.html"))

    assert done.returncode == 3
    assert "dead letters: 1 decode_failed" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [(["nowhere"], 1, "no plan found"), (["nowhere", "--worst", "-1"], 2, "expected 0 or more")],
)
def test_wrong_usage_is_answered_in_one_line(words, code, message):
    done = rayvos("report", *words)

    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
