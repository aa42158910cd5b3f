"""MOT Challenge (MOT15, MOT16, MOT17, MOT20): several objects per sequence in one unsorted list of boxes.

`<sequence>/{img1/000001.jpg, gt/gt.txt, seqinfo.ini}`, gt.txt: `frame,id,left,top,width,height,flag,class,visibility`.
Frames, ids and pixels count from **1**, so 1 is taken off frame, left and top: the only format here that is shifted.
A frame without a line of an object means that it is absent; gaps inside a track are written as absent boxes.
Boxes may leave the image and are kept so. Lines with flag 0, which the benchmark does not score (cars, reflections,
static persons), are boxes like the others: their class is the object's category. Persons that are fully occluded are
boxed too.

A text file of the same lines, such as trackers write, is one clip over the `frames` that are named beside it.

MOT17 holds each sequence three times, once per public detector, with the same frames and boxes: one is read.
"""

from __future__ import annotations

import configparser
import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from rayvos import storage
from rayvos.annotations.box_lines import match_frames, read_text, xyxy_or_absent
from rayvos.annotations.clip_paths import Probe, clip_from_path, cut_clip
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.records import Box, Clip, ObjectInfo
from rayvos.errors import FormatError, IdError, UsageError

__all__ = ["detect", "read_mot"]

CLASSES = (
    "pedestrian",
    "person on vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non motorized vehicle",
    "static person",
    "distractor",
    "occluder",
    "occluder on the ground",
    "occluder full",
    "reflection",
    "crowd",
)
_DETECTOR = re.compile(r"-(DPM|FRCNN|SDP)$")
SPLITS = ("train", "test")
HEAD_BYTES = 4096

Rows = dict[int, dict[int, tuple[float, float, float, float]]]
"""By object, by frame: xyxy."""


def detect(source: str) -> bool:
    """Tell whether `source` is a MOT root, a split, one sequence, or a text file of its lines."""
    if source.lower().endswith(".txt"):
        return storage.exists(source) and _is_text(source)
    folder = next(iter(_sequences(source, None)), None)
    return folder is not None and storage.exists(storage.join(folder, "gt", "gt.txt"))


