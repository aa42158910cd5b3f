"""TrackingNet: one object per video, a box on every frame of `TRAIN_*`, on the first frame of `TEST`.

`{TRAIN_0 … TRAIN_11, TEST}/{frames/<video>/0.jpg, 1.jpg, …, anno/<video>.txt}`: frame names are numbers without
padding, boxes `x,y,w,h`, taken as they are. Only one box a second was drawn by a person, trackers made the others:
boxes leave the image and are plainly wrong in places, and no flag says where.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from rayvos import storage
from rayvos.annotations.box_lines import boxes_of_track, match_frames, read_box_lines
from rayvos.annotations.clip_paths import clip_from_path, cut_clip
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.records import Clip, ObjectInfo
from rayvos.errors import UsageError

__all__ = ["detect", "read_trackingnet"]

_CHUNK = re.compile(r"TRAIN_(\d+)|TEST")


def detect(source: str) -> bool:
    """Tell whether `source` is a TrackingNet root or one of its chunks (`TRAIN_0`)."""
    return any({"frames", "anno"} <= set(storage.list_folder(chunk)) for chunk in _chunks(source)[:1])


def read_trackingnet(
    source: str, *, split: str | None = None, truncate: bool = False, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield one clip per video, with one object; ids are `<chunk>/<video>`.

    Args:
        source: the root, or one chunk.
        split: `train`, `test`, or one chunk (`TRAIN_3`); None: all chunks that are there.
        truncate: where boxes and images differ in number, use the shorter count instead of raising.
        on_error: told of videos that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format, or boxes and images differ in number.
        UsageError: the split is not there.
        StorageError: a path cannot be read.
    """
    chunks = _chunks(source)
    if split is not None:
        chosen = [chunk for chunk in chunks if _last(chunk).lower().startswith(split.lower().rstrip("_"))]
        exact = [chunk for chunk in chosen if _last(chunk).lower() == split.lower()]
        if not chosen:
            found = ", ".join(_last(chunk) for chunk in chunks) or "none"
            raise UsageError(f"{source}: no chunk of split {split!r}; there are {found}")
        chunks = exact or chosen
    return stream_clips(
        _videos(chunks), lambda item: _read(*item, truncate=truncate), _clip_id, source=source, on_error=on_error
    )


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _clip_id(item: tuple[str, str]) -> str:
    chunk, video = item
    return f"{_last(chunk)}/{video}"


def _chunks(source: str) -> list[str]:
    """Return the chunk folders, `TRAIN_2` before `TRAIN_10`."""
    names = storage.list_folder(source)
    if "anno" in names:
        return [source.rstrip("/")]
    found = [(match, name) for name in names if (match := _CHUNK.fullmatch(name))]
    found.sort(key=lambda pair: (pair[0][1] is None, int(pair[0][1] or 0)))
    return [storage.join(source, name) for _, name in found]


def _videos(chunks: list[str]) -> Iterator[tuple[str, str]]:
    for chunk in chunks:
        for name in storage.list_folder(storage.join(chunk, "anno")):
            if name.endswith(".txt"):
                yield chunk, name.removesuffix(".txt")


def _read(chunk: str, video: str, *, truncate: bool) -> Clip:
    path = storage.join(chunk, "anno", f"{video}.txt")
    xywh = read_box_lines(path)
    clip = clip_from_path(storage.join(chunk, "frames", video), clip_id=_clip_id((chunk, video)))
    only_first = len(xywh) == 1 < clip.num_frames
    if not only_first:
        clip = cut_clip(clip, match_frames(len(xywh), clip.num_frames, path, truncate=truncate))
    xywh = xywh[: clip.num_frames]
    return dataclasses.replace(
        clip,
        objects=(ObjectInfo(1, None, "1"),),
        boxes=boxes_of_track(xywh, np.ones(len(xywh), np.bool_), (clip.height, clip.width)),
        annotated_frames=(0,) if only_first else None,
    )
