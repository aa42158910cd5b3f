"""The actor of a job: one call does one unit, commits its file, and returns one receipt.

Decoding runs ahead of the engine and encoding behind it, in threads; nothing large leaves the actor. Whatever a clip
raises becomes a dead letter in the unit's file, beside its neighbours' rows. What the run folder raises (a full
disk) ends the job instead: it is nobody's fault, and no later unit would fare better.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rayvos import storage
from rayvos.annotations.arrow_files import read_parquet
from rayvos.annotations.manifest import ManifestFile, check_clip
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import DeadLetter, Piece, RunFolder, Unit
from rayvos.annotations.unit_rows import sort_rows, split_by_clip
from rayvos.engines.timing import StageSeconds
from rayvos.errors import (
    FormatError,
    MissingPathError,
    OutOfMemoryError,
    RayvosError,
    RunError,
    TimeoutExceededError,
    WorkerCrashedError,
)
from rayvos.pipelines.attempts import TIMEOUT_WORDS, AttemptMarks, History, WorkerNote, starting
from rayvos.pipelines.guards import (
    die,
    ends_the_process,
    error_code,
    limited_memory,
    peak_gpu_bytes,
    peak_rss,
    time_limit,
    timeout_of,
    total_gpu_bytes,
)
from rayvos.pipelines.prefetch import OpeningClip
from rayvos.pipelines.receipts import Receipt, row_to_unit
from rayvos.pipelines.sink import commit_unit
from rayvos.pipelines.stragglers import LATE_S, late_after, watching_for
from rayvos.pipelines.work import Work, WorkChoice
from rayvos.redaction import without_secrets
from rayvos.video.limits import DecodeLimits
from rayvos.video.source import open_clip

__all__ = ["UnitWorker", "WorkerSettings"]

logger = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 900.0  # storage retries for some seconds by itself; beyond this it hangs
TRACEBACK_CHARACTERS = 4000  # the end of it, which names the place
LAST_WORDS_CHARACTERS = 16_000  # of all threads; the one in question may come last


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """All that an actor needs to know; small, since Ray keeps it for every restart."""

    run: str
    """The run folder."""
    manifest: str
    """The run's snapshot of the manifest."""
    work: WorkChoice
    session: str
    """Names one start of the driver."""
    num_actors: int
    max_attempts: int
    timeout_s: float | None
    memory_limit_bytes: int | None
    num_threads: int
    """For torch and OpenCV."""
    max_pixels: int = DecodeLimits().max_pixels
    """Largest frame, width x height."""
    late_s: float = LATE_S
    """Seconds before a unit may be late, see `rayvos.pipelines.stragglers`."""
    gpu_share: float = 0.0
    """GPUs of an actor; below 1, the share of its GPU's memory that it may use."""


