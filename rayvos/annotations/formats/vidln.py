"""Video Localized Narratives: people spoke about an actor and hovered over it with the mouse on some key frames.

JSON lines, one narrative per line; frames at `<frames>/<dataset_id>/<video_id>/<name>.jpg`. Trace positions are
shares of the frame in [0, 1], a little outside at times; they become integer pixels, `floor(x * width)`, clipped into
the frame. `kf_idx` counts in `keyframe_names`. A trace is drawn by hand while speaking: noisy positives.

A word's trace runs from its start to the start of the word that was spoken next, both ends included; times count
from the start of the *recording*. One narrative is one clip, since two annotators of a video name the same actors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, Literal

from rayvos import storage
from rayvos.annotations.clip_paths import ClipRoot, Probe, folder_of
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.json_fields import holds_key
from rayvos.annotations.records import Clip, ObjectInfo, Trace
from rayvos.errors import FormatError, FrameMissingError

__all__ = ["VidlnObjects", "detect", "read_vidln"]

BACKGROUND = "background"

VidlnObjects = Literal["actors", "nouns"]


@dataclass(frozen=True, slots=True)
class _TracePoint:
    segment: int
    keyframe: int
    x: float
    y: float
    ms: float
    """Since the start of the recording."""


def detect(source: str) -> bool:
    """Tell whether `source` is a file of narratives, or a folder of such files."""
    return holds_key(next(_files(source), None), "keyframe_names")


def read_vidln(
    source: str,
    *,
    frames: str | None = None,
    probe: Probe | None = None,
    objects: VidlnObjects = "actors",
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield one clip per narrative, named `<dataset_id>/<video_id>/<vidln_id>`, with traces.

    Args:
        source: a JSON-lines file, or a folder of them.
        frames: the folder with `<dataset_id>/<video_id>` (or `<video_id>`): images or video files; None: `frames`
            beside the file.
        probe: reads a video's size and frame count; needed where videos are files.
        objects: `actors`: one object per actor with all its traces; `nouns`: one per noun of each caption,
            with the trace of that noun only.
        on_error: told of narratives that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a line is no narrative, or nothing but the background is traced.
        MissingPathError: a narrative's frames are not there.
        FrameMissingError: a key frame is not among them.
        StorageError: a path cannot be read.
    """
    root = ClipRoot(frames or storage.join(folder_of(source), "frames"), probe)

    def read(item: tuple[str, str]) -> Clip:
        return _read(*item, root=root, nouns=objects == "nouns")

    return stream_clips(_lines(source), read, lambda item: item[0], source=source, on_error=on_error)


def _files(source: str) -> Iterator[str]:
    if source.lower().endswith((".jsonl", ".json")):
        yield source
    else:
        for name in storage.list_folder(source):
            if name.lower().endswith(".jsonl"):
                yield storage.join(source, name)


def _lines(source: str) -> Iterator[tuple[str, str]]:
    for path in _files(source):
        with storage.open_input(path) as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig", errors="replace")
                if text.strip():
                    yield f"{path} line {number}", text


def _read(where: str, line: str, *, root: ClipRoot, nouns: bool) -> Clip:
    try:
        record = json.loads(line)
        video = [str(record["dataset_id"]), str(record["video_id"])]
        names = [str(name) for name in record["keyframe_names"]]
        actors = [
            (index, actor)
            for index, actor in enumerate(record["actor_narratives"])
            if actor["actor_name"].strip().lower() != BACKGROUND
        ]
        clip = root.clip(["/".join(video), video[1]], clip_id="/".join([*video, str(record["vidln_id"])]))
        positions = _keyframe_positions(names, clip, video[0], where)
        objects: list[ObjectInfo] = []
        traces: list[Trace] = []
        for index, actor in actors:
            points = _trace_points(actor, len(names))
            whole = (str(actor["actor_name"]).strip(), str(index), points)
            for category, source_id, part in _nouns(actor, index, points) if nouns else [whole]:
                if part:
                    objects.append(ObjectInfo(len(objects) + 1, category, source_id))
                    traces += _traces(part, len(objects), positions, clip)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise FormatError(f"{where}: expected a Video Localized Narrative: {what}") from error
    if not objects:
        raise FormatError(f"{where}: nothing but the background is traced; leave the narrative out")
    annotated = sorted({trace.frame for trace in traces})
    return dataclasses.replace(clip, objects=tuple(objects), traces=tuple(traces), annotated_frames=tuple(annotated))


def _keyframe_positions(names: list[str], clip: Clip, dataset: str, where: str) -> list[int]:
    """Return each key frame's position among the clip's frames."""
    if clip.source.kind == "images":
        by_stem = {PurePosixPath(name).stem: position for position, name in enumerate(clip.source.frame_names)}
        positions = [by_stem.get(name, -1) for name in names]
    else:
        first = 1 if dataset.startswith("OVIS") else 0  # img_0000001 is the first frame there, 000000 elsewhere
        numbers = [re.search(r"\d+$", name) for name in names]
        positions = [int(number[0]) - first if number else -1 for number in numbers]
    for name, position in zip(names, positions, strict=True):
        if not 0 <= position < clip.num_frames:
            raise FrameMissingError(
                f"{where}: key frame {name!r} is not among the {clip.num_frames} frames of {clip.source.uri}; "
                "extract it, or name another folder with --frames"
            )
    return positions


def _trace_points(actor: dict[str, Any], num_keyframes: int) -> list[_TracePoint]:
    start_ms = actor["recording_start_time_ms_since_epoch"]
    points = [
        _TracePoint(
            segment, int(item["kf_idx"]), float(item["x"]), float(item["y"]), item["time_ms_since_epoch"] - start_ms
        )
        for segment, items in enumerate(actor["traces"])
        for item in items
    ]
    for point in points:
        if not (0 <= point.keyframe < num_keyframes and math.isfinite(point.x) and math.isfinite(point.y)):
            raise ValueError(f"a trace point at key frame {point.keyframe} of {num_keyframes}: {point.x}, {point.y}")
    return points


def _nouns(
    actor: dict[str, Any], index: int, points: list[_TracePoint]
) -> Iterator[tuple[str, str, list[_TracePoint]]]:
    """Yield each noun of the caption, its id, and the trace points drawn while it was spoken."""
    words = sorted(actor["time_alignment"], key=lambda word: float(word["start_ms"]))
    ends = [float(word["start_ms"]) for word in words[1:]] + [math.inf]
    for start, stop in actor["noun_segments"]:
        spans = [
            (float(word["start_ms"]), end)
            for word, end in zip(words, ends, strict=True)
            if word["referenced_word_start_idx"] < stop and word["referenced_word_end_idx"] > start
        ]
        spoken = [point for point in points if any(first <= point.ms <= last for first, last in spans)]
        yield str(actor["caption"])[start:stop], f"{index}:{start}-{stop}", spoken


def _traces(points: list[_TracePoint], object_id: int, positions: list[int], clip: Clip) -> Iterator[Trace]:
    """Yield one trace per stroke and key frame."""
    for (_, keyframe), stroke in groupby(points, key=lambda point: (point.segment, point.keyframe)):
        drawn = list(stroke)
        yield Trace(
            object_id,
            positions[keyframe],
            tuple(_pixel(point.x, clip.width) for point in drawn),
            tuple(_pixel(point.y, clip.height) for point in drawn),
        )


def _pixel(share: float, size: int) -> float:
    return float(min(max(math.floor(share * size), 0), size - 1))
