"""Point-VOS annotations: verified points of one object per question, on some ten frames of a video.

`{question_hash: record}` as one JSON object (Oops), or one such object per line (Kinetics). One record is one object
and becomes one clip, named by its question as in the published frame folders. `frame_id` is the 0-based index in the
decoded video, coordinates are pixels of its original size. ACCEPTED points are positive, REJECTED negative, AMBIGUOUS
stay ambiguous (they are no negatives); what the generator proposed (`is_fg_candidate`) does not matter. Points without
a frame and records without a video exist and are left out.

Files that rayvos wrote (`point_vos_results.py`) also name clip and object, and on each point who answered and how
long it took; candidates that nobody answered have the status CANDIDATE and are left out. With the manifest they were
mined from, the answers become points of its clips.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from rayvos import storage
from rayvos.annotations.box_lines import read_text
from rayvos.annotations.clip_paths import ClipRoot, Probe, folder_of
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.json_fields import holds_key
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip, ObjectInfo, Point, PointLabel
from rayvos.errors import FormatError, FrameMissingError, RayvosError

__all__ = ["LABELS", "UNANSWERED", "detect", "frame_numbers", "read_point_vos"]

logger = logging.getLogger(__name__)

LABELS: dict[str, PointLabel] = {"ACCEPTED": "positive", "REJECTED": "negative", "AMBIGUOUS": "ambiguous"}
UNANSWERED = "CANDIDATE"

Record = dict[str, Any]


def detect(source: str) -> bool:
    """Tell whether `source` is a Point-VOS file, or a folder of such files."""
    return holds_key(next(_files(source), None), "annotated_points")


def read_point_vos(
    source: str,
    *,
    frames: str | None = None,
    probe: Probe | None = None,
    manifest: str | None = None,
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield one clip per record, with one object and its points; or the clips of a manifest with the points added.

    Args:
        source: a `.json` or `.jsonl` file, or a folder of them.
        frames: the folder with `<question_hash>`, `JPEGImages/<question_hash>` or `<video_name>`: images or video
            files; None: beside the file.
        probe: reads a video's size and frame count; needed where videos are files.
        manifest: path or URL of the manifest that the candidates were mined from; its clips are yielded, all of them,
            with the answers as points. An answer takes the place of an older one at the same pixel.
        on_error: told of records that cannot be used, which are left out; None raises (a record whose video is
            null, which the published files have, is then left out with a logged warning).

    Raises:
        FormatError: a record does not follow the format, or a point lies outside its frame.
        MissingPathError: a record's frames are not there.
        FrameMissingError: an annotated frame is not among them.
        StorageError: a path cannot be read.
    """
    if manifest is not None:
        return _into_manifest(source, manifest, on_error)
    root = ClipRoot(frames or folder_of(source), probe)
    return stream_clips(
        _with_video(source, on_error), lambda item: _read(*item, root=root), _name, source=source, on_error=on_error
    )


def _name(item: tuple[str, Record]) -> str:
    return str(item[1].get("question_hash", item[0]))


def _files(source: str) -> Iterator[str]:
    if source.lower().endswith((".jsonl", ".json")):
        yield source
    else:
        for name in storage.list_folder(source):
            if name.lower().endswith((".jsonl", ".json")):
                yield storage.join(source, name)


def _with_video(source: str, on_error: OnError | None) -> Iterator[tuple[str, Record]]:
    for where, record in _records(source):
        if record.get("video_name", "") is not None:
            yield where, record
        elif on_error is not None:
            on_error(_name((where, record)), FormatError(f"{where}: video_name is null: nobody knows its frames"))
        else:
            logger.warning("no_video record=%s", where)


