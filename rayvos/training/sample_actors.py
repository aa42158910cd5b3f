"""Samples made by Ray actors anywhere in the cluster, in order: machines of CPUs feed a GPU whose machine has few.

Each training worker has actors of its own. It hands them the pieces of its steps, to each at most one to make and one
to make next, and takes them back in order; so batches depend neither on the number of actors nor on who was faster,
and no more than `PIECES_AHEAD` pieces per actor lie about. An actor that is lost costs its pieces being made again by
the others; it comes back where there is room. Actors end with the process that started them, however that ends.

Why so, and not by Ray Data (2.60, seen with a data set per worker, `preserve_order` and a block per piece): a sample
that crashes its process is tried for ever; when a machine was lost that no other could replace, no piece came for the
90 s that we waited, though one of two actors was left; and its executor takes 15 ms of the trainer's CPU per piece, 13
times as much as here, and 36 s at every start to plan 30,000 pieces. `streaming_split` gives samples to whoever is
free, so that weights would depend on timing.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rayvos.errors import RayvosError, RunError
from rayvos.training.loading import PIECES_AHEAD, Pieces, make_piece, prepare_process
from rayvos.training.task import Batch, TrainingTask

__all__ = ["pieces_from_actors"]

logger = logging.getLogger(__name__)

START_PATIENCE_S = 600.0  # a cluster that adds machines by itself takes minutes
MOST_LOSSES = 3  # of the same piece: then its samples, not the machines, are to blame


def pieces_from_actors(task: TrainingTask, order: Iterable[range], *, num_actors: int) -> Pieces:
    """Make pieces by actors of one CPU each; see `loading.PieceSource`.

    Args:
        task: makes samples.
        order: the sample indices of the pieces.
        num_actors: how many; work begins with the first that has started.

    Raises:
        RunError: no actor could start, or samples took their actor with them again and again.
    """
    crew = _Crew(task, num_actors)
    try:
        yield from crew.make(order)
    finally:
        crew.end()


@dataclass(eq=False, slots=True)
class _Piece:
    """Samples on their way."""

    indices: range
    made: Future[Batch | RayvosError] | None = None
    """None: nobody makes it."""
    actor: Any = None
    turn: int = 0
    """When it was handed out; an actor makes what it has in this order."""
    losses: int = 0

    @property
    def pending(self) -> bool:
        """Whether an actor has it."""
        return self.made is not None and not self.made.done()


class _SampleMaker:
    """An actor."""

    def __init__(self, task: TrainingTask) -> None:
        prepare_process()
        self._task = task

    @ray.method(max_task_retries=-1)
    def ready(self) -> None:
        """Answer, now or after a restart."""

    def make(self, first: int, end: int) -> Batch | RayvosError:
        """Return the piece of the samples first … end − 1."""
        return make_piece(self._task, range(first, end))


class _Crew:
    """The actors of one training worker; those that have not started get nothing to do."""

    def __init__(self, task: TrainingTask, num_actors: int) -> None:
        # Never more than one try of a call: what a lost actor had goes to another one. SPREAD: not all beside the GPU.
        maker: Any = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD")(
            _SampleMaker
        )
        self._actors = [maker.remote(task) for _ in range(num_actors)]
        self._starting: dict[Future[Any], Any] = {actor.ready.remote().future(): actor for actor in self._actors}
        self._turns = itertools.count()

    def end(self) -> None:
        """End the actors."""
        for actor in self._actors:
            ray.kill(actor)

    def make(self, order: Iterable[range]) -> Pieces:
        """Give the pieces in order."""
        left = map(_Piece, order)
        ahead = deque(itertools.islice(left, PIECES_AHEAD * len(self._actors)))
        while ahead:
            self._welcome()
            self._take_back(ahead)
            self._hand_out(ahead)
            first = ahead[0].made
            if first is None or not first.done():
                self._wait(ahead)
            elif _loss(first) is None:
                ahead.popleft()
                ahead.extend(itertools.islice(left, 1))
                self._hand_out(ahead)  # before the trainer computes, so that actors work meanwhile
                yield first.result()

    def _welcome(self) -> None:
        """Take note of the actors that have started."""
        for started in [future for future in self._starting if future.done()]:
            del self._starting[started]
            if (error := started.exception()) is not None:
                raise RunError(
                    f"training: an actor that makes samples could not start ({_last_line(error)}); "
                    "does its machine have the task's packages?"
                ) from error

    def _take_back(self, ahead: Iterable[_Piece]) -> None:
        """Take back what lost actors had, and wait for them to come back."""
        lost = [piece for piece in ahead if piece.made is not None and piece.made.done() and _loss(piece.made)]
        for piece in sorted(lost, key=lambda piece: piece.turn):
            assert piece.made is not None
            if piece.actor not in self._starting.values():  # so this is what it was making
                piece.losses += 1
                logger.info("sample actor lost samples=%s losses=%d", _named(piece), piece.losses)
                self._starting[piece.actor.ready.remote().future()] = piece.actor
            if piece.losses >= MOST_LOSSES:
                raise RunError(
                    f"training: samples {_named(piece)} were lost {piece.losses} times with the actor that made them "
                    f"({_last_line(_loss(piece.made))}); look at these samples, and at the memory of its machine"
                )
            piece.made = None

    def _hand_out(self, ahead: Iterable[_Piece]) -> None:
        """Give pieces that nobody makes to the actors that have the least to do."""
        away = set(self._starting.values())
        load = {actor: 0 for actor in self._actors if actor not in away}
        for piece in ahead:
            if piece.pending and piece.actor in load:
                load[piece.actor] += 1
        for piece in ahead:
            if piece.made is None and load:
                actor = min(load, key=lambda actor: load[actor])
                if load[actor] == PIECES_AHEAD:
                    return
                load[actor] += 1
                piece.actor, piece.turn = actor, next(self._turns)
                piece.made = actor.make.remote(piece.indices.start, piece.indices.stop).future()

    def _wait(self, ahead: Iterable[_Piece]) -> None:
        """Wait until a piece is made or lost, or an actor has started."""
        pending = [piece.made for piece in ahead if piece.made is not None and not piece.made.done()]
        done, _ = wait([*pending, *self._starting], timeout=START_PATIENCE_S, return_when=FIRST_COMPLETED)
        if not done and not pending:
            raise RunError(
                f"training: no actor that makes samples started within {START_PATIENCE_S:.0f} s; are CPUs free? "
                "wait for other jobs, add machines, or leave out --sample-actors"
            )


def _loss(made: Future[Any]) -> BaseException | None:
    """Return why a piece was lost; None where it was made, or its samples failed by an error of the task."""
    error = made.exception()
    return error if isinstance(error, RayError) and not isinstance(error, RayTaskError) else None


def _named(piece: _Piece) -> str:
    return f"{piece.indices.start}–{piece.indices.stop - 1}"


def _last_line(error: BaseException | None) -> str:
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)
