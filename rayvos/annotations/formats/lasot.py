"""LaSOT: one object per sequence, a box on every frame, and two files that say where it cannot be seen.

`<root>/<class>/<class>-<n>/{img/00000001.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt}`; some copies drop
the class level. Boxes are `x,y,w,h`; they are taken as they are, like the common loaders do (no shift by one pixel).
Visible = not occluded, not out of view, and an area above zero.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np

from rayvos import storage
from rayvos.annotations.box_lines import boxes_of_track, match_frames, read_box_lines, read_flags, read_text
from rayvos.annotations.clip_paths import clip_from_path, cut_clip
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.records import Clip, ObjectInfo

__all__ = ["detect", "read_lasot"]

_SEQUENCE = re.compile(r"(?P<category>.+)-\d+")
FLAG_FILES = ("full_occlusion.txt", "out_of_view.txt")


def detect(source: str) -> bool:
    """Tell whether `source` is a LaSOT root, a class folder or one sequence."""
    folder = next(_sequences(source, None), None)
    return (
        folder is not None
        and storage.exists(storage.join(folder, "groundtruth.txt"))
        and storage.exists(storage.join(folder, "img"))
    )


def read_lasot(
    source: str, *, split: str | None = None, truncate: bool = False, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield one clip per sequence, with one object.

    Args:
        source: the root, a class folder, or one sequence.
        split: `train` or `test`, listed in `training_set.txt` or `testing_set.txt` of the root; None: all.
        truncate: where boxes and images differ in number, use the shorter count instead of raising.
        on_error: told of sequences that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format, or boxes and images differ in number.
        StorageError: a path cannot be read.
    """
    wanted = None if split is None else _split_names(source, split)
    return stream_clips(
        _sequences(source, wanted), lambda folder: _read(folder, truncate), _name, source=source, on_error=on_error
    )


def _name(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _split_names(source: str, split: str) -> set[str]:
    names = {"train": "training_set.txt", "test": "testing_set.txt"}
    path = storage.join(source, names.get(split, f"{split}.txt"))
    return set(read_text(path).split())


def _sequences(source: str, wanted: set[str] | None) -> Iterator[str]:
    """Yield the sequence folders; a folder named like one is not opened to find out."""
    if storage.exists(storage.join(source, "groundtruth.txt")):
        yield source.rstrip("/")
        return
    for name in storage.list_folder(source):
        folder = storage.join(source, name)
        if _SEQUENCE.fullmatch(name):
            if wanted is None or name in wanted:
                yield folder
            continue
        for inner in storage.list_folder(folder) if "." not in name else ():
            if _SEQUENCE.fullmatch(inner) and (wanted is None or inner in wanted):
                yield storage.join(folder, inner)


def _read(folder: str, truncate: bool) -> Clip:
    xywh = read_box_lines(storage.join(folder, "groundtruth.txt"))
    clip = clip_from_path(storage.join(folder, "img"), clip_id=_name(folder))
    visible = np.ones(len(xywh), np.bool_)
    for flags in FLAG_FILES:
        path = storage.join(folder, flags)
        if storage.exists(path):
            visible &= read_flags(path, len(xywh)) == 0
    clip = cut_clip(clip, match_frames(len(xywh), clip.num_frames, folder, truncate=truncate))
    category = _SEQUENCE.fullmatch(clip.clip_id)
    return dataclasses.replace(
        clip,
        objects=(ObjectInfo(1, category["category"] if category else None, "1"),),
        boxes=boxes_of_track(xywh[: clip.num_frames], visible[: clip.num_frames], (clip.height, clip.width)),
    )
