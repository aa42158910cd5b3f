"""Writes Point-VOS annotation files: candidates to be answered, and answers.

One JSON object `{question_hash: record}`, one record per object of a clip, as the published files have it; what they
do not have (clip, object, annotator, seconds, kind, probability, rank) stands beside, and readers of the published
format pass over it. A candidate that nobody answered has the status CANDIDATE.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from rayvos import storage
from rayvos.annotations.formats.json_stream import json_bytes
from rayvos.annotations.formats.point_vos import LABELS, UNANSWERED, frame_numbers
from rayvos.annotations.records import Clip, ObjectInfo

__all__ = ["answer_records", "candidate_records", "write_point_vos"]

Record = dict[str, Any]

STATUSES = {label: status for status, label in LABELS.items()}


def candidate_records(clip: Clip, candidates: pa.Table) -> Iterator[Record]:
    """Yield a record for each object of a clip that has candidates.

    Args:
        clip: the clip.
        candidates: its rows of `tables.CANDIDATES`.
    """
    rows = candidates.to_pylist()
    numbers = frame_numbers(clip)
    for known in clip.objects:
        points = [
            {
                "x": row["x"],
                "y": row["y"],
                "frame_id": f"{numbers[row['frame']]:06d}",
                "status": UNANSWERED,
                "is_fg_candidate": row["kind"] == "foreground",
                "kind": row["kind"],
                "probability": row["probability"],
                "rank": row["rank"],
            }
            for row in rows
            if row["object_id"] == known.object_id
        ]
        if points:
            yield _record(clip, known, points)


def answer_records(clip: Clip) -> Iterator[Record]:
    """Yield a record for each object of a clip that has points.

    What a point was proposed as is not known here: positives count as proposed for the object, others as not.
    """
    numbers = frame_numbers(clip)
    for known in clip.objects:
        points = [
            {
                "x": int(point.x),
                "y": int(point.y),
                "frame_id": f"{numbers[point.frame]:06d}",
                "status": STATUSES[point.label],
                "is_fg_candidate": point.label == "positive",
                **({} if point.annotator is None else {"annotator": point.annotator}),
                **({} if point.seconds is None else {"seconds": point.seconds}),
            }
            for point in clip.points
            if point.object_id == known.object_id
        ]
        if points:
            yield _record(clip, known, points)


def _record(clip: Clip, known: ObjectInfo, points: list[Record]) -> Record:
    name = known.category or f"object {known.object_id}"
    return {
        "question_hash": _question_hash(clip, known),
        "question": f"Is this point on the {name}?",
        "object_name": name,
        "video_name": clip.clip_id,
        "clip_id": clip.clip_id,
        "object_id": known.object_id,
        "annotated_points": points,
    }


def _question_hash(clip: Clip, known: ObjectInfo) -> str:
    """Return the hash of the published file an object came from, else one of clip and object."""
    if known.source_id is not None and re.fullmatch(r"[0-9a-f]{32}", known.source_id):
        return known.source_id
    return hashlib.blake2b(f"{clip.clip_id}/{known.object_id}".encode(), digest_size=16).hexdigest()


def write_point_vos(path: str, records: Iterable[Record]) -> dict[str, int]:
    """Write records as one file, which appears when it is complete, and return how many objects and points it holds.

    Raises:
        StorageError: the file cannot be written.
    """
    counts = {"objects": 0, "points": 0}
    with storage.open_output(path) as file:
        file.write(b"{")
        for record in records:
            file.write(b",\n" if counts["objects"] else b"\n")
            file.write(json_bytes(record["question_hash"]) + b":" + json_bytes(record))
            counts["objects"] += 1
            counts["points"] += len(record["annotated_points"])
        file.write(b"\n}\n")
    return counts