def _records(source: str) -> Iterator[tuple[str, Record]]:
    for path in _files(source):
        if path.lower().endswith(".json"):
            yield from _entries(read_text(path), path)
            continue
        with storage.open_input(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from _entries(line.decode("utf-8-sig", errors="replace"), f"{path} line {number}")


def _entries(text: str, where: str) -> Iterator[tuple[str, Record]]:
    try:
        table = json.loads(text)
    except ValueError as error:
        raise FormatError(f"{where}: expected JSON: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(record, dict) for record in table.values()):
        raise FormatError(f"{where}: expected an object of records by question_hash, found {text[:60]!r}")
    for key, record in table.items():
        yield f"{where} record {key}", {"question_hash": key, **record}


def _read(where: str, record: Record, *, root: ClipRoot) -> Clip:
    try:
        question, video = str(record["question_hash"]), str(record["video_name"])
        clip = root.clip([question, f"JPEGImages/{question}", video, video.partition("/")[2]], clip_id=question)
        points = _points(record, clip, 1, where)
        category = record.get("object_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FormatError(f"{where}: expected a Point-VOS record: {what}") from error
    return dataclasses.replace(
        clip,
        objects=(ObjectInfo(1, None if category is None else str(category), question),),
        points=tuple(points),
        annotated_frames=tuple(sorted({point.frame for point in points})),
    )


def frame_numbers(clip: Clip) -> list[int]:
    """Return the number of each frame in the decoded video, as `frame_id` counts: the numbers of image names, if any.

    Where names are no numbers, frames count by position.
    """
    stems = [PurePosixPath(name).stem for name in clip.source.frame_names]
    if clip.source.kind == "images" and stems and all(stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(clip.source.video_frames) or list(range(clip.num_frames))


def _points(record: Record, clip: Clip, object_id: int, where: str) -> list[Point]:
    """Return the answers of a record."""
    positions = {number: position for position, number in enumerate(frame_numbers(clip))}
    return [
        _point(item, positions, clip, object_id, where)
        for item in record["annotated_points"]
        if item["frame_id"] is not None and item["status"] != UNANSWERED
    ]


def _point(item: Record, positions: dict[int, int], clip: Clip, object_id: int, where: str) -> Point:
    frame = positions.get(int(item["frame_id"]), -1)
    if not 0 <= frame < clip.num_frames:
        raise FrameMissingError(
            f"{where}: frame {item['frame_id']} is not among the {clip.num_frames} frames of {clip.source.uri}; "
            "extract it, or name another folder with --frames"
        )
    x, y = float(item["x"]), float(item["y"])
    if not (0 <= x < clip.width and 0 <= y < clip.height):
        raise FormatError(
            f"{where}: point {x:g}, {y:g} lies outside the {clip.width}x{clip.height} frame; was the video re-scaled? "
            "points belong to its original size"
        )
    status = item["status"]
    if status not in LABELS:
        raise FormatError(f"{where}: status {status!r}: expected one of {', '.join(sorted([*LABELS, UNANSWERED]))}")
    annotator, seconds = item.get("annotator"), item.get("seconds")
    return Point(
        object_id,
        frame,
        x,
        y,
        LABELS[status],
        None if annotator is None else str(annotator),
        None if seconds is None else float(seconds),
    )


def _into_manifest(source: str, manifest: str, on_error: OnError | None) -> Iterator[Clip]:
    """Yield the clips of a manifest with the answers of the records that name them; the records are in memory."""
    records: dict[str, list[tuple[str, Record]]] = {}
    for where, record in _with_video(source, on_error):
        records.setdefault(str(record.get("clip_id", record["video_name"])), []).append((where, record))
    for clip in ManifestFile(manifest):
        try:
            yield _answered(clip, records.pop(clip.clip_id, []))
        except RayvosError as error:
            if on_error is None:
                raise
            on_error(clip.clip_id, error)
    for clip_id, left in records.items():
        unknown = FormatError(f"{left[0][0]}: clip {clip_id!r} is not in {manifest}; name the one it was mined from")
        if on_error is None:
            raise unknown
        on_error(clip_id, unknown)


def _answered(clip: Clip, records: list[tuple[str, Record]]) -> Clip:
    """Return a clip with the answers of its records."""
    points = {(point.object_id, point.frame, point.x, point.y): point for point in clip.points}
    for where, record in records:
        object_ids = clip.object_ids()
        object_id = record.get("object_id", object_ids[0] if len(object_ids) == 1 else None)
        if object_id not in object_ids:
            raise FormatError(f"{where}: object_id {object_id!r}: clip {clip.clip_id!r} has the objects {object_ids}")
        try:
            for point in _points(record, clip, object_id, where):
                points[point.object_id, point.frame, point.x, point.y] = point
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{where}: expected a Point-VOS record: {what}") from error
    return dataclasses.replace(clip, points=tuple(points.values()))
