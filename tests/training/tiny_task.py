"""A task that trains in milliseconds: a small network tells the colour of noisy patches."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rayvos.engines.options import fill_options
from rayvos.errors import InputError
from rayvos.training.registry import TrainingPlan, TrainingRequest
from rayvos.training.task import LossResult, Optimisation

__all__ = ["TinyBatch", "TinyTask", "makers_in", "plan_tiny", "tiny_optimisation", "wait_until_gone"]


def die(marker: str | None = None) -> None:
    """Kill this process, unless the marker says that one has died; the marker says so from then on."""
    with contextlib.suppress(FileExistsError):
        if marker is not None:
            Path(marker).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class TinyBatch:
    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> TinyBatch:
        return TinyBatch(self.inputs.to(device), self.targets.to(device))


@dataclass
class TinyTask:
    """Learns which of three directions a noisy vector points to; has dropout and a batch norm, as real networks do."""

    architecture: str = "tiny"
    seed: int = 0
    poisoned: frozenset[int] = frozenset()
    """Samples that hold NaN."""
    unreadable: frozenset[int] = frozenset()
    """Samples that the data cannot give."""
    dropout: float = 0.3
    frozen_norm: bool = False
    fatal: str = ""
    """`STEP FILE`: after so many steps one worker kills itself, and leaves the file so that it does so once."""
    fatal_sample: str = ""
    """`INDEX FILE`: the process that makes this sample kills itself, and leaves the file so that it does so once;
    without FILE always."""
    makers: str = ""
    """Folder where processes that make samples leave a file named by their id."""

    def options(self) -> Mapping[str, Any]:
        return {"seed": self.seed, "dropout": self.dropout}

    def model_config(self) -> Mapping[str, Any]:
        return {"width": 16}

    def build(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(16, 3)
        )

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        first, *_, last = model.children()
        return [{"params": list(first.parameters())}, {"params": list(last.parameters()), "lr_factor": 2.0}]

    def sample(self, index: int) -> tuple[np.ndarray, int]:
        if index in self.unreadable:
            raise InputError(f"clip 'c{index}': no such frame")
        if self.makers:
            (Path(self.makers) / str(os.getpid())).touch()
        if self.fatal_sample and index == int(self.fatal_sample.split()[0]):
            die(*self.fatal_sample.split()[1:])
        rng = np.random.default_rng([self.seed, index])
        target = int(rng.integers(3))
        values = rng.normal(size=8).astype(np.float32)
        values[target] += 3
        if index in self.poisoned:
            values[0] = np.nan
        return values, target

    def collate(self, samples: Sequence[tuple[np.ndarray, int]]) -> TinyBatch:
        return TinyBatch(
            torch.from_numpy(np.stack([values for values, _ in samples])),
            torch.tensor([target for _, target in samples]),
        )

    def loss(self, model: nn.Module, batch: TinyBatch, step: int) -> LossResult:
        if self.fatal and step == int(self.fatal.split()[0]):
            die(self.fatal.split()[1])
        if self.frozen_norm:
            model[1].eval()
        logits = model(batch.inputs)
        right = (logits.argmax(1) == batch.targets).float().mean()
        return LossResult(nn.functional.cross_entropy(logits, batch.targets), {"right": float(right)})

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        batch = self.collate([self.sample(10**6 + index) for index in range(64)])
        return {"right": float((model(batch.inputs).argmax(1) == batch.targets).float().mean())}


def tiny_optimisation(**changes: Any) -> Optimisation:
    return Optimisation(
        **{"steps": 12, "batch_size": 8, "learning_rate": 0.01, "warmup_steps": 2, "ema_decay": 0.9, **changes}
    )


def plan_tiny(request: TrainingRequest) -> TrainingPlan:
    """Plan the task for `rayvos train tests.training.tiny_task:plan_tiny`; options are fields of `TinyTask`."""
    task = fill_options(TinyTask, {"seed": request.seed, **request.options}, kind="option of task 'tiny'")
    return TrainingPlan(task=task, optimisation=request.optimisation(tiny_optimisation()))


def makers_in(folder: Path) -> set[int]:
    """Return the ids of the processes that made samples; the folder is the task's `makers`."""
    return {int(path.name) for path in folder.iterdir()}


def wait_until_gone(pids: set[int]) -> None:
    """Wait until no process has these ids.

    Raises:
        AssertionError: one has after two minutes.
    """
    deadline = time.monotonic() + 120
    while left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, f"still there after 120 s: {left}"
        time.sleep(0.05)
