"""Marks that outlive a killed worker, so that a clip which kills its process is found and set aside.

Ray restarts a dead actor and gives it the same unit again, for ever. So a worker leaves a mark in the run folder
before it starts a unit (`OUT/attempts/<unit_id>/`), and removes the marks after the commit. A worker that finds marks
of others is in *suspect mode*: it also leaves a mark for each piece before touching it, takes it away when the piece
was survived, decodes nothing ahead, and starts with the piece that has most marks. A piece that kills its process
thus collects marks until it is *condemned*: it becomes a dead letter without being touched, beside its labelled
neighbours in the same file.

A piece is condemned after `max_attempts` deaths, at least one of them in this session (one start of the driver):
somebody who stops and resumes a job thrice while the same long clip is in work does not lose that clip.

Why so: marks of pieces in every unit would cost two requests to storage per clip in the quiet case, which is nearly
every case. Splitting a unit that died would change file names with luck, and the run's bytes with it.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rayvos import storage
from rayvos.annotations.run_folder import RunFolder
from rayvos.errors import MissingPathError, RunError, StorageError

__all__ = ["AttemptMarks", "History", "WorkerNote", "starting", "starts_folder"]

logger = logging.getLogger(__name__)

UNIT = "unit"
NOTE_PREFIX = "rayvos-note-"
OLD_NOTE_S = 2 * 24 * 3600.0  # no clip is in work for so long
TIMEOUT_WORDS = "Timeout ("  # how faulthandler's watchdog begins


class WorkerNote:
    """A local file in which a dying worker leaves what it was doing; `faulthandler` writes its traceback into it.

    One per process. The first line is the index of the piece in work (empty between pieces). The file survives any
    kind of death of its process, and is read by the restarted worker on the same machine.
    """

    def __init__(self) -> None:
        _sweep_notes()
        handle, path = tempfile.mkstemp(prefix=NOTE_PREFIX, suffix=".txt")
        self.name = Path(path).name
        # Unbuffered: nothing of it may be lost with the process.
        self.file: IO[bytes] = open(handle, "wb", buffering=0)  # noqa: SIM115, PTH123
        atexit.register(_remove_note, self.name)

    def begin(self, piece: int | None) -> None:
        """State which piece is in work from now on."""
        self.file.seek(0)
        self.file.truncate()
        self.file.write(f"{'' if piece is None else piece}\n".encode())

    def write(self, text: str) -> None:
        """Add text, such as the traceback of an error that ends the process."""
        self.file.write(text.encode())


def _note_path(name: str) -> Path | None:
    """Return where a note of this machine lies; None for a name that is none, since marks can be written by others."""
    if "/" in name or not name.startswith(NOTE_PREFIX):
        return None
    return Path(tempfile.gettempdir()) / name


def _sweep_notes() -> None:
    """Remove notes of workers that were ended from outside and whose unit nobody took up again."""
    for path in Path(tempfile.gettempdir()).glob(f"{NOTE_PREFIX}*"):
        with suppress(OSError):  # another user's, or another worker was faster
            if time.time() - path.stat().st_mtime > OLD_NOTE_S:
                path.unlink()


def _remove_note(name: str) -> None:
    path = _note_path(name)
    if path is not None:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class History:
    """What earlier workers left of one unit."""

    begun_here: int = 0
    """Workers of this session that began the unit and did not end it."""
    deaths: Counter[int] = field(default_factory=Counter)
    """By piece: workers that died while the piece was in work."""
    deaths_here: Counter[int] = field(default_factory=Counter)
    """The same, in this session only."""
    last_words: dict[int, str] = field(default_factory=dict)
    """By piece: the traceback that one of them left, where one is known."""
    any_marks: bool = False

    def condemned(self, piece: int, max_attempts: int) -> bool:
        """Tell whether a piece has killed too many workers to be tried again."""
        return self.deaths[piece] >= max_attempts and self.deaths_here[piece] > 0

    def suspects_first(self, num_pieces: int) -> list[int]:
        """Return the pieces, those with most deaths first: what kills does so before others' work is done again."""
        return sorted(range(num_pieces), key=lambda piece: (-self.deaths[piece], piece))

    @property
    def deaths_between(self) -> int:
        """Workers of this session that died while no marked piece was in work."""
        return self.begun_here - sum(self.deaths_here.values())


