"""Runs one function over many small tasks: here, in local processes, or wherever a caller's own map runs them."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np

from rayvos.errors import RunError, UsageError

__all__ = ["TaskMap", "keep_freed_memory", "run_here", "run_in_processes"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class TaskMap(Protocol):
    """Applies a worker to tasks, in any order, anywhere."""

    def __call__(self, worker: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Yield (position of the task, result) as results come in; what a worker raises is raised here.

        Args:
            worker: survives pickling; is sent to each process once, since it may hold long listings.
            tasks: small things that survive pickling; the longest first balances best.
        """
        ...


def run_here(worker: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
    """Apply the worker in this process, in order."""
    keep_freed_memory()
    for position, task in enumerate(tasks):
        yield position, worker(task)


def run_in_processes(num_workers: int) -> TaskMap:
    """Return a map over local processes, each on one core.

    Processes are spawned, not forked: forking a process that has threads (OpenCV, Arrow) can hang.

    Raises:
        UsageError: fewer than one worker.
    """
    if num_workers < 1:
        raise UsageError(f"workers: expected at least 1, found {num_workers}")

    def run(worker: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            min(num_workers, max(1, len(tasks))), context, initializer=_start, initargs=(pickle.dumps(worker),)
        )
        try:
            futures = {pool.submit(_work, task): position for position, task in enumerate(tasks)}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "workers: a process ended without an answer, most likely out of memory; use fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return run if num_workers > 1 else run_here


_worker: list[Callable[[Any], Any]] = []  # of this process: a pool has no other place for what all its tasks share


def keep_freed_memory() -> None:
    """Make the allocator keep up to 62 MB of freed memory instead of returning it to the system each time.

    Scoring allocates and frees some ten buffers of an image's size per frame. glibc maps and unmaps each of them anew,
    at 160 page faults a frame of 480x854 and a seventh of the CPU time, until a block as large as this was freed once.
    Other allocators are not affected.
    """
    block = np.empty(31 << 20, np.uint8)  # glibc's limit for the threshold is 32 MB; the pages are never touched
    del block


def _start(pickled: bytes) -> None:
    cv2.setNumThreads(1)
    keep_freed_memory()
    _worker[:] = [pickle.loads(pickled)]


def _work(task: Any) -> Any:
    return _worker[0](task)
