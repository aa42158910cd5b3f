"""GOT-10k: one object per sequence, a box on every frame of the training and validation splits, the first of `test`.

`{train,val,test}/{list.txt, GOT-10k_Train_000001/{00000001.jpg, groundtruth.txt, absence.label, cover.label,
meta_info.ini}}`. Boxes are `x,y,w,h`, taken as they are. A frame is absent where `absence.label` is 1 or
`cover.label`, the visible share in eighths, is 0; a cover that is 0 throughout is a known error of some sequences
and says nothing.
"""

from __future__ import annotations

import configparser
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.box_lines import boxes_of_track, match_frames, read_box_lines, read_flags, read_text
from rayvos.annotations.clip_paths import clip_from_path, cut_clip
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.records import Clip, ObjectInfo
from rayvos.errors import FormatError, UsageError

__all__ = ["detect", "read_got10k"]

SPLITS = ("train", "val", "test")


def detect(source: str) -> bool:
    """Tell whether `source` is a GOT-10k root, a split, or one sequence."""
    try:
        folder = next(_sequences(source, None), None)
    except FormatError:
        return False
    if folder is None:
        return False
    names = set(storage.list_folder(folder))
    return "groundtruth.txt" in names and "img" not in names and bool(names & {"absence.label", "meta_info.ini"})


def read_got10k(
    source: str, *, split: str | None = None, truncate: bool = False, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield one clip per sequence, with one object.

    Args:
        source: the root, a split folder, or one sequence.
        split: `train`, `val` or `test` of a root; None: all that are there.
        truncate: where boxes and images differ in number, use the shorter count instead of raising.
        on_error: told of sequences that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format, or boxes and images differ in number.
        UsageError: the split is not there.
        StorageError: a path cannot be read.
    """
    return stream_clips(
        _sequences(source, split), lambda folder: _read(folder, truncate), _name, source=source, on_error=on_error
    )


def _name(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _sequences(source: str, split: str | None) -> Iterator[str]:
    names = storage.list_folder(source)
    if "groundtruth.txt" in names:
        yield source.rstrip("/")
        return
    splits = [name for name in SPLITS if name in names]
    if split is not None and split not in splits:
        found = f"found {', '.join(splits)}" if splits else "found no split folders"
        raise UsageError(f"{source}: expected a folder {split!r}, {found}; leave out --split to take all")
    for name in [split] if split else splits:
        yield from _listed(storage.join(source, name))
    if not splits:
        yield from _listed(source)


def _listed(folder: str) -> Iterator[str]:
    path = storage.join(folder, "list.txt")
    if storage.exists(path):
        names = read_text(path).split()
    else:
        names = [name for name in storage.list_folder(folder) if "." not in name]
    yield from (storage.join(folder, name) for name in names)


def _read(folder: str, truncate: bool) -> Clip:
    xywh = read_box_lines(storage.join(folder, "groundtruth.txt"))
    clip = clip_from_path(folder, clip_id=_name(folder))
    only_first = len(xywh) == 1 < clip.num_frames
    if not only_first:
        clip = cut_clip(clip, match_frames(len(xywh), clip.num_frames, folder, truncate=truncate))
        visible = _visible(folder, len(xywh))[: clip.num_frames]
        xywh = xywh[: clip.num_frames]
    else:
        visible = np.ones(1, np.bool_)
    return dataclasses.replace(
        clip,
        objects=(ObjectInfo(1, _category(folder), "1"),),
        boxes=boxes_of_track(xywh, visible, (clip.height, clip.width)),
        annotated_frames=(0,) if only_first else None,
    )


def _visible(folder: str, num_frames: int) -> NDArray[np.bool_]:
    visible = np.ones(num_frames, np.bool_)
    absence, cover = storage.join(folder, "absence.label"), storage.join(folder, "cover.label")
    if storage.exists(absence):
        visible &= read_flags(absence, num_frames) == 0
    if storage.exists(cover):
        eighths = read_flags(cover, num_frames)
        if eighths.any():
            visible &= eighths > 0
    return visible


def _category(folder: str) -> str | None:
    path = storage.join(folder, "meta_info.ini")
    if not storage.exists(path):
        return None
    meta = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        meta.read_string(read_text(path))
    except configparser.Error as error:
        raise FormatError(f"{path}: expected [METAINFO] and 'key: value' lines: {error}") from error
    return meta.get("METAINFO", "object_class", fallback=None)