class AttemptMarks:
    """The marks of one unit, as one worker reads and leaves them.

    A mark's name is `<unit or piece>.<session>.<attempt>`. Every method but `clear` raises StorageError where the
    run folder does not answer.
    """

    def __init__(self, run: RunFolder, unit_id: str, session: str, note: WorkerNote) -> None:
        self._folder = run.attempts_folder(unit_id)
        self._session = session
        self._note = note
        self._attempt = uuid.uuid4().hex
        self._notes_of_dead: list[str] = []

    def begin(self) -> History:
        """Return what earlier workers left, and leave the mark that this one began."""
        history = self._read(storage.list_folder(self._folder))
        self._leave(UNIT)
        return history

    def touch(self, piece: int) -> str:
        """Leave the mark that a piece is in work; returns the mark's path."""
        return self._leave(str(piece))

    def survived(self, mark: str) -> None:
        """Take a piece's mark away."""
        storage.remove(mark)

    def clear(self) -> None:
        """Remove all marks of the unit, others' included; what cannot be removed is left."""
        for name in self._notes_of_dead:
            _remove_note(name)
        try:
            storage.remove(self._folder)
        except (StorageError, OSError):  # the unit is committed: a leftover mark is litter, not a failure
            logger.warning("attempts folder=%s could not be removed", self._folder, exc_info=True)

    def _leave(self, kind: str) -> str:
        path = storage.join(self._folder, f"{kind}.{self._session}.{self._attempt}")
        content = {"host": socket.gethostname(), "note": self._note.name, "pid": os.getpid()}
        storage.create_if_absent(path, json.dumps(content).encode())
        return path

    def _read(self, names: Sequence[str]) -> History:
        marks = [name.split(".") for name in names if name.count(".") == 2 and not name.startswith(".")]
        guilty = {attempt: int(kind) for kind, _, attempt in marks if kind != UNIT}
        last_words: dict[int, str] = {}
        for kind, session, attempt in marks:
            if kind != UNIT:
                continue
            piece, words = self._read_note(storage.join(self._folder, f"{kind}.{session}.{attempt}"))
            # Where pieces were decoded ahead, a crash may be the next piece's; but time is up for the one in work.
            if piece is not None and words.startswith(TIMEOUT_WORDS):
                guilty.setdefault(attempt, piece)
            if words and guilty.get(attempt) == piece and piece is not None:
                last_words[piece] = words
        sessions = {attempt: session for _, session, attempt in marks}
        return History(
            begun_here=sum(session == self._session for kind, session, _ in marks if kind == UNIT),
            deaths=Counter(guilty.values()),
            deaths_here=Counter(piece for attempt, piece in guilty.items() if sessions[attempt] == self._session),
            last_words=last_words,
            any_marks=bool(marks),
        )

    def _read_note(self, mark: str) -> tuple[int | None, str]:
        """Return the piece and the traceback that a dead worker of this machine noted."""
        try:
            found = json.loads(storage.read_bytes(mark))
        except (MissingPathError, ValueError):  # the unit was committed by another driver's worker just now
            return None, ""
        path = _note_path(found["note"])
        if found["host"] != socket.gethostname() or path is None:
            return None, ""
        try:
            first, _, words = path.read_text(errors="replace").partition("\n")
        except OSError:
            return None, ""
        self._notes_of_dead.append(found["note"])
        return (int(first) if first.isdigit() else None), words.strip()


def starts_folder(run: RunFolder, session: str) -> str:
    """Return the folder of the marks of workers that start; the driver removes it at the end."""
    return run.attempts_folder(f"starts-{session}")


@contextmanager
def starting(run: RunFolder, session: str, most: int) -> Iterator[None]:
    """Tell that a worker starts, and notice that those before it died of it: Ray would start them for ever.

    Args:
        run: the run folder.
        session: names one start of the driver.
        most: workers that may be starting on one machine at the same time, or have died so.

    Raises:
        RunError: there were more on this machine.
        StorageError: the run folder does not answer.
    """
    folder, host = starts_folder(run, session), socket.gethostname()
    dead = [name for name in storage.list_folder(folder) if name.startswith(f"{host}.")]
    if len(dead) > most:
        raise RunError(
            f"{host}: {len(dead)} workers died while they loaded the engine; look at the workers' logs in Ray's folder"
        )
    mark = storage.join(folder, f"{host}.{uuid.uuid4().hex}")
    storage.create_if_absent(mark, b"")
    try:
        yield
    finally:
        storage.remove(mark)
