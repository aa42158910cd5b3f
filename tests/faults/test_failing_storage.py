"""Storage that fails: what may heal is tried again, what does not ends the job and never leaves half a file."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rayvos.annotations.run_folder import RunFolder, read_labels
from rayvos.errors import StorageError
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.plan import plan_run
from rayvos.pipelines.receipts import Receipt, unit_to_row
from rayvos.pipelines.run import run_job
from rayvos.pipelines.worker import UnitWorker, WorkerSettings
from tests.ray_cluster import ALL_IN_ONE_UNIT, job_on, labels_of, make_clips

# Several workers in one process: the note of the one before ends when faulthandler lets go of it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class FailingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Storage in memory whose writes of label files fail as often as told."""

    protocol = "failing"
    cachable = False
    failures_left = 0
    failure = OSError(errno.EIO, "injected")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("failing://")))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if "/labels/" in path and FailingFileSystem.failures_left > 0:
            FailingFileSystem.failures_left -= 1
            raise FailingFileSystem.failure
        super().pipe_file(path, value, mode=mode, **options)


@pytest.fixture
def failing_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    monkeypatch.setenv("RAYVOS_URL_SCHEMES", "failing")
    monkeypatch.setattr("rayvos.retries.time.sleep", lambda _: None)
    yield f"failing://{uuid.uuid4().hex}"
    FailingFileSystem.failures_left = 0


def label_here(job: LabelJob) -> list[Receipt]:
    """Do a job's units in this process, by the same worker and without Ray."""
    run = RunFolder(job.out)
    plan = plan_run(run, job.manifest, job.work().load())
    settings = WorkerSettings(
        run=job.out, manifest=plan.manifest, work=job.work(), session="test", num_actors=1,
        max_attempts=3,
        timeout_s=None, memory_limit_bytes=None, num_threads=1,
    )  # fmt: skip
    worker = UnitWorker(settings)
    return [Receipt.from_row({"receipt": batch["receipt"][0]})
            for unit in plan.todo for batch in worker({"unit": [unit_to_row(unit)["unit"]]})]  # fmt: skip


def test_storage_that_fails_twice_changes_nothing(tmp_path: Path, failing_folder: str) -> None:
    clips = make_clips(tmp_path, 3)
    label_here(job_on(clips, tmp_path / "quiet"))
    FailingFileSystem.failures_left = 2

    receipts = label_here(job_on(clips, failing_folder))

    assert FailingFileSystem.failures_left == 0
    assert [receipt.error for receipt in receipts] == [""] * 3
    assert read_labels(failing_folder).equals(labels_of(tmp_path / "quiet"))


def test_a_full_disk_is_no_clips_fault_and_the_next_start_goes_on(
    tmp_path: Path, failing_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = make_clips(tmp_path, 3)
    label_here(job_on(clips, tmp_path / "quiet"))
    monkeypatch.setattr(FailingFileSystem, "failure", OSError(errno.ENOSPC, "No space left on device"))
    FailingFileSystem.failures_left = 10**6

    receipts = label_here(job_on(clips, failing_folder))
    committed = RunFolder(failing_folder).committed()
    FailingFileSystem.failures_left = 0
    again = label_here(job_on(clips, failing_folder))

    assert [receipt.error for receipt in receipts] == ["storage_failed"] * 3
    assert "No space left on device" in receipts[0].message
    assert committed == set()
    assert [receipt.error for receipt in again] == [""] * 3
    assert read_labels(failing_folder).equals(labels_of(tmp_path / "quiet"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    # Lazily: workers that this test ended by force may hold a file for a moment longer.
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_on_a_full_disk_ends_with_the_reason_and_is_resumed(tmp_path: Path, small_disk: Path) -> None:
    clips = make_clips(tmp_path, 3)
    job = job_on(clips, small_disk / "out", seconds_per_frame=ALL_IN_ONE_UNIT)
    quiet = dataclasses.replace(job, out=str(tmp_path / "quiet"))
    label_here(quiet)
    plan_run(RunFolder(job.out), job.manifest, job.work().load())
    ballast = small_disk / "ballast"
    fill(ballast)

    with pytest.raises(StorageError, match="No space left"):
        run_job(job)
    ballast.unlink()
    leftovers = [path for path in (small_disk / "out").rglob("*") if path.suffix == ".tmp"]
    run_job(job)

    assert leftovers == []
    assert labels_of(job.out).equals(labels_of(quiet.out))
