"""`rayvos doctor`: what it looks at, what it says of it, and that it leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rayvos.cli.main import main
from tests.ray_cluster import PATIENCE_S, RAYVOS, shared_address, worker_environment
from tests.ray_cluster import ray_cluster as ray_cluster


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """Return what `--json` printed, by name."""
    return {found["name"]: found for found in json.loads(capsys.readouterr().out)}


def test_a_machine_that_can_label_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0

    found = findings(capsys)
    assert {"python", "ray", "torch", "cv2", "av", "s3fs", "processor", "memory", "disk", "accelerator"} <= found.keys()
    assert {finding["state"] for finding in found.values()} <= {"ok", "warning"}


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--storage", str(tmp_path), "--json"]) == 0

    assert "creates a file only once" in findings(capsys)["storage"]["found"]
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_is_tried_and_left_as_it_was(s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    from rayvos import storage

    assert main(["doctor", "--storage", s3_bucket, "--json"]) == 0

    assert findings(capsys)["storage"]["state"] == "ok"
    assert storage.list_folder(s3_bucket) == []


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        (["--storage", "s3://rayvos-no-such-bucket"], "storage", "s3://rayvos-no-such-bucket"),
        (["--storage", "nosuch://place"], "storage", "Protocol not known"),
        (["--weights", "nowhere.safetensors"], "weights", "found nothing"),
    ],
)
def test_what_cannot_be_used_fails_by_name(
    s3_server: str, capsys: pytest.CaptureFixture[str], words: list[str], name: str, message: str
) -> None:
    assert main(["doctor", *words, "--json"]) == 1

    found = findings(capsys)[name]
    assert found["state"] == "failed"
    assert message in found["found"]
    assert found["remedy"]


def test_people_read_one_line_each_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--weights", "nowhere.safetensors"]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok      python")
    assert lines[-2].startswith("FAILED  weights")
    assert "→" in lines[-1]


def doctor(*words: str) -> subprocess.CompletedProcess[str]:
    command = [*RAYVOS, "doctor", "--json", *words]
    return subprocess.run(command, env=worker_environment(), capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_each_machine_of_a_cluster_is_looked_at_from_inside(s3_bucket: str) -> None:
    done = doctor("--address", shared_address(), "--storage", s3_bucket)

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    (node,) = [finding for finding in found if finding["name"] == "node"]
    there, here = [finding["found"] for finding in found if finding["name"] == "storage"]
    assert "rayvos 0" in node["found"]
    assert there == f"{node['found'].split(':')[0]}: {here}"


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    done = doctor("--address", "127.0.0.1:1")

    assert done.returncode == 1
    (found,) = [finding for finding in json.loads(done.stdout) if finding["name"] == "cluster"]
    assert found["state"] == "failed"
    assert "127.0.0.1:1" in found["found"]
