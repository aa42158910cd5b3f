"""One Ray cluster per test session, and the clips and jobs of the tests that use it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.busy_machine import SETTINGS, patient_starts
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Box, Clip, ObjectInfo
from rayvos.annotations.run_folder import read_dead_letters, read_labels
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from tests.conftest import moving_square, write_image_folder
from tests.engines_for_tests import ENGINE

REPOSITORY = Path(__file__).parents[1]
NUM_FRAMES = 6
ONE_CLIP_A_UNIT = 15.0  # planned seconds per frame of which every test clip fills a unit
ALL_IN_ONE_UNIT = 0.01
PATIENCE_S = 600.0  # for a process on a busy machine, before a test calls it hung
RAYVOS = (sys.executable, "-c", "from rayvos.cli.main import run; run()")
RAYVOS_WITH_A_CLUSTER = (sys.executable, "-m", "tests.patient_rayvos")  # of its own


def worker_environment() -> dict[str, str]:
    """Return the environment of processes that find the tests' engine, make no mess, and wait for a busy machine."""
    found = {**SETTINGS, **os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    found |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    found["RAY_memory_monitor_refresh_ms"] = "0"  # else Ray kills workers when others fill the machine's memory
    found["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *found.get("PYTHONPATH", "").split(os.pathsep)]).strip(":")
    found.pop("RAY_ADDRESS", None)
    return found


def run_beside(module: str, job: LabelJob, timeout_s: float) -> str:
    """Run a job by a module of the tests in a process of its own, with a cluster of its own; return what it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", module, job.manifest, job.out],
        cwd=REPOSITORY, env=worker_environment(), capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """A cluster of eight logical CPUs that tests share; jobs started in this process find it by themselves.

    Its workers inherit where the tests' S3 server is, and the credentials for it.
    """
    import ray

    if ray.is_initialized():  # the fixture of another folder: pytest keeps one for each folder that names it
        yield
        return
    environment = pytest.MonkeyPatch()
    for name, value in worker_environment().items():
        environment.setenv(name, value)
    environment.delenv("RAY_ADDRESS", raising=False)
    patient_starts()
    ray.init(
        address="local",
        num_cpus=8,
        object_store_memory=150_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
    environment.undo()


def shared_address() -> str:
    """Return the address of the cluster that tests share, for programs: one of its own costs each 15 s of CPU."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def make_clip(folder: Path, *, num_frames: int = NUM_FRAMES) -> Clip:
    """Write a clip of two objects; the second one is absent on odd frames."""
    clip = write_image_folder(folder, moving_square(num_frames))
    boxes = [Box(1, frame, 2 + frame, 24, 14 + frame, 36) for frame in range(num_frames)]
    boxes += [Box(2, frame, 0, 0, 20, 20, visible=frame % 2 == 0) for frame in range(num_frames)]
    return dataclasses.replace(clip, objects=(ObjectInfo(1), ObjectInfo(2)), boxes=tuple(boxes))


def make_clips(folder: Path, num_clips: int = 4) -> list[Clip]:
    """Write some clips; their ids are clip0, clip1…"""
    return [make_clip(folder / f"clip{number}") for number in range(num_clips)]


def make_trouble(clip: Clip, words: str) -> None:
    """Have the tests' engine do what the words say when it comes to this clip."""
    (Path(clip.source.uri) / ".trouble").write_text(words)


def let_pass(clips: list[Clip], number: int) -> None:
    """Have the tests' engine do so many of these clips, whichever come first, and wait with others until trouble ends.

    That holds a run at one point, for whatever a test does to it, however busy the machine is.
    """
    for clip in clips:
        make_trouble(clip, "pass")
    for position in range(number):
        (Path(clips[0].source.uri).parent / f"pass-{position}").touch()


def end_trouble(*clips: Clip) -> None:
    """Let the clips be labelled in peace."""
    for clip in clips:
        (Path(clip.source.uri) / ".trouble").unlink(missing_ok=True)


def job_on(
    clips: list[Clip], out: Path | str, *, seconds_per_frame: float = ONE_CLIP_A_UNIT, **options: Any
) -> LabelJob:
    """Return a job of the tests' engine on these clips, with a manifest of its own beside the first clip.

    One actor does it unless a test is about several: each is a process that imports for two to three seconds of CPU.
    """
    manifest = Path(clips[0].source.uri).parent / "clips.parquet"
    write_manifest(clips, str(manifest))
    engine = {"seconds_per_frame": seconds_per_frame, **options.pop("engine_options", {})}
    choice = EngineChoice(ENGINE, engine)
    return LabelJob(str(manifest), str(out), choice, **{"actors": 1, "max_failed": 1000, **options})


def labels_of(out: Path | str, *, without: tuple[str, ...] = ()) -> pa.Table:
    """Return the live labels of all clips but those named."""
    table = read_labels(str(out))
    return table.filter(pa.array([clip_id not in without for clip_id in table.column("clip_id").to_pylist()]))


def letters_of(out: Path | str) -> list[tuple[str, str]]:
    """Return (clip_id, error code) of the live dead letters."""
    return [(letter["clip_id"], letter["error"]) for letter in read_dead_letters(str(out)).to_pylist()]


def files_of(out: Path) -> dict[str, bytes]:
    """Return the committed files by name."""
    return {path.name: path.read_bytes() for path in sorted((out / "labels").iterdir())}


def forget(out: Path) -> None:
    """Remove a run folder."""
    shutil.rmtree(out, ignore_errors=True)
