"""Samples made ahead, in order, so that the network need not wait for decoding and augmentation.

Who makes them has its own copy of the task and makes whole pieces of a step: processes on this machine, or whatever a
`PieceSource` starts (`sample_actors`). Pieces come back in order, so batches do not depend on who made them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rayvos.errors import RayvosError, RunError
from rayvos.training.sharing import Share
from rayvos.training.task import Batch, Optimisation, TrainingTask

__all__ = ["PIECES_AHEAD", "BatchLoader", "PieceSource", "Pieces", "make_piece", "prepare_process"]

PIECES_AHEAD = 2  # per process or actor: one being made, one waiting

Pieces = Generator[Batch | RayvosError, None, None]
"""Pieces in order, an error of the data in place of a piece; `close` ends whatever makes them."""

PieceSource = Callable[[TrainingTask, Iterable[range]], Pieces]
"""Starts to make the pieces of these sample indices."""


class BatchLoader:
    """Gives the batches of step after step; use as a context manager.

    Args:
        task: makes samples.
        optimisation: states the batch size and the last step.
        share: which pieces of a step this worker takes.
        first_step: finished steps.
        processes: that make samples ahead; 0 makes them when they are asked for.
        source: makes the pieces in place of processes.
    """

    def __init__(
        self,
        task: TrainingTask,
        optimisation: Optimisation,
        share: Share,
        *,
        first_step: int = 0,
        processes: int = 0,
        source: PieceSource | None = None,
    ) -> None:
        share.check(optimisation.batch_size)
        self.waiting_s = 0.0
        """Seconds that steps waited for samples."""
        self._num_pieces = share.accumulate
        order = _PieceOrder(optimisation, share, first_step)
        self._pieces = _from_processes(task, order, processes) if source is None else source(task, order)

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End whatever makes samples."""
        self._pieces.close()

    def next_step(self) -> list[Batch]:
        """Return the pieces of the next step.

        Raises:
            InputError: the data cannot give a sample.
            RunError: whatever makes samples died.
        """
        start = time.monotonic()
        found = [next(self._pieces) for _ in range(self._num_pieces)]
        self.waiting_s += time.monotonic() - start
        batches = []
        for piece in found:
            if isinstance(piece, RayvosError):
                raise piece
            batches.append(piece)
        return batches


class _PieceOrder:
    """The sample indices of this worker's pieces, step after step."""

    def __init__(self, optimisation: Optimisation, share: Share, first_step: int) -> None:
        self._optimisation, self._share, self._first_step = optimisation, share, first_step

    def __iter__(self) -> Iterator[range]:
        for step in range(self._first_step, self._optimisation.steps):
            yield from self._share.pieces(step, self._optimisation.batch_size)


def make_piece(task: TrainingTask, indices: range) -> Batch | RayvosError:
    """Return the piece of these samples; an error of the data is a value, so that it keeps its class and message."""
    try:
        return task.collate([task.sample(index) for index in indices])
    except RayvosError as error:
        return error


def prepare_process() -> None:
    """Prepare a process that makes samples: as many work side by side as there are cores."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _from_processes(task: TrainingTask, order: Iterable[range], processes: int) -> Pieces:
    """Make pieces in processes of this machine; see `PieceSource`.

    Raises:
        RunError: a process died.
    """
    ahead: dict[str, Any] = {}
    if processes:
        # Not fork: a child of a process with threads (torch, Ray) may hang on a lock nobody holds.
        ahead = {"multiprocessing_context": "spawn", "prefetch_factor": PIECES_AHEAD, "worker_init_fn": _begin}
    try:
        yield from DataLoader(_PieceSet(task), batch_size=None, sampler=order, num_workers=processes, **ahead)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(f"training: a process that makes samples died ({error}); is there enough memory?") from error


class _PieceSet(Dataset[Any]):
    """Pieces by their sample indices."""

    def __init__(self, task: TrainingTask) -> None:
        self._task = task

    def __getitem__(self, indices: range) -> Batch | RayvosError:
        return make_piece(self._task, indices)


def _begin(_: int) -> None:
    prepare_process()
