"""Exports a run's labels or candidates into another format, clip by clip, so that a killed export goes on where it was.

    OUT/…                              the files of the format
    OUT/.rayvos-export/settings.json   what the folder holds: run, format and options; another export is refused
    OUT/.rayvos-export/done/<…>.json   one mark per finished clip: digest of its id, digest of what it was made from

A clip's files are written before its mark, and whatever an interrupted attempt left is removed before they are
written again, so that a killed export and an undisturbed one end with the same files. Labels that changed since (a
later run corrected them) have another digest, and just their clips are made again.

Formats of one file (COCO, YouTube-VIS, Point-VOS, Parquet) need no pixels and are written in one pass; their mark names
the digest of all clips. Why so: parts per clip would have to be renumbered and copied together at the end, which costs
about as much as writing them.

One export at a time may write to a folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from rayvos import storage
from rayvos.annotations.formats.json_stream import json_bytes
from rayvos.annotations.manifest import ManifestFile, check_clip_id
from rayvos.annotations.own_json import read_own_json
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import RunFolder, iter_rows
from rayvos.errors import (
    IdError,
    InputError,
    MissingPathError,
    PermissionDeniedError,
    RayvosError,
    UsageError,
)
from rayvos.review.clip_exports import clear_clip, write_clip, write_index
from rayvos.review.export_options import CANDIDATE_FORMATS, LABEL_FORMATS, ExportOptions
from rayvos.review.table_exports import file_names, write_file

__all__ = ["ExportSummary", "FailedClip", "export_run"]

ONE_FILE = frozenset({"coco", "youtube-vis", "parquet", "point-vos"})
STATE = ".rayvos-export"
LAYOUT = 1  # raised when the same options give other files


@dataclass(frozen=True, slots=True)
class FailedClip:
    """A clip that could not be exported, and why."""

    clip_id: str
    error: str
    """Stable code, see `rayvos.errors`."""
    message: str


@dataclass(slots=True)
class ExportSummary:
    """What an export did."""

    out: str
    format: str
    clips: int = 0
    """Clips written by this call."""
    already_done: int = 0
    """Clips that an earlier call wrote and that did not change."""
    not_labelled: int = 0
    """Clips left out: some of their frames are not labelled yet, or are dead letters."""
    files: int = 0
    """Files written by this call, marks apart."""
    failed: list[FailedClip] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Work:
    """The clips an export has to look at."""

    digests: dict[str, str]
    """Digest of what each clip's output is made from, by clip id, in the order of the manifest."""
    categories: frozenset[str | None]
    not_labelled: int


OnClip = Callable[[str], None]
"""Called with the id of each clip that is finished, or found finished."""


def export_run(
    run: str,
    out: str,
    options: ExportOptions,
    *,
    clip_ids: Collection[str] | None = None,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda _: None,
    on_clip: OnClip = lambda _: None,
) -> ExportSummary:
    """Write the live labels or candidates of a run in another format.

    Args:
        run: output folder of a run, path or URL; the run may still be going on.
        out: folder to write into, path or URL; new, empty, or of an earlier call with the same run and options.
        options: what to write.
        clip_ids: only these clips; None: all.
        overwrite: remove an earlier export of other settings first; anything else is never removed.
        on_start: called with the number of clips once it is known.
        on_clip: called after each clip.

    Returns:
        Counts, and the clips that failed; a clip that fails stops no other.

    Raises:
        UsageError: `out` holds something else, or an export of other settings; or what the run makes does not go into
            this format.
        InputError: the run has no clip of this name.
        StorageError: `run` cannot be read, or `out` cannot be written.
    """
    folder = RunFolder(run)
    _check_format(folder, options)
    work = _plan_work(folder, clip_ids, options)
    settings = {"layout": LAYOUT, "run": _address(run), **asdict(options)}
    _claim_folder(out, settings, overwrite=overwrite)
    for held in (out, storage.join(out, STATE), storage.join(out, STATE, "done")):
        _sweep(held)
    summary = ExportSummary(out, options.format, not_labelled=work.not_labelled)
    on_start(len(work.digests))
    if options.format in ONE_FILE:
        _export_one_file(folder, out, options, work, summary, on_clip)
    else:
        _export_clips(folder, out, options, work, summary, on_clip)
    return summary


