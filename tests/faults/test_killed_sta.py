"""Labels of the engine `sta` in units: neither the cut nor a worker or driver that is killed changes a byte of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Box, Clip, ObjectInfo
from rayvos.annotations.run_folder import RunFolder
from rayvos.engines.base import FrameReader, Label
from rayvos.engines.registry import EngineChoice
from rayvos.engines.sta.engine import StaConfig, StaEngine
from rayvos.models.sta import STA, StaModel
from rayvos.models.weights import save_weights
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.plan import plan_run
from rayvos.pipelines.run import run_job
from tests import engines_for_tests
from tests.conftest import moving_square, write_image_folder
from tests.faults.test_failing_storage import label_here
from tests.goldens.sta_cases import formula_weight
from tests.ray_cluster import (
    PATIENCE_S,
    RAYVOS,
    end_trouble,
    files_of,
    labels_of,
    let_pass,
    make_trouble,
    shared_address,
    worker_environment,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(2 * PATIENCE_S),
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NUM_CLIPS, NUM_FRAMES = 2, 36  # two pieces each: a piece has eight frames at least for each one that a window reaches
SMALL, LARGE = 0.3, 60.0  # planned seconds of a unit: a piece each, all in one
OPTIONS = {"window": 3, "interval": 1, "iterations": 5}


class TroubledSta(StaEngine):
    """Does first what the clip's `.trouble` file says."""

    def __init__(self, *, path: str, window: int, interval: int, iterations: int) -> None:
        config = StaConfig(window=window, interval=interval, iterations=iterations)
        super().__init__(config, weights=path, device="cpu")

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        engines_for_tests.make_trouble(Path(clip.source.uri) / ".trouble")
        return super().label(clip, images, frames)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    model = StaModel(variant="compact", height=64, width=96)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in STA(model).state_dict().items()}
    state = {name: formula_weight("", name, shape) for name, shape in shapes.items()}
    path = str(tmp_path_factory.mktemp("weights") / "random.safetensors")
    save_weights(path, state, architecture="sta", model=model.configuration())
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Clip]:
    folder = tmp_path_factory.mktemp("clips")
    return [make_clip(folder / f"clip{number}", number) for number in range(NUM_CLIPS)]


def make_clip(folder: Path, number: int) -> Clip:
    clip = write_image_folder(folder, moving_square(NUM_FRAMES))
    boxes = tuple(Box(1, frame, 2 + 3 * number + frame % 20, 10, 30 + frame, 40) for frame in range(NUM_FRAMES))
    return replace(clip, objects=(ObjectInfo(1),), boxes=boxes)


def planned_job(out: Path, clips: list[Clip], choice: EngineChoice, unit_s: float = SMALL) -> LabelJob:
    """Return a job whose plan is stored already."""
    manifest = out.with_suffix(".parquet")
    write_manifest(clips, str(manifest))
    job = LabelJob(str(manifest), str(out), choice, actors=1, max_attempts=4)
    plan_run(RunFolder(job.out), job.manifest, job.work().load(), unit_s=unit_s)
    return job


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, clips: list[Clip], weights: str) -> Path:
    """Return the folder of a run that nothing disturbed, without Ray."""
    out = tmp_path_factory.mktemp("runs") / "quiet"
    label_here(planned_job(out, clips, EngineChoice("sta", OPTIONS, weights, "cpu")))
    return out


def test_one_unit_and_four_give_the_same_labels(tmp_path: Path, clips: list[Clip], weights: str, quiet: Path) -> None:
    run_job(planned_job(tmp_path / "one", clips, EngineChoice("sta", OPTIONS, weights, "cpu"), LARGE))

    one, four = (labels_of(out).drop_columns("unit_id") for out in (tmp_path / "one", quiet))

    assert len(files_of(tmp_path / "one")) == 1
    assert len(files_of(quiet)) == 2 * NUM_CLIPS
    assert one.equals(four)
    assert one.num_rows == NUM_CLIPS * NUM_FRAMES
    assert len(set(one.column("rle").to_pylist())) > NUM_FRAMES


def test_a_killed_worker_changes_nothing(tmp_path: Path, clips: list[Clip], weights: str, quiet: Path) -> None:
    choice = EngineChoice("tests.faults.test_killed_sta:TroubledSta", {"path": weights, **OPTIONS})
    job = planned_job(tmp_path / "out", clips, choice)
    make_trouble(clips[1], "kill once")

    summary = run_job(replace(job, actors=2))
    end_trouble(clips[1])

    assert summary.dead_letters == {}
    assert files_of(tmp_path / "out") == files_of(quiet)


def test_a_killed_driver_is_resumed_by_the_same_command(
    tmp_path: Path, clips: list[Clip], weights: str, quiet: Path
) -> None:
    choice = EngineChoice("tests.faults.test_killed_sta:TroubledSta", {"path": weights, **OPTIONS})
    job = planned_job(tmp_path / "out", clips, choice)
    words = ["label", job.manifest, "--out", job.out, "--engine", choice.name]
    words += [word for name, value in choice.options.items() for word in ("--option", f"{name}={value}")]
    let_pass(clips, 1)
    command = [*RAYVOS, *words, "--actors", "1", "--address", shared_address()]

    driver = subprocess.Popen(command, env=worker_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not RunFolder(job.out).committed():
        assert driver.poll() is None, "the driver ended before a unit was committed"
        assert time.monotonic() < deadline, "no committed unit"
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    found = files_of(tmp_path / "out")
    end_trouble(*clips)
    run_job(job)

    assert len(found) == 1
    assert files_of(tmp_path / "out") == files_of(quiet)
