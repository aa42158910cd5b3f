"""Which URLs are opened: by scheme, by host, and never a metadata service, however it is reached."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rayvos import storage
from rayvos.errors import FileTooLargeError, PermissionDeniedError, StorageError
from rayvos.url_policy import check_url

METADATA = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"


@pytest.mark.parametrize(
    "url",
    [
        "clips/a b/x.parquet",
        "/data/x:y.parquet",
        "file:///data/x.parquet",
        "s3://bucket/x",
        "gs://bucket/x",
        "https://example.org/x.mp4",
        "http://10.0.0.7/x.mp4",
    ],
)
def test_files_object_stores_and_http_are_opened(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "sftp://host/x",
        "github://a:b@c/x",
        "simplecache::s3://bucket/x",
        "zip://x.png::s3://bucket/a.zip",
        "s3://bucket/x::ftp://host/y",
    ],
)
def test_other_schemes_are_refused_alone_and_in_chains(url: str) -> None:
    with pytest.raises(PermissionDeniedError, match="is not allowed"):
        storage.read_bytes(url)


@pytest.mark.parametrize(
    "url",
    [
        METADATA,
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://[fe80:0:0:0:0:0:a9fe:a9fe]/latest",
        "http://[0:0:0:0:0:ffff:169.254.169.254]/latest",
        "http://[fd00:ec2:0:0:0:0:0:254]/latest",
        "http://100.100.100.200/latest",
    ],
)
def test_a_metadata_service_is_never_opened(url: str) -> None:
    with pytest.raises(PermissionDeniedError, match="metadata service"):
        storage.read_bytes(url)


def test_only_listed_hosts_and_buckets_are_opened_where_there_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYVOS_URL_HOSTS", "*.example.org, my-bucket")

    for url in ("https://data.example.org/x", "s3://my-bucket/x", "/local/x", "file:///local/x"):
        check_url(url)
    for url in ("https://example.com/x", "s3://other/x", "https://evil.com/?h=.example.org"):
        with pytest.raises(PermissionDeniedError, match="RAYVOS_URL_HOSTS"):
            check_url(url)


def test_schemes_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYVOS_URL_SCHEMES", "hdfs,SFTP")

    check_url("hdfs://host/x")
    check_url("sftp://host/x")


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server: `/to?URL` redirects there, anything else is answered with `found`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = self.path.partition("?")[2]
            self.send_response(302 if where else 200)
            if where:
                self.send_header("Location", where)
            self.send_header("Content-Length", "0" if where else "5")
            self.end_headers()
            if not where:
                self.wfile.write(b"found")

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


def test_a_redirect_is_followed(server: str) -> None:
    assert storage.read_bytes(f"{server}/to?{server}/x") == b"found"


def test_a_web_servers_file_above_the_limit_is_refused(server: str) -> None:
    assert storage.read_bytes(f"{server}/x", max_bytes=5) == b"found"
    with pytest.raises(FileTooLargeError, match="5 bytes or more, at most 4"):
        storage.read_bytes(f"{server}/x", max_bytes=4)


@pytest.mark.parametrize("where", [METADATA, "http://metadata.google.internal/x"])
def test_a_redirect_to_a_metadata_service_is_not_followed(server: str, where: str) -> None:
    with pytest.raises(PermissionDeniedError, match="metadata service"):
        storage.read_bytes(f"{server}/to?{where}")


def test_a_redirect_to_a_host_that_is_not_listed_is_not_followed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYVOS_URL_HOSTS", "127.0.0.1")

    with pytest.raises(PermissionDeniedError, match=r"'example\.com'"):
        storage.read_bytes(f"{server}/to?http://example.com/x")


def test_a_name_that_resolves_to_a_metadata_service_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)

    with pytest.raises(StorageError) as caught:
        storage.read_bytes("http://innocent.example.org/x")

    assert caught.value.code == "permission_denied"
