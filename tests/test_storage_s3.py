"""The commit primitive and the small verbs on an object store."""

from __future__ import annotations

import pytest

from rayvos import storage
from rayvos.errors import MissingPathError
from tests.test_storage import remove_side_by_side


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


def test_several_processes_may_remove_the_same_objects_at_once(s3_bucket):
    remove_side_by_side(s3_bucket, rounds=3)
