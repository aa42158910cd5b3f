"""Writes one clip's labels as PNG files: the layouts of DAVIS, YouTube-VOS and SA-V.

They are one file, since they differ in names and pixel values only:

| layout | file | pixel |
|---|---|---|
| DAVIS | `<clip>/<frame>.png` | object id, palette |
| YouTube-VOS | `Annotations/<clip>/<frame>.png`, `meta.json` | the source's object id where it is a number, palette |
| SA-V | `<clip>/<object, 3 digits>/<frame>.png` | 1 on the object, 1 bit |

`<frame>` is the source's frame name (`00005` of `00005.jpg`), else the 0-based number with 5 digits. There is a file
for every labelled frame, absent objects included; a SA-V label below the minimum score has no file, which that
format reads as "no mask given". 255 is 'ignore'; a clip with ids of 255 and more is written as 16-bit grey with 65535
as 'ignore', for all of its frames.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from rayvos import storage
from rayvos.annotations.formats.label_maps import write_label_map
from rayvos.annotations.label_frames import (
    FrameLabel,
    Overlap,
    frame_names,
    frames_of,
    given_boxes,
    ignore_value,
    is_accepted,
    to_label_map,
)
from rayvos.annotations.records import Clip

__all__ = ["sav_names", "write_davis_clip", "write_sav_clip", "write_youtube_vos_clip", "youtube_vos_values"]

_THREADS = 4  # decoding masks, zlib and uploads all release the interpreter lock
_FRAMES_AHEAD = 64


def write_davis_clip(
    clip: Clip, table: pa.Table, folder: str, *, overlap: Overlap = "score", min_score: float = 0.0
) -> int:
    """Write a label map per labelled frame into `folder` and return the number of files.

    Args:
        clip: the clip.
        table: its labels, as `iter_labels` gives them.
        folder: path or URL of the clip's folder.
        overlap: who gets a shared pixel.
        min_score: the given box of a label below is filled with 'ignore'.

    Raises:
        IdError: a frame's name cannot name a file.
        InputError: a mask is damaged.
        StorageError: a file cannot be written.
    """
    values = {object_id: object_id for object_id in clip.object_ids()}
    return _write_label_maps(clip, table, folder, values, overlap=overlap, min_score=min_score)


def youtube_vos_values(clip: Clip) -> dict[int, int]:
    """Return the pixel value of each object: the source's ids if all are whole numbers from 1, else our own."""
    numbers = _source_numbers(clip)
    if numbers is None or not all(0 < number < 65535 for number in numbers.values()):
        return {object_id: object_id for object_id in clip.object_ids()}
    return numbers


def _source_numbers(clip: Clip) -> dict[int, int] | None:
    """Return the source's object ids as numbers by our id, or None unless all are different whole numbers."""
    names = {known.object_id: known.source_id or "" for known in clip.objects}
    if not all(name.isascii() and name.isdigit() and len(name) <= 9 for name in names.values()):
        return None
    numbers = {object_id: int(name) for object_id, name in names.items()}
    return numbers if len(set(numbers.values())) == len(numbers) else None


def write_youtube_vos_clip(
    clip: Clip, table: pa.Table, folder: str, *, overlap: Overlap = "score", min_score: float = 0.0
) -> tuple[int, dict[str, dict[str, object]]]:
    """Write a label map per labelled frame into `folder`, with the source's object ids.

    Args:
        clip: the clip.
        table: its labels, as `iter_labels` gives them.
        folder: path or URL of `Annotations/<clip>`.
        overlap: who gets a shared pixel.
        min_score: the given box of a label below is filled with 'ignore'.

    Returns:
        The number of files, and what `meta.json` says of the clip's objects: `{"<id>": {"category", "frames"}}` with
        the names of the frames that show an accepted mask; an object without any is left out.

    Raises:
        IdError: a frame's name cannot name a file.
        InputError: a mask is damaged.
        StorageError: a file cannot be written.
    """
    values = youtube_vos_values(clip)
    num_files = _write_label_maps(clip, table, folder, values, overlap=overlap, min_score=min_score)
    names = frame_names(clip)
    shown: dict[int, list[str]] = {}
    for frame, labels in frames_of(table):
        for label in labels:
            if label.rle is not None and label.area and is_accepted(label, min_score):
                shown.setdefault(label.object_id, []).append(names[frame])
    categories = {known.object_id: known.category or "object" for known in clip.objects}
    meta: dict[str, dict[str, object]] = {
        str(values[object_id]): {"category": categories[object_id], "frames": frames}
        for object_id, frames in sorted(shown.items())
    }
    return num_files, meta


def _write_label_maps(
    clip: Clip, table: pa.Table, folder: str, values: Mapping[int, int], *, overlap: Overlap, min_score: float
) -> int:
    names, boxes = frame_names(clip), given_boxes(clip)
    ignore = ignore_value(list(values.values()))

    def write(item: tuple[int, list[FrameLabel]]) -> int:
        frame, labels = item
        found = to_label_map(
            labels, clip.height, clip.width,
            values=values, ignore=ignore, boxes=boxes.get(frame), overlap=overlap, min_score=min_score,
        )  # fmt: skip
        write_label_map(storage.join(folder, f"{names[frame]}.png"), found)
        return 1

    return sum(_side_by_side(write, frames_of(table)))


def sav_names(clip: Clip) -> dict[int, str]:
    """Return the folder name of each object: the source's number if all have one, else our id less 1; 3 digits."""
    numbers = _source_numbers(clip) or {object_id: object_id - 1 for object_id in clip.object_ids()}
    return {object_id: f"{number:03d}" for object_id, number in numbers.items()}


def write_sav_clip(clip: Clip, table: pa.Table, folder: str, *, min_score: float = 0.0) -> int:
    """Write a 1-bit PNG per object and labelled frame into `folder/<object>` and return the number of files.

    Objects may overlap here. An absent object has an empty picture; a label below `min_score` has none.

    Args:
        clip: the clip.
        table: its labels, as `iter_labels` gives them.
        folder: path or URL of the clip's folder.
        min_score: labels below are left out.

    Raises:
        IdError: a frame's name cannot name a file.
        InputError: a mask is damaged.
        StorageError: a file cannot be written.
    """
    from rayvos.masks.rle import rle_to_mask

    names, folders = frame_names(clip), sav_names(clip)

    def write(item: tuple[int, list[FrameLabel]]) -> int:
        frame, labels = item
        num_files = 0
        for label in labels:
            if not is_accepted(label, min_score):
                continue
            mask = np.zeros((clip.height, clip.width), np.bool_)
            if label.rle is not None:
                mask = rle_to_mask(label.rle, clip.height, clip.width)
            path = storage.join(folder, folders[label.object_id], f"{names[frame]}.png")
            storage.write_bytes(path, _encode_mask(mask))
            num_files += 1
        return num_files

    return sum(_side_by_side(write, frames_of(table)))


def _encode_mask(mask: NDArray[np.bool_]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def _side_by_side(
    write: Callable[[tuple[int, list[FrameLabel]]], int], frames: Iterator[tuple[int, list[FrameLabel]]]
) -> Iterator[int]:
    """Yield the results of `write` in order; some frames are in memory at a time, however long the clip."""
    with ThreadPoolExecutor(_THREADS, "png") as pool:
        while chunk := list(itertools.islice(frames, _FRAMES_AHEAD)):
            yield from pool.map(write, chunk)