def _check_format(run: RunFolder, options: ExportOptions) -> None:
    formats = CANDIDATE_FORMATS if run.table == "candidates" else LABEL_FORMATS
    if options.format not in formats:
        raise UsageError(
            f"--format {options.format}: {run.path} holds {run.table}; choose from {', '.join(sorted(formats))}"
        )
    if run.table == "candidates" and (options.truth is not None or options.min_score > 0):
        raise UsageError(f"{run.path} holds candidates, which have no score; leave out --min-score and true masks")


def _address(run: str) -> str:
    """Return what names the run in the settings: its absolute path, or its URL without user name and password."""
    local = storage.local_path(run)
    return re.sub(r"(?<=://)[^/@\s]*@", "", run.rstrip("/")) if local is None else str(local.absolute())


def _plan_work(run: RunFolder, clip_ids: Collection[str] | None, options: ExportOptions) -> _Work:
    """Digest what each clip's output depends on: its committed units, which never change, and its manifest row."""
    committed = run.committed()
    plan = run.read_plan()
    units: dict[str, list[tuple[str, int, bool]]] = {}
    columns = (plan.column(name).to_pylist() for name in ("clip_id", "unit_id", "frame_start"))
    for clip_id, unit_id, frame_start in zip(*columns, strict=True):
        units.setdefault(clip_id, []).append((unit_id, frame_start, unit_id in committed))
    if clip_ids is not None and (unknown := sorted(set(clip_ids) - set(units))):
        raise InputError(f"{run.path}: no clip {unknown[0]!r} in this run; `rayvos status` shows what it holds")
    digests: dict[str, str] = {}
    categories: set[str | None] = set()
    not_labelled = 0
    for clip in ManifestFile(run.newest_manifest()):
        pieces = units.get(clip.clip_id)
        if pieces is None or (clip_ids is not None and clip.clip_id not in clip_ids):
            continue
        labelled = [done for _, _, done in pieces]
        if not (any(labelled) if options.partial else all(labelled)):
            not_labelled += 1
            continue
        categories.update(known.category for known in clip.objects)
        facts = (pieces, clip.source.frame_names, clip.height, clip.width, clip.num_frames, clip.fps, clip.objects)
        digests[clip.clip_id] = _digest(repr((facts, clip.boxes)))
    return _Work(digests, frozenset(categories), not_labelled)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=10).hexdigest()


