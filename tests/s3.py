"""An S3 server on this machine, for tests of object storage: the fixture `s3_bucket`.

Before the server stands a proxy that keeps a log of requests and fails when it is told to (`s3_proxy`). It lets one
writing request through at a time, since moto looks for an object and creates it in two steps.
"""

from __future__ import annotations

import http.client
import logging
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest

__all__ = ["SECRETS", "Refusal", "S3Proxy", "Trouble", "s3_bucket", "s3_proxy", "s3_server"]

SECRETS = ("rayvos-test-key-id", "rayvos-test-secret-key")

Trouble = Literal["500", "503", "reset", "cut", "slow"]
"""An answer with this status; the connection reset instead of an answer; reset after half of the answer's body; the
answer late."""
Refusal = Literal["hang", "AccessDenied", "RequestTimeTooSkewed"]
"""No answer for longer than anybody waits; a 403 for this reason."""

SLOW_S, HANG_S = 0.5, 4.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """`/bucket/key`, with the query."""
    status: int
    """Of the answer; 0 where there was none."""


@dataclass
class S3Proxy:
    """What tests tell the proxy, and what it tells them."""

    upstream: tuple[str, int]
    log: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    writing: threading.Lock = field(default_factory=threading.Lock)
    _troubles: list[tuple[Trouble | Refusal, str, str]] = field(default_factory=list)

    def fail(self, trouble: Trouble | Refusal, times: int, *, method: str = "", path: str = "") -> None:
        """Have the next requests of this method, whose path holds these words, fail."""
        with self.lock:
            self._troubles += [(trouble, method, path)] * times

    @property
    def failures_left(self) -> int:
        return len(self._troubles)

    def calm(self) -> None:
        """Forget all troubles and the log."""
        with self.lock:
            self._troubles.clear()
            self.log.clear()

    def next_trouble(self, method: str, path: str) -> Trouble | Refusal | None:
        with self.lock:
            for position, (trouble, its_method, words) in enumerate(self._troubles):
                if words in path and its_method in ("", method):
                    del self._troubles[position]
                    return trouble
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: S3Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def forward(self) -> None:
        body = self.read_body()
        trouble = self.proxy.next_trouble(self.command, self.path)
        if trouble == "reset":
            self.record(0)
            self.reset()
            return
        if trouble in ("500", "503"):
            self.answer_error(int(trouble), "InternalError")
            return
        if trouble in ("AccessDenied", "RequestTimeTooSkewed"):
            self.answer_error(403, trouble)
            return
        if trouble == "hang":
            self.record(0)
            time.sleep(HANG_S)
            self.reset()
            return
        if trouble == "slow":
            time.sleep(SLOW_S)
        if self.command == "GET" or self.command == "HEAD":
            status, headers, content = self.ask(body)
        else:
            with self.proxy.writing:
                status, headers, content = self.ask(body)
        self.answer(status, headers, content, cut=trouble == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        hidden = {"connection", "transfer-encoding", "content-length", "expect"}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hidden}
        connection = http.client.HTTPConnection(*self.proxy.upstream)
        try:
            connection.request(self.command, self.path, body, headers)
            found = connection.getresponse()
            return found.status, dict(found.getheaders()), found.read()
        finally:
            connection.close()

    def answer_error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self.answer(status, {"Content-Type": "application/xml"}, body.encode())

    def answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.record(status)
        self.send_response_only(status)
        told = {name.lower() for name in headers}
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if "content-length" not in told:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.reset()

    def record(self, status: int) -> None:
        with self.proxy.lock:
            self.proxy.log.append(Request(self.command, self.path, status))

    def reset(self) -> None:
        """Cut the connection as a machine that goes away does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[S3Proxy]:
    """The proxy before a local S3 server; the standard credential chain of every process started from here finds it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = S3Proxy(moto.get_host_and_port())
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = pytest.MonkeyPatch()
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    environment.setenv("AWS_ACCESS_KEY_ID", SECRETS[0])
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRETS[1])
    environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield proxy
    environment.undo()
    server.shutdown()
    server.server_close()
    moto.stop()


@pytest.fixture(scope="session")
def s3_server(s3_proxy: S3Proxy) -> str:
    """Address of the server, as `AWS_ENDPOINT_URL` has it."""
    import os

    return os.environ["AWS_ENDPOINT_URL"]


@pytest.fixture
def s3_bucket(s3_proxy: S3Proxy, s3_server: str) -> str:
    """URL of a new, empty bucket; the proxy before it is calm and its log empty."""
    import boto3

    name = f"rayvos-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket=name)
    s3_proxy.calm()
    return f"s3://{name}"
