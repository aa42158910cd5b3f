"""Units that take far longer than planned at the end of a run, while other actors are idle, are given out again.

The policy: once fewer units are left than the actors can take at a time, so that some of them are idle, a unit is late
when no unit has ended for three times what is planned for it (at the pace of the run so far), and for a minute at
least. A late unit, be it in work or queued behind one that is, is given to one new actor beside the pool, once. Whoever
commits first has done it; the other one notices that the file is there and ends its process, so that the run does not
wait for it. Long clips are not cut anew: cuts decide file names, and the run's bytes would depend on luck.

Why so: most stragglers are slow machines, not slow clips; a clip is planned into pieces of about a minute before the
run. Before the end nothing is gained by doing a unit twice: an idle actor takes the next one instead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from rayvos import storage
from rayvos.annotations.run_folder import Unit
from rayvos.errors import StorageError
from rayvos.pipelines.attempts import WorkerNote
from rayvos.pipelines.cluster import ActorPool
from rayvos.pipelines.guards import die
from rayvos.pipelines.receipts import Receipt, unit_to_row

__all__ = ["LATE_S", "Rescue", "late_after", "rescuing", "watching_for"]

logger = logging.getLogger(__name__)

LATE_S = 60.0
TIMES_PLANNED = 3.0
LOOK_S = 5.0


def late_after(cost_s: float, pace: float, late_s: float) -> float:
    """Return the seconds in work after which a unit is late.

    Args:
        cost_s: what is planned.
        pace: seconds that the run takes for a planned second.
        late_s: at least so many.
    """
    return max(late_s, TIMES_PLANNED * cost_s * max(1.0, pace))


@contextmanager
def watching_for(path: str, note: WorkerNote, after_s: float) -> Iterator[None]:
    """End the process if the file that the block is to make is made by somebody else, from `after_s` on."""
    over = threading.Event()

    def watch() -> None:
        wait_s = after_s
        while not over.wait(wait_s):
            wait_s = LOOK_S
            with suppress(StorageError):  # the block meets it, too, and says so
                if storage.exists(path) and not over.is_set():
                    die(note, None, "another worker was faster")

    thread = threading.Thread(target=watch, name="rayvos-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


class Rescue:
    """Sees receipts come in, and gives out again what is late at the end.

    Args:
        todo: the run's units.
        pool: the actors that work on them.
        worker: class of the actor that does a unit again.
        settings: of the run's actors (`WorkerSettings`).
        in_flight: units that an actor can have at a time, queued ones included.
    """

    def __init__(
        self, todo: Sequence[Unit], pool: ActorPool, worker: type[Any], settings: Any, in_flight: int = 1
    ) -> None:
        self._left = {unit.unit_id: unit for unit in todo}
        self._pool = pool
        self._worker = worker
        self._settings = settings
        self._planned_s = self._busy_s = 0.0
        self._room = pool.num_actors * in_flight
        self._quiet_since: float | None = None
        self._actors: dict[str, Any] = {}
        self._lock = threading.Lock()

    def done(self, receipt: Receipt) -> None:
        """Count a receipt."""
        with self._lock:
            self._quiet_since = None
            unit = self._left.pop(receipt.unit_id, None)
            if unit is not None and receipt.seconds > 0:
                self._planned_s += unit.cost_s
                self._busy_s += receipt.seconds
            self._dismiss(receipt.unit_id)

    def late(self, now: float) -> list[Unit]:
        """Return the units that are late and were not given out again."""
        with self._lock:
            if not self._left or len(self._left) >= self._room:
                return []
            if self._quiet_since is None:
                self._quiet_since = now
            pace = self._busy_s / self._planned_s if self._planned_s else 1.0
            waited_s = now - self._quiet_since
            return [
                unit
                for unit in self._left.values()
                if unit.unit_id not in self._actors and waited_s > late_after(unit.cost_s, pace, self._settings.late_s)
            ]

    def give_out(self, unit: Unit) -> None:
        """Have a new actor do a unit that another one has in work."""
        import ray

        # The one in work counts as an attempt of which nothing is known; it shall not make the unit a dead letter.
        settings = replace(self._settings, max_attempts=self._settings.max_attempts + 1)
        actor_class = ray.remote(num_cpus=self._pool.num_cpus, num_gpus=self._pool.num_gpus)(self._worker)
        logger.warning("unit=%s is late and given out again", unit.unit_id)
        with self._lock:
            actor = self._actors[unit.unit_id] = actor_class.remote(settings)
        actor.do_row.remote(unit_to_row(unit)["unit"])

    def end(self) -> None:
        """Dismiss the actors that are still at work."""
        with self._lock:
            for unit_id in list(self._actors):
                self._dismiss(unit_id)

    def _dismiss(self, unit_id: str) -> None:
        actor = self._actors.get(unit_id)
        if actor is not None:
            import ray

            with suppress(Exception):  # it ended by itself, or the connection did
                ray.kill(actor)


@contextmanager
def rescuing(
    todo: Sequence[Unit], pool: ActorPool, worker: type[Any], settings: Any, in_flight: int
) -> Iterator[Rescue]:
    """Have late units given out again inside the block; tell the rescue of each receipt."""
    rescue, over = Rescue(todo, pool, worker, settings, in_flight), threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_S):
            for unit in rescue.late(time.monotonic()):
                rescue.give_out(unit)

    thread = threading.Thread(target=watch, name="rayvos-rescue", daemon=True)
    thread.start()
    try:
        yield rescue
    finally:
        over.set()
        thread.join(2 * LOOK_S)
        rescue.end()