def _claim_folder(out: str, settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make sure that `out` is an export of these settings.

    Raises:
        UsageError: it holds something else.
    """
    path = storage.join(out, STATE, "settings.json")
    held = [name for name in storage.list_folder(out) if name != STATE]
    if not storage.exists(path):
        if held:
            raise UsageError(
                f"{out}: expected a new or empty folder, found {held[0]!r} and no export of rayvos; choose another one"
            )
        storage.create_if_absent(path, json_bytes(settings))
    found = read_own_json(path, "remove the folder and export again")
    changed = [
        f"{key} {found.get(key)!r}, now {settings[key]!r}" for key in settings if found.get(key) != settings[key]
    ]
    if not changed:
        return
    if not overwrite:
        raise UsageError(
            f"{out}: holds an export of other settings ({'; '.join(changed)}); "
            "choose another folder, or --overwrite to replace it"
        )
    # The settings go last, so that a killed removal still knows the folder as an export.
    for name in [*held, storage.join(STATE, "done")]:
        storage.remove(storage.join(out, name))
    storage.write_bytes(path, json_bytes(settings))


def _sweep(folder: str) -> None:
    """Remove the temporary files that a killed export left in a folder."""
    for name in storage.list_folder(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            storage.remove(storage.join(folder, name))


def _labelled_clips(
    run: RunFolder, clip_ids: Collection[str], options: ExportOptions
) -> Iterator[tuple[Clip, pa.Table]]:
    """Yield each clip with its rows, in the order of the manifest."""
    clips = iter(ManifestFile(run.newest_manifest()))
    for clip_id, table in iter_rows(run.path, run.table, clip_ids=clip_ids, complete_only=not options.partial):
        yield next(clip for clip in clips if clip.clip_id == clip_id), table


def _judge(options: ExportOptions, clip_ids: Collection[str]) -> Callable[[Clip, pa.Table], pa.Table]:
    """Return what gives labels the scores they are filtered by."""
    if options.truth is None:
        return lambda _, table: table
    from rayvos.evaluation.true_scores import TrueScores

    return TrueScores(options.truth, clip_ids).judge


def _export_clips(
    run: RunFolder, out: str, options: ExportOptions, work: _Work, summary: ExportSummary, on_clip: OnClip
) -> None:
    marks_folder = storage.join(out, STATE, "done")
    marks = {name.partition("-")[0]: name for name in storage.list_folder(marks_folder)}
    todo: dict[str, str] = {}
    for clip_id, digest in work.digests.items():
        mark = f"{_digest(clip_id)}-{digest}.json"
        if marks.get(_digest(clip_id)) == mark:
            summary.already_done += 1
            on_clip(clip_id)
        else:
            todo[clip_id] = mark
    resumed = bool(marks) or storage.list_folder(out) != [STATE]
    judge = _judge(options, todo)
    for clip, table in _labelled_clips(run, set(todo), options):
        mark = todo.pop(clip.clip_id)
        try:
            _check_place(clip.clip_id)
            if resumed:
                if stale := marks.get(_digest(clip.clip_id)):
                    storage.remove(storage.join(marks_folder, stale))
                clear_clip(clip, out, options)
            num_files, facts = write_clip(clip, judge(clip, table), out, options)
        except (InputError, MissingPathError, PermissionDeniedError) as error:
            summary.failed.append(_failure(clip.clip_id, error))
        else:
            storage.write_bytes(storage.join(marks_folder, mark), json_bytes({"clip_id": clip.clip_id, **facts}))
            summary.clips += 1
            summary.files += num_files
        on_clip(clip.clip_id)
    summary.not_labelled += len(todo)  # every frame range is committed, but some as dead letters
    summary.files += write_index(out, options, marks_folder)


def _failure(clip_id: str, error: RayvosError) -> FailedClip:
    return FailedClip(clip_id, error.code, str(error))


def _check_place(clip_id: str) -> None:
    """Check that a clip's files land inside the output folder and not among the export's own."""
    check_clip_id(clip_id)
    if clip_id.split("/")[0] == STATE:
        raise IdError(f"clip_id {clip_id!r}: the folder {STATE!r} keeps the state of the export; rename the clip")


def _export_one_file(
    run: RunFolder, out: str, options: ExportOptions, work: _Work, summary: ExportSummary, on_clip: OnClip
) -> None:
    names = file_names(options.format, run.table)
    marks_folder = storage.join(out, STATE, "done")
    mark = f"{options.format}-{_digest(repr(sorted(work.digests.items())))}.json"
    marks = storage.list_folder(marks_folder)
    if mark in marks and set(names) <= set(storage.list_folder(out)):
        summary.already_done = len(work.digests)
        return
    for stale in marks:
        storage.remove(storage.join(marks_folder, stale))
    seen = 0
    judge = _judge(options, work.digests)

    def clips() -> Iterator[tuple[Clip, pa.Table]]:
        nonlocal seen
        for clip, table in _labelled_clips(run, set(work.digests), options):
            yield clip, judge(clip, table)
            seen += 1
            on_clip(clip.clip_id)

    paths = [storage.join(out, name) for name in names]
    counts = write_file(paths, clips(), options, run.table, sorted(work.categories, key=lambda name: name or ""))
    storage.write_bytes(storage.join(marks_folder, mark), json_bytes(counts))
    summary.clips, summary.files = seen, len(names)
    summary.not_labelled += len(work.digests) - seen
