"""An S3 server on this machine, for tests of object storage: the fixture `s3_bucket`."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator

import pytest

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of a local S3 server; the standard credential chain of every process started from here finds it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = pytest.MonkeyPatch()
    environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    environment.setenv("AWS_ACCESS_KEY_ID", "testing")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield f"http://{host}:{port}"
    environment.undo()
    server.stop()


@pytest.fixture
def s3_bucket(s3_server: str) -> str:
    """URL of a new, empty bucket."""
    import boto3

    name = f"rayvos-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    return f"s3://{name}"