class UnitWorker:
    """Does units; Ray Data makes one per actor and calls it with one row at a time."""

    def __init__(self, settings: WorkerSettings) -> None:
        import cv2

        cv2.setNumThreads(settings.num_threads)
        self.settings = settings
        with starting(RunFolder(settings.run), settings.session, settings.num_actors + settings.max_attempts):
            if 0 < settings.gpu_share < 1:  # Ray shares out GPUs, and does not look at their memory
                import torch

                torch.cuda.set_per_process_memory_fraction(settings.gpu_share)
            self.work = settings.work.load()
        self.run = RunFolder(settings.run, self.work.table)
        if "torch" in sys.modules:  # loaded by the engine, if it needs it
            sys.modules["torch"].set_num_threads(settings.num_threads)
        self.note = WorkerNote()
        self._manifest: ManifestFile | None = None

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Yield one receipt for each row of the batch (Ray gives one)."""
        for row in batch["unit"]:
            yield self.do_row(str(row)).to_batch()

    def do_row(self, row: str) -> Receipt:
        """Do the unit of a row and return its receipt, whatever happens."""
        unit = row_to_unit(row)
        try:
            return self.do_unit(unit)
        except Exception as error:
            logger.exception("unit=%s could not be committed", unit.unit_id)
            return _receipt(
                unit,
                self.run.schema.empty_table(),
                self.work,
                error=error_code(error),
                message=without_secrets(str(error) or repr(error)),
            )

    def do_unit(self, unit: Unit) -> Receipt:
        """Do a unit and commit its file; a unit that is committed already is left alone.

        Raises:
            StorageError: the run folder cannot be read or written.
            RunError: workers keep dying on this unit while no clip is in work.
        """
        started = time.perf_counter()
        with time_limit(self.note, None, COMMIT_TIMEOUT_S):
            if storage.exists(self.run.unit_file(unit.unit_id)):
                return self._committed_receipt(unit)
            marks = AttemptMarks(self.run, unit.unit_id, self.settings.session, self.note)
            history = marks.begin()
            clips = self._read_clips(unit)
        if history.deaths_between > self.settings.max_attempts:
            raise RunError(
                f"unit {unit.unit_id}: its worker died {history.deaths_between} times while no clip was in work "
                "(opening the manifest, or writing the rows); see the workers' logs, then run the job again"
            )
        seconds = StageSeconds()
        late_s = late_after(unit.cost_s, 1.0, self.settings.late_s)
        with watching_for(self.run.unit_file(unit.unit_id), self.note, late_s):
            rows, letters = self._do_pieces(unit, clips, marks, history, seconds)
        commit_started = time.perf_counter()
        with time_limit(self.note, None, COMMIT_TIMEOUT_S):
            table = pa.concat_tables([self.run.schema.empty_table(), *(rows[index] for index in sorted(rows))])
            num_bytes = commit_unit(self.run, unit, table, [letters[index] for index in sorted(letters)])
            marks.clear()
        ended = time.perf_counter()
        return _receipt(
            unit,
            table,
            self.work,
            num_bytes=num_bytes,
            letters=[letters[index] for index in sorted(letters)],
            seconds=ended - started,
            decode_wait_s=seconds.decode_wait,
            engine_s=seconds.engine,
            encode_s=seconds.encode,
            commit_s=ended - commit_started,
            num_attempts=history.begun_here + 1,
        )

    def _committed_receipt(self, unit: Unit) -> Receipt:
        """Return the receipt of a unit that a worker committed before it could hand in its receipt."""
        rows = read_parquet(self.run.unit_file(unit.unit_id))
        letters = [DeadLetter(**letter) for letter in self.run.read_footer(unit.unit_id)["dead_letters"]]
        AttemptMarks(self.run, unit.unit_id, self.settings.session, self.note).clear()
        return _receipt(unit, rows, self.work, letters=letters)

    def _read_clips(self, unit: Unit) -> dict[int, Clip]:
        if self._manifest is None:
            self._manifest = ManifestFile(self.settings.manifest)
        rows = sorted({piece.manifest_row for piece in unit.pieces})
        return dict(self._manifest.read_rows(rows))

    def _do_pieces(
        self, unit: Unit, clips: Mapping[int, Clip], marks: AttemptMarks, history: History, seconds: StageSeconds
    ) -> tuple[dict[int, pa.Table], dict[int, DeadLetter]]:
        """Return tables and dead letters by the piece's position in the unit."""
        rows: dict[int, pa.Table] = {}
        letters: dict[int, DeadLetter] = {}
        # The marks of a unit of one piece name the guilty at once: there is nobody else.
        one_by_one = history.any_marks or len(unit.pieces) == 1
        left: list[int] = []
        for index in history.suspects_first(len(unit.pieces)):
            if history.condemned(index, self.settings.max_attempts):
                letters[index] = _condemned_letter(unit.pieces[index], history, index)
            else:
                left.append(index)
        opening: OpeningClip | None = None
        for position, index in enumerate(left):
            piece, clip = unit.pieces[index], clips[unit.pieces[index].manifest_row]
            current = opening or self._opening(clip, piece, ahead=False)
            opening = None
            mark = marks.touch(index) if one_by_one else None
            if position + 1 < len(left) and not history.any_marks:
                following = unit.pieces[left[position + 1]]
                opening = self._opening(clips[following.manifest_row], following, ahead=True)
            found = self._do_piece(index, unit, clip, current, seconds)
            if opening is not None and isinstance(found, DeadLetter) and found.error == OutOfMemoryError.code:
                # The next clip was being decoded in the same memory: whose fault it was shows without it.
                opening.close()
                opening = None
                found = self._do_piece(index, unit, clip, self._opening(clip, piece, ahead=False), seconds)
            if isinstance(found, DeadLetter):
                letters[index] = found
            else:
                rows[index] = found
            if mark is not None:
                marks.survived(mark)
        return rows, letters

    def _opening(self, clip: Clip, piece: Piece, *, ahead: bool) -> OpeningClip:
        expected = self.work.first_frames(clip, range(piece.frame_start, piece.frame_stop))
        threads = max(1, self.settings.num_threads)
        limits = DecodeLimits(max_pixels=self.settings.max_pixels)
        return OpeningClip(lambda: open_clip(clip, limits=limits, decode_threads=threads), expected, ahead=ahead)

    def _do_piece(
        self, index: int, unit: Unit, clip: Clip, opening: OpeningClip, seconds: StageSeconds
    ) -> pa.Table | DeadLetter:
        """Do one piece; whatever it raises becomes its dead letter."""
        piece = unit.pieces[index]
        try:
            timeout_s = timeout_of(piece.cost_s, self.settings.timeout_s)
            with time_limit(self.note, index, timeout_s), limited_memory(self.settings.memory_limit_bytes):
                return self._rows_of(piece, unit.unit_id, clip, opening, seconds)
        except Exception as error:
            if ends_the_process(error):
                die(self.note, index, _traceback_of(error))
            return DeadLetter(
                clip_id=piece.clip_id,
                frame_start=piece.frame_start,
                frame_stop=piece.frame_stop,
                error=error_code(error),
                message=_message_of(error, piece),
                traceback="" if isinstance(error, RayvosError) else _traceback_of(error),
                attempts=1,
            )
        finally:
            opening.close()

    def _rows_of(self, piece: Piece, unit_id: str, clip: Clip, opening: OpeningClip, seconds: StageSeconds) -> pa.Table:
        if clip.clip_id != piece.clip_id:
            raise FormatError(
                f"manifest row {piece.manifest_row}: expected clip {piece.clip_id!r}, found {clip.clip_id!r}; "
                f"{self.settings.manifest} was changed by hand: start a new run folder"
            )
        check_clip(self.work.prepare(clip))  # before anything of it is opened
        waiting = time.perf_counter()
        images = opening.result()
        seconds.decode_wait += time.perf_counter() - waiting
        return self.work.rows_of(clip, images, piece, unit_id, seconds, self._earlier_rows(piece))

    def _earlier_rows(self, piece: Piece) -> pa.Table:
        """Return the clip's rows of the round before, sorted; none where a file is gone: they are made anew."""
        tables = [self.run.schema.empty_table()]
        for unit_id in piece.earlier_units:
            try:
                found = split_by_clip(self.run.read_unit(unit_id)).get(piece.clip_id)
            except (MissingPathError, FormatError) as error:
                logger.warning("unit=%s cannot give labels of the round before: %s", unit_id, error)
                continue
            tables += [found] if found is not None else []
        return sort_rows(pa.concat_tables(tables), self.run.table)


