"""`rayvos submit` on a cluster that `ray start` made: once, over lost connections, with the driver's exit code."""

from __future__ import annotations

import dataclasses
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rayvos.annotations.records import Box
from rayvos.annotations.run_folder import RunFolder
from rayvos.cli.main import main
from rayvos.errors import UsageError
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.submission import Submission
from tests.engines_for_tests import ENGINE
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import PATIENCE_S, REPOSITORY, end_trouble, files_of, job_on, let_pass, make_clips
from tests.ray_head import RayHead, wait_for

pytestmark = [
    pytest.mark.timeout(4 * PATIENCE_S),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Tunnel:
    """A TCP tunnel to the cluster that can be cut: connections break, new ones are refused for a while."""

    def __init__(self, target: str) -> None:
        self.target = ("127.0.0.1", int(target.rpartition(":")[2]))
        self.open = threading.Event()
        self.open.set()
        self.cuts = 0
        self.sockets: list[socket.socket] = []
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self.door.accept()
                if not self.open.is_set():
                    here.close()
                    continue
                there = socket.create_connection(self.target)
                self.sockets += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    def copy(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self, seconds: float) -> None:
        self.open.clear()
        self.cuts += 1
        for each in self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        threading.Timer(seconds, self.open.set).start()


@pytest.fixture
def tunnel(ray_head: RayHead) -> Iterator[Tunnel]:
    made = Tunnel(ray_head.url)
    yield made
    made.door.close()


def words_of(job: LabelJob, *more: str) -> list[str]:
    found = ["label", job.manifest, "-o", job.out, "--engine", ENGINE, "--actors", "1"]
    return [*found, "--option", f"seconds_per_frame={job.engine.options['seconds_per_frame']}", *more]


def submit(url: str, words: list[str], *options: str) -> int:
    where = ["--address", url, "--working-dir", str(REPOSITORY), "--patience", str(PATIENCE_S)]
    return main(["submit", *where, "--env", f"PYTHONPATH={REPOSITORY}", *options, "--", *words])


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_started_once_and_followed_over_a_lost_connection_to_its_exit_code(
    ray_head: RayHead, tunnel: Tunnel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = make_clips(tmp_path, 6)
    clips[1] = dataclasses.replace(clips[1], boxes=(Box(1, 0, 9, 9, 2, 2),))
    label_here(job_on(clips, tmp_path / "quiet"))
    words = words_of(job_on(clips, tmp_path / "out"), "--max-failed", "9")
    let_pass(clips, 2)

    def metrics() -> bool:
        with urllib.request.urlopen(ray_head.metrics_url) as answer:
            return "ray_rayvos_frames_total" in answer.read().decode()

    def cut_after_some_units() -> None:
        try:
            wait_for(lambda: len(RunFolder(str(tmp_path / "out")).committed()) >= 2)
            tunnel.cut(2)
            wait_for(metrics)
        finally:
            end_trouble(*clips)

    assert submit(ray_head.url, words, "--no-follow") == 0
    started = capsys.readouterr().out.split()
    beside = threading.Thread(target=cut_after_some_units)
    beside.start()
    code = submit(tunnel.url, words)
    beside.join()

    said = capsys.readouterr()
    assert code == 3
    assert tunnel.cuts == 1
    assert f"found {started[0]}" in said.err
    assert said.out.count("labelled now") == 1
    assert files_of(tmp_path / "out") == files_of(tmp_path / "quiet")
    assert metrics()


@pytest.mark.ray
@pytest.mark.slow
def test_an_id_is_used_once_and_a_wrong_option_ends_with_its_own_code(
    ray_head: RayHead, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(job_on(make_clips(tmp_path, 1), tmp_path / "out"), "--max-attempts", "0")

    codes = [submit(ray_head.url, words, "--id", "my-run") for _ in range(2)]

    said = capsys.readouterr()
    assert codes == [2, 2]
    assert "started my-run" in said.err
    assert "found my-run" in said.err
    assert [job.submission_id for job in ray_head.client.list_jobs()].count("my-run") == 1


def test_nobody_at_the_address_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", "--address", "http://127.0.0.1:1", "--patience", "0", "--working-dir", str(REPOSITORY), "label"]

    assert main(words) == 1

    assert "check address and tunnel" in capsys.readouterr().err


def test_the_same_words_have_the_same_id_and_others_another() -> None:
    ids = [Submission("label", words, str(REPOSITORY)).base_id for words in (("a", "b"), ("a", "b"), ("a b",))]

    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "DB_PASSWORD"])
def test_secrets_travel_by_no_environment(name: str) -> None:
    with pytest.raises(UsageError, match="standard chain"):
        Submission("label", (), str(REPOSITORY), {name: "x"})


def test_secrets_travel_by_no_word() -> None:
    with pytest.raises(UsageError, match="signature") as caught:
        Submission("label", ("https://user:hunter2@host/m.parquet",), str(REPOSITORY))

    assert "hunter2" not in str(caught.value)


def test_a_folder_without_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--working-dir"):
        Submission("label", (), str(tmp_path))
