"""The command line as a whole: help, version, options from a file, wrong words, exit codes."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from rayvos.cli.main import COMMANDS, main
from tests.review.runs import make_clip, make_run

HEAVY = ("cv2", "ray", "timm", "torch", "torchvision")


@pytest.fixture
def run(tmp_path: Path) -> str:
    return make_run(tmp_path / "my run", [make_clip(tmp_path / "my frames", name) for name in ("a", "b")])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed, without the frames and line breaks that depend on the terminal's width."""
    found = capsys.readouterr()
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", found.out + found.err).split())


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["status", "--help"], ["status", "RUN"]], ids=" ".join)
def test_help_and_status_wait_for_no_heavy_library(run: str, words: list[str]) -> None:
    program = (
        "import sys; from rayvos.cli.main import main; code = main(sys.argv[1:]);"
        f"print(sorted(set(sys.modules) & set({HEAVY})), file=sys.stderr); sys.exit(code)"
    )
    words = [run if word == "RUN" else word for word in words]

    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0

    without_usage = said(capsys).partition("Usage:")[2].partition("]")[2]
    assert f"rayvos {command} " in without_usage.replace("rayvos demo ", "rayvos demo .")


def protocols() -> list[str]:
    from rayvos.cli.eval import app

    return [name for name in app if not name.startswith("-")]


@pytest.mark.parametrize("protocol", protocols())
def test_every_protocol_shows_an_example(capsys: pytest.CaptureFixture[str], protocol: str) -> None:
    assert main(["eval", protocol, "--help"]) == 0

    assert f"rayvos eval {protocol} " in said(capsys).partition("]")[2]


def test_a_closed_stderr_is_no_obstacle() -> None:
    command = f"{shlex.quote(sys.executable)} -c 'from rayvos.cli.main import run; run()' --version 2>&-"

    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=600, check=False)

    assert (done.returncode, done.stdout) == (0, f"rayvos {version('rayvos')}\n")


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0

    assert capsys.readouterr().out == f"rayvos {version('rayvos')}\n"


def test_no_words_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0

    found = said(capsys)
    assert all(f" {command} " in found for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lable", "clips.parquet"], 'Did you mean "label"?'),
        (["eval", "davis2018"], 'Did you mean "davis2017"?'),
        (["status", "RUN", "--jsn"], "Did you mean --json?"),
        (["label", "m.parquet", "-o", "o", "--engin", "cut"], "Did you mean --engine?"),
        (["label", "m.parquet", "-o", "o", "--device", "gpu"], 'Choose from: "auto", "cuda", "cpu"'),
        (["label", "m.parquet", "-o", "o", "--limit", "few"], "--limit: unable to convert"),
        (["label", "m.parquet"], "--out requires an argument"),
        (["status"], "--run requires an argument"),
        (["status", "RUN", "too many"], "too many"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_exit_with_2_and_a_suggestion(
    run: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main([run if word == "RUN" else word for word in words]) == 2

    assert message in said(capsys)


class TestOptionsFromAFile:
    @pytest.fixture
    def options(self, tmp_path: Path) -> Path:
        return tmp_path / "my options.yaml"

    def test_they_count_as_if_written_as_flags(
        self, run: str, options: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options.write_text("json: true\n")

        assert main(["--config", str(options), "status", run]) == 0

        assert json.loads(capsys.readouterr().out)["clips"] == 2

    def test_their_names_may_have_dashes_or_underscores_and_lists(
        self, run: str, options: Path, tmp_path: Path
    ) -> None:
        options.write_text(
            f"format: contact-sheet\nmax_side: 200\nmin-score: 0.1\nclips: [b]\nout: {tmp_path}/sheets\n"
        )

        assert main(["export", run, "--config", str(options)]) == 0

        assert [path.name for path in (tmp_path / "sheets").glob("*.jpg")] == ["b.jpg"]

    def test_flags_win(self, run: str, options: Path, tmp_path: Path) -> None:
        options.write_text(f"format: overlay\nout: {tmp_path}/masks\n")

        assert main(["--config", str(options), "export", run, "--format", "davis"]) == 0

        assert {path.suffix for path in (tmp_path / "masks").rglob("*.*") if path.is_file()} <= {".png", ".json"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dead_leters: true\n", '"[dead_leters]" from OPTIONS. Did you mean --dead-letters?'),
            ("json: perhaps\n", "Invalid value for [json] from OPTIONS"),
            ("status:\n  json: true\n", "OPTIONS: expected options, found the command 'status'"),
            ("- json\n", "OPTIONS: expected 'option: value' lines, found a list"),
            ("json: [\n", "OPTIONS: expected YAML"),
            ("\x00", "OPTIONS: expected YAML"),
        ],
    )
    def test_what_is_no_option_is_refused_by_its_name_and_the_files(
        self, run: str, options: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
    ) -> None:
        options.write_text(text)

        assert main(["--config", str(options), "status", run]) == 2

        assert "".join(message.replace("OPTIONS", str(options)).split()) in "".join(said(capsys).split())

    def test_a_file_that_is_not_there_is_named(
        self, run: str, options: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--config", str(options), "status", run]) == 1

        found = said(capsys)
        assert "my options.yaml: nothing is there to read" in found
        assert "[path_missing]" in found


def test_logs_can_be_one_json_object_a_line(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = Path(run).parent / "instances.json"
    annotations.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "gone.jpg", "height": 9, "width": 9}],
                "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )

    assert main(["import", "coco", str(annotations), "-o", f"{run}.parquet", "--log-json"]) == 0

    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "WARNING"
    assert "frames_not_found" in json.loads(line)["message"]


def test_a_reader_that_goes_away_is_no_defect(run: str) -> None:
    program = "from rayvos.cli.main import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "status", run, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=600)

    assert "defect" not in errors
    assert "Traceback" not in errors
