"""Samples made ahead in processes, in order, so that the network need not wait for decoding and augmentation.

Every process has its own copy of the task and makes whole pieces of a step; pieces come back in order, so the batches
do not depend on the number of processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rayvos.errors import RayvosError, RunError
from rayvos.training.sharing import Share
from rayvos.training.task import Batch, Optimisation, TrainingTask

__all__ = ["BatchLoader"]

PIECES_AHEAD = 2  # per process: one being made, one waiting


class BatchLoader:
    """Gives the batches of step after step; use as a context manager.

    Args:
        task: makes samples.
        optimisation: states the batch size and the last step.
        share: which pieces of a step this worker takes.
        first_step: finished steps.
        processes: that make samples ahead; 0 makes them when they are asked for.
    """

    def __init__(
        self, task: TrainingTask, optimisation: Optimisation, share: Share, *, first_step: int = 0, processes: int = 0
    ) -> None:
        share.check(optimisation.batch_size)
        self.waiting_s = 0.0
        """Seconds that steps waited for samples."""
        self._num_pieces = share.accumulate
        ahead: dict[str, Any] = {}
        if processes:
            # Not fork: a child of a process with threads (torch, Ray) may hang on a lock nobody holds.
            ahead = {"multiprocessing_context": "spawn", "prefetch_factor": PIECES_AHEAD, "worker_init_fn": _begin}
        self._loader = DataLoader(
            _Pieces(task),
            batch_size=None,
            sampler=_PieceOrder(optimisation, share, first_step),
            num_workers=processes,
            **ahead,
        )
        self._batches: Iterator[Any] | None = None

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        self._batches = None

    def next_step(self) -> list[Batch]:
        """Return the pieces of the next step.

        Raises:
            InputError: the data cannot give a sample.
            RunError: a process that makes samples died.
        """
        start = time.monotonic()
        if self._batches is None:
            self._batches = iter(self._loader)
        try:
            found = [next(self._batches) for _ in range(self._num_pieces)]
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise RunError(f"training: a process that makes samples died ({error}); is there enough memory?") from error
        self.waiting_s += time.monotonic() - start
        for batch in found:
            if isinstance(batch, RayvosError):
                raise batch
        return found


class _PieceOrder:
    """The sample indices of this worker's pieces, step after step."""

    def __init__(self, optimisation: Optimisation, share: Share, first_step: int) -> None:
        self._optimisation, self._share, self._first_step = optimisation, share, first_step

    def __iter__(self) -> Iterator[range]:
        for step in range(self._first_step, self._optimisation.steps):
            yield from self._share.pieces(step, self._optimisation.batch_size)


class _Pieces(Dataset[Any]):
    """Pieces by their sample indices; an error of the data is a value, so that it keeps its class and its message."""

    def __init__(self, task: TrainingTask) -> None:
        self._task = task

    def __getitem__(self, indices: range) -> Batch | RayvosError:
        try:
            return self._task.collate([self._task.sample(index) for index in indices])
        except RayvosError as error:
            return error


def _begin(_: int) -> None:
    """Prepare a process: as many work side by side as there are cores."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
