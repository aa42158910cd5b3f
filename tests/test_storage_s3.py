"""The commit primitive and the small verbs on an object store."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from rayvos import storage
from rayvos.annotations.arrow_files import read_parquet
from rayvos.errors import FileTooLargeError, MissingPathError, PermissionDeniedError, StorageError
from tests.s3 import Trouble
from tests.test_storage import remove_side_by_side


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Retries come at once; how often and how long is up to `test_retries.py`."""
    monkeypatch.setattr("rayvos.retries.time.sleep", lambda _: None)


def test_an_object_is_created_once_and_never_replaced(s3_bucket):
    path = storage.join(s3_bucket, "run", "labels", "unit.parquet")

    assert storage.create_if_absent(path, b"first")
    assert not storage.create_if_absent(path, b"second")
    assert storage.read_bytes(path) == b"first"
    assert storage.list_folder(storage.join(s3_bucket, "run", "labels")) == ["unit.parquet"]


def test_objects_written_by_another_process_are_listed(s3_bucket, s3_server):
    import boto3

    folder = storage.join(s3_bucket, "labels")
    assert storage.list_folder(folder) == []

    boto3.client("s3", endpoint_url=s3_server).put_object(
        Bucket=s3_bucket.removeprefix("s3://"), Key="labels/other.parquet", Body=b"x"
    )

    assert storage.list_folder(folder) == ["other.parquet"]
    assert storage.exists(storage.join(folder, "other.parquet"))


def test_a_missing_object_or_bucket_is_named(s3_bucket):
    with pytest.raises(MissingPathError, match="nothing-here"):
        storage.read_bytes(storage.join(s3_bucket, "nothing-here"))
    with pytest.raises(MissingPathError, match="no-such-bucket"):
        storage.read_bytes("s3://rayvos-no-such-bucket/x")


def test_an_empty_object_and_one_above_the_limit(s3_bucket):
    empty, large = storage.join(s3_bucket, "empty"), storage.join(s3_bucket, "large")
    storage.write_bytes(empty, b"")
    storage.write_bytes(large, b"x" * 1000)

    assert storage.read_bytes(empty, max_bytes=0) == b""
    with pytest.raises(FileTooLargeError, match=r"large: holds 1000 bytes.*at most 999"):
        storage.read_bytes(large, max_bytes=999)


def test_several_processes_may_remove_the_same_objects_at_once(s3_bucket):
    remove_side_by_side(s3_bucket, rounds=3)


@pytest.mark.parametrize("trouble", get_args(Trouble))
def test_requests_that_fail_for_a_moment_are_made_again(s3_bucket, s3_proxy, trouble):
    path = storage.join(s3_bucket, "run", "unit.parquet")
    # After a cut answer the object is there; a slow answer is no failure.
    s3_proxy.fail(trouble, 1 if trouble in ("cut", "slow") else 2, method="PUT")
    s3_proxy.fail(trouble, 1 if trouble == "slow" else 2, method="GET")

    assert storage.create_if_absent(path, b"data" * 1000)
    assert storage.read_bytes(path) == b"data" * 1000
    assert s3_proxy.failures_left == 0


def test_an_outage_longer_than_botocores_own_retries_is_survived(s3_bucket, s3_proxy):
    path = storage.join(s3_bucket, "x")
    storage.write_bytes(path, b"data")
    s3_proxy.fail("503", 7, method="GET")

    assert storage.read_bytes(path) == b"data"


def test_a_read_that_hangs_is_broken_off_and_made_again(s3_bucket, s3_proxy, monkeypatch):
    import s3fs

    path = storage.join(s3_bucket, "x")
    storage.write_bytes(path, b"data")
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 1.5)
    s3fs.S3FileSystem.clear_instance_cache()
    s3_proxy.fail("hang", 1, method="GET")

    try:
        assert storage.read_bytes(path) == b"data"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("refusal", "message"), [("AccessDenied", "check rights or credentials"), ("RequestTimeTooSkewed", "clock")]
)
def test_a_refusal_is_named_and_not_tried_again(s3_bucket, s3_proxy, refusal, message):
    path = storage.join(s3_bucket, "x")
    s3_proxy.fail(refusal, 9, method="GET")

    with pytest.raises(PermissionDeniedError, match=message):
        storage.read_bytes(path)

    assert s3_proxy.failures_left == 8


def test_an_open_file_survives_reads_that_fail(s3_bucket, s3_proxy):
    path = storage.join(s3_bucket, "x")
    data = random.Random(0).randbytes(300_000)
    storage.write_bytes(path, data)

    with storage.open_input(path) as file:
        s3_proxy.fail("reset", 3, method="GET")
        s3_proxy.fail("500", 2, method="GET")
        assert file.read(1000) == data[:1000]
        file.seek(-5, 2)
        assert file.read() == data[-5:]

    assert s3_proxy.failures_left == 0


def test_a_table_is_read_over_requests_that_fail(s3_bucket, s3_proxy):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"clip_id": [f"clip{i}" for i in range(1000)]})
    path = storage.join(s3_bucket, "t.parquet")
    with storage.open_output(path) as file:
        pq.write_table(table, file)
    s3_proxy.fail("500", 2, method="GET")

    assert read_parquet(path).equals(table)


def multipart(proxy):
    return [(request.method, request.path.partition("?")[2].partition("&")[0]) for request in proxy.log]


def test_a_large_object_travels_in_parts_of_which_each_may_fail(s3_bucket, s3_proxy, monkeypatch):
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    path = storage.join(s3_bucket, "large")
    data = random.Random(0).randbytes(11 << 20)
    s3_proxy.fail("500", 2, method="PUT", path="partNumber=2")

    with storage.open_output(path) as file:
        file.write(data)

    assert storage.read_bytes(path) == data
    assert len([words for words in multipart(s3_proxy) if words == ("PUT", "partNumber=3")]) == 1


def test_a_large_object_whose_parts_are_refused_leaves_nothing(s3_bucket, s3_proxy, s3_server, monkeypatch):
    import boto3

    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    path = storage.join(s3_bucket, "large")
    s3_proxy.fail("AccessDenied", 1, method="PUT", path="partNumber=2")

    with pytest.raises(StorageError), storage.open_output(path) as file:
        file.write(bytes(11 << 20))

    assert not storage.exists(path)
    left = boto3.client("s3", endpoint_url=s3_server).list_multipart_uploads(Bucket=s3_bucket.removeprefix("s3://"))
    assert "Uploads" not in left