def read_mot(
    source: str,
    *,
    frames: str | None = None,
    probe: Probe | None = None,
    split: str | None = None,
    truncate: bool = False,
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield one clip per sequence.

    Args:
        source: the root, a split folder, one sequence, or a text file of boxes.
        frames: for a text file: the video or the folder of images.
        probe: reads a video's size and frame count; needed where `frames` is a video file.
        split: `train` or `test` of a root; None: all sequences with a gt.txt.
        truncate: where seqinfo.ini and the images differ in number, use the shorter count instead of raising.
        on_error: told of sequences that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format, or contradicts the images.
        IdError: an object has two boxes on one frame.
        UsageError: the split is not there.
        StorageError: a path cannot be read.
    """
    as_text = source.lower().endswith(".txt")
    if as_text is (frames is None):
        raise UsageError(
            f"{source}: boxes in a text file need --frames VIDEO_OR_FOLDER"
            if as_text
            else f"{source}: a folder of sequences holds its frames; leave out --frames"
        )

    def read(place: str) -> Clip:
        if frames is None:
            return _read(place, truncate)
        return _with_rows(clip_from_path(frames, probe=probe), place, truncate)

    places = [source] if as_text else _sequences(source, split)
    return stream_clips(places, read, _name, source=source, on_error=on_error)


def _name(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _sequences(source: str, split: str | None) -> list[str]:
    names = storage.list_folder(source)
    if "gt" in names or "seqinfo.ini" in names:
        return [source.rstrip("/")]
    splits = [name for name in SPLITS if name in names]
    if split is not None and split not in splits:
        raise UsageError(f"{source}: no folder {split!r}; leave out --split to take all")
    if splits:
        # Sequences of the test split come without gt.txt: they are left out unless they are asked for.
        inner = [folder for name in splits for folder in _sequences(storage.join(source, name), None)]
        chosen = [folder for folder in inner if split is None or f"/{split}/" in folder]
        return chosen if split else [folder for folder in chosen if storage.exists(storage.join(folder, "gt/gt.txt"))]
    first_of: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (not name.endswith("-FRCNN"), name)):
        if "." not in name:
            first_of.setdefault(_DETECTOR.sub("", name), name)
    folders = [storage.join(source, name) for name in sorted(first_of.values())]
    return [folder for folder in folders if {"gt", "img1", "seqinfo.ini"} & set(storage.list_folder(folder))]


def _read(folder: str, truncate: bool) -> Clip:
    info = _sequence_info(storage.join(folder, "seqinfo.ini"))
    path = storage.join(folder, "gt", "gt.txt")
    clip = clip_from_path(storage.join(folder, info.get("imdir", "img1")), clip_id=_name(folder))
    if "seqlength" in info:
        clip = cut_clip(
            clip, match_frames(_number(info, "seqlength", folder), clip.num_frames, folder, truncate=truncate)
        )
    clip = _with_rows(clip, path, truncate)
    return dataclasses.replace(clip, fps=float(_number(info, "framerate", folder)) if "framerate" in info else None)


def _with_rows(clip: Clip, path: str, truncate: bool) -> Clip:
    """Return the clip with the boxes of a text file."""
    rows, classes = _read_rows(path)
    sources = sorted(rows)
    last = max(max(frames) for frames in rows.values())
    if last >= clip.num_frames and not truncate:
        raise FormatError(
            f"{path}: a box on frame {last + 1}, but {clip.num_frames} frames in {clip.source.uri}; "
            "complete the download, or cut to the shorter one with --truncate"
        )
    boxes: list[Box] = []
    for object_id, source_id in enumerate(sources, 1):
        boxes += _track(rows[source_id], object_id, clip)
    objects = (ObjectInfo(number, classes[source_id], str(source_id)) for number, source_id in enumerate(sources, 1))
    return dataclasses.replace(clip, objects=tuple(objects), boxes=tuple(boxes))


def _track(frames: dict[int, tuple[float, float, float, float]], object_id: int, clip: Clip) -> Iterator[Box]:
    listed = sorted(frame for frame in frames if frame < clip.num_frames)
    for frame, following in pairwise([*listed, None]):
        if frame is not None:
            yield xyxy_or_absent(object_id, frame, frames[frame], (clip.height, clip.width))
            for gap in range(frame + 1, following or 0):
                yield Box(object_id, gap, 0, 0, 0, 0, visible=False)


def _is_text(path: str) -> bool:
    with storage.open_input(path) as file:
        line = file.readline(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    try:
        _row(line, path)
    except FormatError:
        return False
    return True


def _sequence_info(path: str) -> dict[str, str]:
    if not storage.exists(path):
        return {}
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(read_text(path))
    except configparser.Error as error:
        raise FormatError(f"{path}: expected [Sequence] and 'key=value' lines: {error}") from error
    return dict(parser["Sequence"]) if parser.has_section("Sequence") else {}


def _number(info: dict[str, str], key: str, folder: str) -> int:
    try:
        return int(float(info[key]))
    except ValueError as error:
        raise FormatError(f"{folder}/seqinfo.ini: {key}: expected a number, found {info[key]!r}") from error


def _read_rows(path: str) -> tuple[Rows, dict[int, str | None]]:
    rows: Rows = defaultdict(dict)
    classes: dict[int, str | None] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        frame, source_id, edges, category = _row(line, where)
        if frame in rows[source_id]:
            raise IdError(f"{where}: object {source_id} has two boxes on frame {frame + 1}; drop one")
        rows[source_id][frame] = edges
        classes.setdefault(source_id, category)
    if not rows:
        raise FormatError(f"{path}: expected a line per box, found none")
    return rows, classes


def _row(line: str, where: str) -> tuple[int, int, tuple[float, float, float, float], str | None]:
    try:
        values = [float(token) for token in re.split(r"[,\s]+", line.strip().rstrip(","))]
        frame, source_id = int(values[0]), int(values[1])
        left, top, width, height = values[2:6]
        finite = all(abs(value) < 1e9 for value in values[:6])
    except (ValueError, OverflowError):
        finite = False
    if not finite or frame < 1 or source_id < 0:
        raise FormatError(
            f"{where}: expected 'frame,id,left,top,width,height,…' with frames and ids from 1, found {line[:60]!r}"
        )
    # Nine columns hold a class; the ten of MOT15 hold a 3-D position there.
    number = int(values[7]) if len(values) == 9 else 0
    category = CLASSES[number - 1] if 1 <= number <= len(CLASSES) else None
    return frame - 1, source_id, (left - 1, top - 1, left - 1 + width, top - 1 + height), category
