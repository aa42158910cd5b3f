"""The whole job on an object store, as a user would run it: every path is an `s3://` URL."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.run_folder import RunFolder, read_dead_letters, read_labels
from rayvos.cli.main import main
from rayvos.pipelines.run_record import RunRecord
from tests.conftest import moving_square, write_video
from tests.engines_for_tests import ENGINE
from tests.ray_cluster import PATIENCE_S, RAYVOS, files_of, labels_of, shared_address, worker_environment
from tests.s3 import SECRETS, S3Proxy, Trouble

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

ENGINE_WORDS = ["--engine", ENGINE, "--actors", "1", "--option", "seconds_per_frame=15"]


def synth(out: str, *words: str) -> None:
    assert main(["synth", out, "--frames", "4", "--size", "64x96", "--workers", "1", *words]) == 0


def label(manifest: str, out: str) -> int:
    return main(["label", manifest, "-o", out, *ENGINE_WORDS])


def objects_below(url: str) -> dict[str, bytes]:
    """Return every object by its key below the URL."""
    fs, inner = storage.filesystem(url)
    fs.invalidate_cache()
    return {key.removeprefix(f"{inner}/"): fs.cat_file(key) for key in fs.find(inner)}


def puts(proxy: S3Proxy, words: str) -> Counter[str]:
    """Return how often each object whose path holds these words was written."""
    return Counter(
        request.path.partition("?")[0]
        for request in proxy.log
        if request.method == "PUT" and request.status == 200 and words in request.path
    )


def test_the_whole_job_on_urls_gives_the_files_of_a_local_one(
    s3_bucket: str, s3_proxy: S3Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = str(tmp_path / "clips"), f"{s3_bucket}/my clips"
    synth(here, "--clips", "3")
    synth(there, "--clips", "3")
    manifest, run = f"{there}/manifest.parquet", f"{s3_bucket}/run"

    assert label(f"{here}/manifest.parquet", str(tmp_path / "run")) == 0
    assert label(manifest, run) == 0

    assert objects_below(f"{run}/labels") == files_of(tmp_path / "run")
    assert len(files_of(tmp_path / "run")) == 3
    assert not objects_below(f"{run}/attempts")

    s3_proxy.log.clear()
    assert label(manifest, run) == 0
    assert "nothing: all was done before" in capsys.readouterr().out
    assert not [request for request in s3_proxy.log if "JPEGImages" in request.path]
    assert not puts(s3_proxy, "/run/")

    assert main(["plan", manifest, "-o", run, "--json", *ENGINE_WORDS]) == 0
    assert json.loads(capsys.readouterr().out)["units_left"] == 0
    assert main(["status", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["frames_done"] == 12
    assert main(["export", run, "-o", f"{s3_bucket}/masks", "--format", "davis"]) == 0
    assert len([name for name in objects_below(f"{s3_bucket}/masks") if name.endswith(".png")]) == 12
    assert main(["report", run, "-o", f"{s3_bucket}/report.html"]) == 0
    assert storage.read_bytes(f"{s3_bucket}/report.html").startswith(b"<!DOCTYPE html>")
    for prediction in (run, f"{s3_bucket}/masks"):
        words = ["eval", "davis2017", "--gt", there, "--pred", prediction, "--workers", "1"]
        assert main([*words, "--json", f"{s3_bucket}/eval.json"]) == 0
        assert json.loads(storage.read_bytes(f"{s3_bucket}/eval.json"))["rayvos_evaluation"] == 1

    written = objects_below(s3_bucket)
    assert not [key for key, data in written.items() if any(secret.encode() in data for secret in SECRETS)]
    said = capsys.readouterr()
    assert not [secret for secret in SECRETS if secret in said.out + said.err]


def test_imported_folders_and_videos_give_the_labels_of_local_ones(s3_bucket: str, tmp_path: Path) -> None:
    local = tmp_path / "set"
    write_video(local / "walk.mp4", moving_square(8), g="4", bf="2")
    rows = [f"walk,1,{frame},{2 + frame},24,{14 + frame},36" for frame in range(8)]
    (local / "boxes.csv").write_text("\n".join(["clip_id,object_id,frame,x0,y0,x1,y1", *rows]) + "\n")
    for path in local.iterdir():
        storage.write_bytes(f"{s3_bucket}/set/{path.name}", path.read_bytes())

    for place in (str(tmp_path), s3_bucket):
        assert main(["import", "auto", f"{place}/set/boxes.csv", "-o", f"{place}/clips.parquet"]) == 0
        assert label(f"{place}/clips.parquet", f"{place}/run") == 0

    (clip,) = ManifestFile(f"{s3_bucket}/clips.parquet")
    assert clip.source.uri == f"{s3_bucket}/set/walk.mp4"
    named = ["fingerprint", "object_fingerprint", "unit_id"]  # they tell the file by its time here, by its etag there
    assert read_labels(f"{s3_bucket}/run").drop(named).equals(labels_of(tmp_path / "run").drop(named))


@pytest.fixture(scope="module")
def quiet(s3_server: str, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    """A manifest in a bucket, and the files of its labels from a run that nothing disturbed."""
    import boto3

    bucket, out = f"rayvos-{uuid.uuid4().hex[:12]}", tmp_path_factory.mktemp("quiet")
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=bucket)
    synth(f"s3://{bucket}/clips", "--clips", "6", "--masks", "none")
    assert label(f"s3://{bucket}/clips/manifest.parquet", str(out)) == 0
    return f"s3://{bucket}/clips/manifest.parquet", files_of(out)


def test_what_cannot_be_read_or_written_twice_is_there_in_the_end(
    s3_bucket: str, s3_proxy: S3Proxy, quiet: tuple[str, dict[str, bytes]]
) -> None:
    manifest, files = quiet
    for number, trouble in enumerate(get_args(Trouble)):
        times = 1 if trouble == "slow" else 2
        s3_proxy.fail(trouble, times, method="GET", path=f"{number}/00001.jpg")
    s3_proxy.fail("500", 2, method="PUT", path="/run/labels/")
    s3_proxy.fail("reset", 2, method="PUT", path="/run/labels/")

    assert label(manifest, f"{s3_bucket}/run") == 0

    assert s3_proxy.failures_left == 0
    assert objects_below(f"{s3_bucket}/run/labels") == files


def test_a_frame_that_is_refused_is_a_dead_letter_and_no_wrong_table(
    s3_bucket: str, s3_proxy: S3Proxy, quiet: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    manifest, _ = quiet
    out = f"{s3_bucket}/run"
    s3_proxy.fail("AccessDenied", 1, method="GET", path="3/00001.jpg")

    assert label(manifest, out) == 3

    (letter,) = read_dead_letters(out).to_pylist()
    assert letter["error"] == "permission_denied"
    assert label(manifest, str(tmp_path / "quiet")) == 0
    expected = labels_of(tmp_path / "quiet", without=(letter["clip_id"],))
    assert read_labels(out).equals(expected)


def start_driver(manifest: str, out: str) -> subprocess.Popen[str]:
    command = [*RAYVOS, "label", manifest, "-o", out, *ENGINE_WORDS, "--address", shared_address()]
    return subprocess.Popen(
        command, env=worker_environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_two_drivers_at_once_commit_each_unit_once(
    s3_bucket: str, s3_proxy: S3Proxy, quiet: tuple[str, dict[str, bytes]]
) -> None:
    manifest, files = quiet

    drivers = [start_driver(manifest, f"{s3_bucket}/run") for _ in range(2)]
    ends = [driver.communicate(timeout=PATIENCE_S) for driver in drivers]

    assert [driver.returncode for driver in drivers] == [0, 0], ends
    assert objects_below(f"{s3_bucket}/run/labels") == files
    written = puts(s3_proxy, "/run/labels/")
    assert len(written) == len(files) == 6
    assert set(written.values()) == {1}
    assert RunFolder(f"{s3_bucket}/run").read_run_json()["state"] == "done"
    assert not objects_below(f"{s3_bucket}/run/attempts")


def test_credentials_inside_urls_stay_out_of_the_record(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    job = {
        "manifest": "s3://AKIA:hunter2@bucket/clips.parquet",
        "weights": "https://host/w.safetensors?X-Amz-Credential=hunter2&X-Amz-Expires=60&X-Amz-Signature=hunter2",
        "arguments": ["--weights", "https://host/w?sv=2024&sig=hunter2", "--boxes", "https://u:hunter2@host/b.csv"],
    }

    record = RunRecord(run, {"engine": "cut"}, job)
    record.write("failed", error="https://u:hunter2@host/b.csv?token=hunter2: could not read it")

    text = (tmp_path / "run.json").read_text()
    assert "hunter2" not in text
    assert "AKIA" not in text
    assert "X-Amz-Expires=60" in text
