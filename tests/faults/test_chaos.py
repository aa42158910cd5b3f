"""Workers, machines and drivers killed at random during one run: the short form of `benchmarks/chaos.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.ray_cluster import REPOSITORY, worker_environment


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_kills_lose_no_label_add_none_and_change_no_byte() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", "--quick", "--seed", "1"],
        cwd=REPOSITORY, env=worker_environment(), capture_output=True, text=True, timeout=1180, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "LOST 0 DUPLICATED 0 IDENTICAL yes"
