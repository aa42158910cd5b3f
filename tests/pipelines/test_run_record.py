from __future__ import annotations

from pathlib import Path

from rayvos.annotations.run_folder import RunFolder
from rayvos.pipelines.run_record import RunRecord

CONFIGURATION = {"engine": "boxfill", "options": {}, "weights": "", "prompts": "all"}


def test_no_password_of_a_url_is_stored(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))

    record = RunRecord(run, CONFIGURATION, {"manifest": "s3://key:secret@bucket/clips.parquet"})
    record.write("failed", error="could not read s3://key:secret@bucket/clips.parquet", words=["ftp://a:b@c"])

    stored = (tmp_path / "run.json").read_text()
    assert "secret" not in stored
    assert "s3://bucket/clips.parquet" in stored
    assert "ftp://c" in stored


def test_earlier_starts_are_remembered(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    RunRecord(run, CONFIGURATION, {}).write("stopped", throughput={"units": 3})

    RunRecord(run, CONFIGURATION, {}).write("done")

    (earlier,) = run.read_run_json()["earlier"]
    assert (earlier["state"], earlier["throughput"]) == ("stopped", {"units": 3})
