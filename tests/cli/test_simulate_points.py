from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq


def rayvos(*words: str) -> subprocess.CompletedProcess[str]:
    program = "from rayvos.cli.main import run; run()"
    return subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=600)


def test_points_are_drawn_from_a_manifest_the_same_way_twice(tmp_path: Path):
    clips = tmp_path / "my clips"
    assert rayvos(
        "synth", str(clips), "--clips", "2", "--frames", "3", "--size", "64x96", "--mask-prompts", "all"
    ).returncode == 0  # fmt: skip
    words = ("simulate-points", str(clips / "manifest.parquet"), "--distance", "5", "--json", "-o")

    done = [rayvos(*words, str(tmp_path / name)) for name in ("a.parquet", "b.parquet")]

    assert [item.returncode for item in done] == [0, 0], done[0].stderr
    summary = json.loads(done[0].stdout)
    table = pq.read_table(tmp_path / "a.parquet")
    assert summary["clips"] == 2
    assert summary["positives"] + summary["negatives"] == table.num_rows > 0
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_wrong_option_is_wrong_usage(tmp_path: Path):
    done = rayvos("simulate-points", "nowhere.parquet", "-o", str(tmp_path / "p.parquet"), "--frames", "0")
    assert done.returncode == 2
    assert "at least 1 frame" in done.stderr
