"""Scoring on a Ray cluster: the same workers as in local processes, one actor per CPU.

    with connected("auto"):
        evaluate(truth, prediction, Davis2017(), run=run_on_ray())

An actor holds the worker (listings, open archives and manifests); task ids go in and scores come out, never pixels.
Truth and prediction must lie where every machine reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from rayvos.errors import RayvosError, RunError
from rayvos.evaluation.tasks import TaskMap, keep_freed_memory

__all__ = ["run_on_ray"]

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_IN_FLIGHT = 2  # per actor: the next one waits there while the result of the last one travels
RETRIES = 3  # of a task whose machine was lost


class _Scorer:
    """Applies one worker to tasks; lives on one CPU."""

    def __init__(self, worker: Callable[[Any], Any]) -> None:
        import cv2

        cv2.setNumThreads(1)
        keep_freed_memory()
        self._worker = worker

    def work(self, task: Any) -> Any:
        return self._worker(task)


def run_on_ray(num_actors: int | None = None) -> TaskMap:
    """Return a map over actors of the cluster that this process is connected to.

    Args:
        num_actors: at most so many; None is one per CPU of the cluster, less the one that stays free so that an actor
            of a lost machine can start again.
    """

    def run(worker: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        count = max(1, min(len(tasks), num_actors if num_actors is not None else cpus - 1))
        shared = ray.put(worker)
        actor_class = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(_Scorer)
        actors: list[Any] = [actor_class.remote(shared) for _ in range(count)]
        waiting = iter(enumerate(tasks))
        running: dict[Any, tuple[int, Any]] = {}

        def submit(actor: Any) -> None:
            found = next(waiting, None)
            if found is not None:
                running[actor.work.remote(found[1])] = found[0], actor

        try:
            for _ in range(TASKS_IN_FLIGHT):
                for actor in actors:
                    submit(actor)
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                position, actor = running.pop(done)
                result = _result(done)
                submit(actor)
                yield position, result
        finally:
            for actor in actors:
                ray.kill(actor)

    return run


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, RayvosError):
            raise error.cause from error
        raise
    except RayActorError as error:
        raise RunError(
            f"scoring on Ray: an actor died {RETRIES + 1} times on one task: {error}; look at the machine's memory"
        ) from error
