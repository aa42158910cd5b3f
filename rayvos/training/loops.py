"""The same training run on Ray Train: two workers on a laptop's CPU (gloo) or many GPUs (nccl), by the same call.

Every worker runs `runs.train_run` with its share of each step. A worker that dies takes its group with it; the group is
started again and goes on from the last checkpoint. If the driver dies, the same call goes on as well. A wrong option,
unreadable data or a loss that is not finite is no crash: all workers agree on the error, return it, and nothing is
tried again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from rayvos import storage
from rayvos.errors import RayvosError, RunError
from rayvos.training.progress_notes import NoteBoard, RunNote
from rayvos.training.registry import TrainingPlan
from rayvos.training.runs import RunSettings, TrainingSummary, claim_folder, train_run
from rayvos.training.sample_actors import pieces_from_actors
from rayvos.training.sharing import Share
from rayvos.training.worker_group import WorkerGroup

__all__ = ["train_on_ray"]

logger = logging.getLogger(__name__)

SECONDS_PER_NOTE = 0.5  # often enough for a live bar
# Ray gives a group of workers 60 s to start; importing torch on a machine that does other work takes longer.
PATIENCE = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600"}


def train_on_ray(
    plan: TrainingPlan,
    settings: RunSettings,
    group: WorkerGroup,
    *,
    max_failures: int = 8,
    watch: Callable[[RunNote], None] | None = None,
) -> TrainingSummary:
    """Train to the end on the cluster this process is connected to.

    Args:
        plan: what is trained, and how.
        settings: how it is carried out; the folder must be one that all machines reach.
        group: the workers.
        max_failures: deaths of workers after which the run gives up.
        watch: called about twice a second with the state of the run, in another thread.

    Raises:
        RayvosError: as `runs.train_run` does.
        RunError: workers died too often; the same call goes on from the last checkpoint.
    """
    settings = replace(settings, out=storage.absolute(settings.out))  # workers have working directories of their own
    Share(size=group.num_workers, accumulate=settings.accumulate).check(plan.optimisation.batch_size)
    claim_folder(plan, settings)
    storage.remove(storage.join(settings.out, "ray"))  # what a killed driver left
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    board = ray.remote(num_cpus=0)(NoteBoard).remote()
    work: Any = _work  # Ray states that it returns nothing, and hands on what it returns
    trainer = TorchTrainer(
        work,
        train_loop_config={"plan": plan, "settings": settings, "group": group, "board": board},
        scaling_config=ScalingConfig(
            num_workers=group.num_workers, use_gpu=group.use_gpu, resources_per_worker=_resources(group)
        ),
        run_config=_run_config(settings.out, max_failures),
    )
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, watch, finished), daemon=True)
    watcher.start()
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        raise RunError(
            f"training {settings.out}: its workers died more than {max_failures} times, last of: {_first_line(error)}; "
            "the same command goes on from the last checkpoint"
        ) from error
    finally:
        finished.set()
        watcher.join()
        storage.remove(storage.join(settings.out, "ray"))
    found = result.return_value
    if isinstance(found, RayvosError):
        raise found
    assert isinstance(found, TrainingSummary)
    return found


def _resources(group: WorkerGroup) -> dict[str, float]:
    return {"CPU": float(group.num_cpus), **({"GPU": 1.0} if group.use_gpu else {})}


def _run_config(out: str, max_failures: int) -> RunConfig:
    """Return Ray's own settings; it keeps some small files of no use to us in `OUT/ray` while the run goes on."""
    filesystem, inner = storage.filesystem(storage.join(out, "ray"))
    return RunConfig(
        name="train",
        storage_path=inner,
        storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
        failure_config=FailureConfig(max_failures=max_failures),
    )


def _first_line(error: TrainingFailedError) -> str:
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1] if str(first).strip() else type(first).__name__


def _work(config: dict[str, Any]) -> TrainingSummary | RayvosError:
    """Train as one worker; runs in a process of Ray Train."""
    plan, settings, group, board = (config[name] for name in ("plan", "settings", "group", "board"))
    torch.set_num_threads(group.num_threads(settings.processes))
    context = ray.train.get_context()
    share = Share(rank=context.get_world_rank(), size=context.get_world_size())
    last_note = 0.0

    def post(note: RunNote) -> None:
        nonlocal last_note
        if time.monotonic() - last_note >= SECONDS_PER_NOTE or note.step == note.steps:
            last_note = time.monotonic()
            board.post.remote(note)

    device = str(ray.train.torch.get_device()) if group.use_gpu else "cpu"
    source = partial(pieces_from_actors, num_actors=group.sample_actors) if group.sample_actors else None
    try:
        return train_run(plan, replace(settings, device=device), share=share, source=source, watch=post)
    except RayvosError as error:
        logger.error("training error=%s", error)
        return error


def _watch(board: Any, watch: Callable[[RunNote], None] | None, finished: threading.Event) -> None:
    """Pass on what the board says until the run has ended."""
    seen: RunNote | None = None
    while not finished.wait(SECONDS_PER_NOTE):
        try:
            note = ray.get(board.read.remote(), timeout=10)
        except ray.exceptions.RayError as error:
            logger.info("board error=%s", error)
            continue
        if note is not None and note != seen and watch is not None:
            watch(note)
            seen = note