def _receipt(
    unit: Unit, rows: pa.Table, work: Work, *, num_bytes: int = 0, letters: list[DeadLetter] | None = None,
    **numbers: Any,
) -> Receipt:  # fmt: skip
    failures: dict[str, int] = {}
    for letter in letters or ():
        failures[letter.error] = failures.get(letter.error, 0) + 1
    return Receipt(
        unit_id=unit.unit_id,
        num_pieces=len(unit.pieces),
        num_frames=sum(piece.frame_stop - piece.frame_start for piece in unit.pieces),
        counts=work.count(rows),
        num_bytes=num_bytes,
        failures=failures,
        first_failure=letters[0].message if letters else "",
        worker=f"{socket.gethostname()}:{os.getpid()}",
        rss_bytes=peak_rss(),
        gpu_bytes=peak_gpu_bytes(),
        gpu_total_bytes=total_gpu_bytes(),
        **numbers,
    )


def _condemned_letter(piece: Piece, history: History, index: int) -> DeadLetter:
    """Return the dead letter of a piece that killed its workers."""
    words, deaths = history.last_words.get(index, ""), history.deaths[index]
    where = f"clip {piece.clip_id!r} frames {piece.frame_start}…{piece.frame_stop - 1}"
    if words.startswith(TIMEOUT_WORDS):
        code = TimeoutExceededError.code
        message = f"{where}: the time limit was met {deaths} times; raise --timeout-s, or look at the traceback"
    else:
        code = WorkerCrashedError.code
        message = f"{where}: its worker died {deaths} times (a crash in native code, or killed for its memory)"
    return DeadLetter(
        clip_id=piece.clip_id,
        frame_start=piece.frame_start,
        frame_stop=piece.frame_stop,
        error=code,
        message=message,
        traceback=words[:LAST_WORDS_CHARACTERS],
        attempts=deaths,
    )


def _message_of(error: BaseException, piece: Piece) -> str:
    """Return the error's message; one that does not name the clip is given its name."""
    text = str(error) if isinstance(error, RayvosError) else f"{type(error).__name__}: {error}"
    return without_secrets(text if repr(piece.clip_id) in text else f"clip {piece.clip_id!r}: {text}")


def _traceback_of(error: BaseException) -> str:
    return without_secrets("".join(traceback.format_exception(error)))[-TRACEBACK_CHARACTERS:]
