"""A cluster that `ray start` made, with its own ports and folders, for tests of the job API."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ray_cluster import PATIENCE_S, worker_environment

NUM_CPUS = 5
STARTS = 6  # of a cluster, at most
PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(frozen=True)
class RayHead:
    client: Any
    """`JobSubmissionClient`"""
    url: str
    """Of the dashboard."""
    metrics_url: str


@pytest.fixture(scope="package")
def ray_head() -> Iterator[RayHead]:
    """A cluster with its own ports and folders, ended by the process that started it."""
    from ray.job_submission import JobSubmissionClient

    folder = tempfile.mkdtemp(prefix="rv-", dir="/tmp")  # sockets live in it: their paths must stay short
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    command = [sys.executable, "-m", "benchmarks.busy_machine", "start", "--head", "--block", "--disable-usage-stats"]
    command += ["--dashboard-host", "127.0.0.1", "--num-cpus", str(NUM_CPUS), "--object-store-memory", "150000000"]
    command += ["--temp-dir", folder, *(f"--{name}={port}" for name, port in ports.items())]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**worker_environment(), "PATH": path, "RAY_JOB_STOP_WAIT_TIME_S": "20", "RAY_TMPDIR": folder}
    environment |= {"RAY_metrics_report_interval_ms": "1000"}
    log = Path(folder) / "start.log"
    url = f"http://127.0.0.1:{ports['dashboard-port']}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head, client = start_patiently(command, environment, log, lambda: JobSubmissionClient(url))
        try:
            yield RayHead(client, url, f"http://127.0.0.1:{ports['metrics-export-port']}/metrics")
        finally:
            head.terminate()
            head.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def start_patiently(
    command: list[str], environment: dict[str, str], log: Path, ready: Callable[[], Any]
) -> tuple[subprocess.Popen[bytes], Any]:
    """Return the process of `ray start --block` and what is found when it is ready.

    Ray gives a node 30 seconds to start, and 5 to connect, which is too short for a busy machine: then it is started
    again.
    """
    for _ in range(STARTS):
        with log.open("wb") as output:
            head = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

        def found_or_ended(head: subprocess.Popen[bytes] = head) -> Any:
            if head.poll() is not None:
                return "ended"
            return "Ray runtime started" in log.read_text() and ready()

        found = wait_for(found_or_ended, log)
        if found != "ended":
            return head, found
    raise AssertionError(log.read_text())


def wait_for(attempt: Callable[[], Any], log: Path | None = None, seconds: float = PATIENCE_S) -> Any:
    """Return the first result of `attempt` that is true; errors mean that it is too early."""
    deadline = time.monotonic() + seconds
    found, last_error = None, ""
    while not found and time.monotonic() < deadline:
        try:
            found = attempt()
        except (ConnectionError, RuntimeError) as error:
            last_error = str(error)
        time.sleep(0 if found else 0.2)
    assert found, (last_error, log and log.read_text())
    return found


@pytest.fixture
def jobs(ray_head: RayHead) -> Any:
    """A client of the cluster's job API."""
    return ray_head.client
