"""The README's commands and code, run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayvos.video.synthetic import SynthConfig, generate_clip
from tests.conftest import write_video
from tests.ray_cluster import PATIENCE_S, shared_address
from tests.ray_cluster import ray_cluster as ray_cluster

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split(" #")[0].strip()
    for language, block in BLOCKS
    if language != "python"
    for line in block.splitlines()
    if line.startswith(".venv/bin/rayvos")
]


@pytest.fixture(scope="module")
def folder(ray_cluster, tmp_path_factory) -> Iterator[Path]:
    """A folder that holds what the README says a user has: a video, its boxes, a data set, and here a cluster."""
    place = tmp_path_factory.mktemp("a user's folder")
    made = generate_clip(1, 0, SynthConfig(num_frames=6, height=96, width=160, num_objects=2))
    write_video(place / "video.mp4", made.images)
    rows = [f"{b.object_id},{b.frame},{b.x0},{b.y0},{b.x1},{b.y1}" for b in made.boxes if b.visible]
    (place / "boxes.csv").write_text("object_id,frame,x0,y0,x1,y1\n" + "\n".join(rows) + "\n")
    run(place, "rayvos synth DATASET --clips 2 --frames 4 --size 96x160 --objects 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", shared_address())
        yield place


def run(folder: Path, command: str) -> str:
    words = shlex.split(command)
    if words[0].endswith("rayvos"):
        words[0] = str(Path(sys.executable).with_name("rayvos"))
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_names_the_two_commands_and_their_picture():
    assert "make demo" in README
    assert "make test" in README
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file()


@pytest.fixture(scope="module")
def worked(folder: Path) -> Path:
    """The folder after all commands of the README ran in it, in order."""
    assert len(COMMANDS) >= 6
    for command in COMMANDS:
        # The second example labels a data set; a run folder belongs to one manifest's configuration and history.
        run(folder, command.replace("-o out", "-o out2") if "clips.parquet" in command else command)
    return folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
def test_the_readmes_commands_run_one_after_the_other(worked):
    assert (worked / "out" / "report.html").is_file()
    assert len(list((worked / "masks").rglob("*.png"))) == 6


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
def test_the_readmes_code_runs(worked):
    code = "\n".join(block for language, block in BLOCKS if language == "python")
    (worked / "snippet.py").write_text(code)

    printed = run(worked, f"{shlex.quote(sys.executable)} snippet.py")

    assert len(printed.splitlines()) == 2
