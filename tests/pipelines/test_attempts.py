from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayvos.annotations.run_folder import RunFolder
from rayvos.errors import RunError
from rayvos.pipelines.attempts import AttemptMarks, WorkerNote, starting, starts_folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "out"))


@pytest.fixture
def note() -> Iterator[WorkerNote]:
    note = WorkerNote()
    yield note
    note.file.close()


def begin(run: RunFolder, note: WorkerNote, session: str = "now") -> AttemptMarks:
    return AttemptMarks(run, "unit7", session, note)


def test_a_first_attempt_finds_nothing(run: RunFolder, note: WorkerNote) -> None:
    history = begin(run, note).begin()

    assert not history.any_marks
    assert not history.condemned(0, 1)


def test_a_piece_that_was_survived_is_not_blamed(run: RunFolder, note: WorkerNote) -> None:
    marks = begin(run, note)
    marks.begin()
    marks.survived(marks.touch(0))
    marks.touch(1)  # and here the worker dies

    history = begin(run, note).begin()

    assert history.any_marks
    assert (history.deaths[0], history.deaths[1], history.deaths_between) == (0, 1, 0)
    assert history.suspects_first(3) == [1, 0, 2]
    assert history.condemned(1, 1)
    assert not history.condemned(1, 2)


def test_deaths_of_earlier_sessions_alone_condemn_nothing(run: RunFolder, note: WorkerNote) -> None:
    for _ in range(5):
        marks = begin(run, note, "before")
        marks.begin()
        marks.touch(0)

    alone = begin(run, note).begin()
    marks = begin(run, note)
    marks.touch(0)

    assert not alone.condemned(0, 3)
    assert begin(run, note).begin().condemned(0, 3)


def test_workers_that_die_outside_of_pieces_are_counted(run: RunFolder, note: WorkerNote) -> None:
    for _ in range(3):
        begin(run, note).begin()

    assert begin(run, note).begin().deaths_between == 3


def test_the_time_limits_note_names_the_piece_and_its_traceback(run: RunFolder, note: WorkerNote) -> None:
    marks = begin(run, note)
    marks.begin()
    note.begin(4)
    note.write("Timeout (0:00:01)!\nFile x.py, line 3")

    history = begin(run, note).begin()

    assert history.deaths[4] == 1
    assert history.last_words[4] == "Timeout (0:00:01)!\nFile x.py, line 3"


def test_a_crash_while_the_next_clip_was_decoded_ahead_blames_nobody_yet(run: RunFolder, note: WorkerNote) -> None:
    marks = begin(run, note)
    marks.begin()
    note.begin(4)
    note.write("Fatal Python error: Segmentation fault")

    history = begin(run, note).begin()

    assert history.any_marks
    assert not history.deaths


def test_a_mark_cannot_make_a_worker_read_another_file(run: RunFolder, note: WorkerNote, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("0\nTimeout (password)")
    marks = begin(run, note)
    marks.begin()
    (mark,) = Path(run.attempts_folder("unit7")).iterdir()
    mark.write_text(mark.read_text().replace(note.name, str(secret)))

    assert not begin(run, note).begin().last_words


def test_nothing_is_left_after_the_commit(run: RunFolder, note: WorkerNote) -> None:
    marks = begin(run, note)
    marks.begin()
    marks.touch(0)

    marks.clear()

    assert not Path(run.attempts_folder("unit7")).exists()


def test_workers_that_die_while_starting_end_the_job(run: RunFolder) -> None:
    never_ended = [starting(run, "now", most=2) for _ in range(3)]
    for start in never_ended:
        start.__enter__()

    with pytest.raises(RunError, match="3 workers died while they loaded the engine"), starting(run, "now", most=2):
        pass
    with starting(run, "another session", most=2):
        pass


def test_workers_that_start_well_leave_nothing(run: RunFolder) -> None:
    for _ in range(9):
        with starting(run, "now", most=1):
            pass

    assert not list(Path(starts_folder(run, "now")).iterdir())


def test_notes_that_nobody_needs_any_more_are_swept(note: WorkerNote) -> None:
    kept = Path(tempfile.gettempdir()) / note.name
    old = kept.with_name(kept.name.replace(".txt", "-old.txt"))
    old.touch()
    os.utime(old, (0, 0))

    WorkerNote().file.close()

    assert kept.exists()
    assert not old.exists()
