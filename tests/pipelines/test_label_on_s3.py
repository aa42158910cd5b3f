from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayvos import storage
from rayvos.annotations.run_folder import RunFolder
from tests.engines_for_tests import ENGINE
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import ALL_IN_ONE_UNIT, files_of, job_on, make_clips, worker_environment
from tests.s3 import s3_bucket as s3_bucket
from tests.s3 import s3_server as s3_server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def label(manifest: str, out: str) -> dict[str, object]:
    """Label with a cluster of its own: the workers need the credentials that the bucket came with."""
    command = [sys.executable, "-c", "from rayvos.cli.main import run; run()", "label", manifest, "-o", out, "--json"]
    command += ["--engine", ENGINE, "--option", f"seconds_per_frame={ALL_IN_ONE_UNIT}", "--address", "local"]
    done = subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_run_on_object_storage_is_the_run_on_a_disk(s3_bucket: str, tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 3)
    label_here(job_on(clips, tmp_path / "out", seconds_per_frame=ALL_IN_ONE_UNIT))
    storage.write_bytes(f"{s3_bucket}/clips.parquet", (tmp_path / "clips.parquet").read_bytes())

    label(f"{s3_bucket}/clips.parquet", f"{s3_bucket}/out")
    again = label(f"{s3_bucket}/clips.parquet", f"{s3_bucket}/out")

    run = RunFolder(f"{s3_bucket}/out")
    stored = {f"{unit_id}.parquet": storage.read_bytes(run.labels_file(unit_id)) for unit_id in run.committed()}
    assert stored == files_of(tmp_path / "out")
    assert again["throughput"]["units"] == 0  # type: ignore[index]
    assert storage.list_folder(storage.join(run.path, "attempts")) == []
