"""SA-V: masklets in a json file beside each training video, or a PNG per object and frame (val, test).

Train: `<video>.mp4` with 24 frames a second, `<video>_manual.json` (or `_auto.json`), whose `masklet[i][k]` is the
compressed RLE of object k on video frame 4·i; a mask without a pixel says that the object is not visible there.

Val and test: `JPEGImages_24fps/<video>/00000.jpg`, `Annotations_6fps/<video>/<object>/00004.png`, any value above 0 is
the object. Objects may overlap. A missing PNG says that no mask is given. `<folder>.txt` lists the videos.

Ids start at 0 in the source (`source_id`), at 1 here.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayvos import storage
from rayvos.annotations.clip_paths import Probe
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.json_fields import JsonObject, json_keys, load_json, take, take_optional
from rayvos.annotations.formats.label_maps import fit_label_map, read_label_map
from rayvos.annotations.frame_listing import FolderListing, file_identity, list_frames, list_images, read_image_header
from rayvos.annotations.manifest import check_clip_id
from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.errors import FormatError, FrameSizeError, MissingPathError, choose
from rayvos.masks.rle import check_rle, mask_to_rle

__all__ = ["detect", "read_sav"]

logger = logging.getLogger(__name__)

FPS = 24.0
STEP = 4  # video frames between annotated ones: 6 of 24 a second
FRAMES, MASKS = "JPEGImages_24fps", "Annotations_6fps"
LENGTH_SLACK = 1  # frames by which a video may be shorter than its annotations say
_PART = re.compile(r"(sav_)?(train|val|test)|sav_\d{3}")

Masklets = Literal["manual", "auto"]


@dataclass(frozen=True, slots=True)
class _Video:
    folder: str
    name: str
    """Of the json file, or of the video's folders."""

    @property
    def is_json(self) -> bool:
        return self.name.endswith(".json")


def detect(source: str) -> bool:
    """Tell whether `source` is a masklet file, a folder of them, the folder of val or test, or holds such folders."""
    if source.lower().endswith(".json"):
        return "masklet" in json_keys(source)
    return next(_folders(source, None), None) is not None


def read_sav(
    source: str,
    *,
    split: str | None = None,
    masklets: Masklets = "manual",
    frames: str | None = None,
    probe: Probe | None = None,
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield one clip per video.

    Args:
        source: a masklet file, a folder of them, the folder of val or test, or the folder that holds these.
        split: `train`, `val` or `test` of a folder that holds several; None: all.
        masklets: of training videos, those drawn by people or those made by a program.
        frames: the folder of the training videos; None: beside the json files, where a video that is not there is
            logged and its json file trusted.
        probe: measures training videos; None trusts the json files.
        on_error: told of videos that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format.
        FrameSizeError: a mask or a video has another size than the other.
        MissingPathError: nothing of SA-V is there.
        StorageError: a path cannot be read.
    """
    choose("masklets", masklets, ("manual", "auto"))
    missing: list[str] = []

    def read(video: _Video) -> Clip:
        if not video.is_json:
            return _read_pictures(video)
        clip = _read_masklets(video, frames or video.folder)
        if frames is None and not storage.exists(clip.source.uri):
            missing.append(clip.source.uri)
            return clip
        return _measured(clip, probe)

    def name_of(video: _Video) -> str:
        return re.sub(r"_(manual|auto)\.json$", "", video.name)

    yield from stream_clips(_videos(source, split, masklets), read, name_of, source=source, on_error=on_error)
    if missing:
        logger.warning("videos_not_found videos=%d first=%s", len(missing), min(missing))


def _videos(source: str, split: str | None, masklets: Masklets) -> Iterator[_Video]:
    if source.lower().endswith(".json"):
        folder, _, name = source.rpartition("/")
        yield _Video(folder or ".", name)
        return
    found = False
    for folder in _folders(source, split):
        found = True
        names = storage.list_folder(folder)
        if MASKS not in names:
            yield from (_Video(folder, name) for name in names if name.endswith(f"_{masklets}.json"))
            continue
        lists = [name for name in names if name.endswith(".txt")]
        if len(lists) == 1:
            listed = storage.read_bytes(storage.join(folder, lists[0])).decode("utf-8", "replace").split()
        else:
            listed = [name for name in storage.list_folder(storage.join(folder, MASKS)) if not name.startswith(".")]
        yield from (_Video(folder, name) for name in listed)
    if not found:
        what = "masklet files or folders" if split is None else f"the split {split!r} with masklet files or folders"
        raise MissingPathError(
            f"{source}: expected {what} {FRAMES} and {MASKS}, found neither; name the folder of a split"
        )


def _folders(source: str, split: str | None, depth: int = 2) -> Iterator[str]:
    """Yield the folders that hold masklet files or pictures, from `source` down through folders named like parts."""
    names = storage.list_folder(source)
    if {FRAMES, MASKS} <= set(names) or any(name.endswith(("_manual.json", "_auto.json")) for name in names):
        yield source
        return
    for name in names if depth else ():
        if _PART.fullmatch(name) and (split is None or name.removeprefix("sav_") == split):
            yield from _folders(storage.join(source, name), None, depth - 1)


def _read_masklets(video: _Video, video_folder: str) -> Clip:
    where = storage.join(video.folder, video.name)
    content = load_json(where)
    clip_id = check_clip_id(take(content, "video_id", str, where), f"{where}: video_id")
    height, width, num_frames = (
        _count(content, key, where) for key in ("video_height", "video_width", "video_frame_count")
    )
    rows = take(content, "masklet", list, where)
    frames = _annotated_frames(len(rows), num_frames, where)
    source_ids = _source_ids(content, rows, where)
    machine_made = video.name.endswith("_auto.json")
    masks = [
        MaskPrompt(
            object_id, frame, _rle(row[object_id - 1], height, width, f"{where}: masklet[{index}]"), machine_made
        )
        for object_id in range(1, len(source_ids) + 1)
        for index, (frame, row) in enumerate(zip(frames, rows, strict=True))
    ]
    source = ClipSource("video", storage.join(video_folder, f"{clip_id}.mp4"))
    return Clip(
        clip_id, source, height, width, num_frames, FPS,
        objects=tuple(ObjectInfo(number, None, str(known)) for number, known in enumerate(source_ids, 1)),
        masks=tuple(masks), annotated_frames=frames,
    )  # fmt: skip


def _measured(clip: Clip, probe: Probe | None) -> Clip:
    """Return the clip with what its video says of itself."""
    path = clip.source.uri
    source = dataclasses.replace(clip.source, identity=file_identity(path))
    if probe is None:
        return dataclasses.replace(clip, source=source)
    info = probe(path)
    if (info.height, info.width) != (clip.height, clip.width):
        raise FrameSizeError(
            f"{path}: the video is {info.height}x{info.width}, its masks {clip.height}x{clip.width}; "
            "they do not belong together"
        )
    known = clip.annotated_frames or ()
    new_frame = dict(zip(known, _annotated_frames(len(known), info.num_frames, path), strict=True))
    return dataclasses.replace(
        clip,
        source=source,
        num_frames=info.num_frames,
        fps=info.fps or FPS,
        masks=tuple(dataclasses.replace(mask, frame=new_frame[mask.frame]) for mask in clip.masks),
        annotated_frames=tuple(new_frame.values()),
    )


def _count(content: JsonObject, key: str, where: str) -> int:
    """Return a count that the files write as a float."""
    value = take(content, key, float, where)
    if value < 1 or value != int(value):
        raise FormatError(f"{where}: {key}: expected a whole number from 1, found {value}")
    return int(value)


def _annotated_frames(num_rows: int, num_frames: int, where: str) -> tuple[int, ...]:
    last = STEP * (num_rows - 1)
    if num_rows == 0 or last > num_frames - 1 + LENGTH_SLACK:
        raise FormatError(
            f"{where}: masklet: expected an entry for every {STEP}th of {num_frames} video frames, found {num_rows}; "
            "do video and masks belong together?"
        )
    return tuple(min(STEP * index, num_frames - 1) for index in range(num_rows))


def _source_ids(content: JsonObject, rows: Sequence[Any], where: str) -> list[int]:
    known = take_optional(content, "masklet_id", list, where)
    count = len(rows[0]) if isinstance(rows[0], list) else 0
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != count:
            raise FormatError(
                f"{where}: masklet[{index}]: expected a mask for each of {count} objects, found {row!r:.40}"
            )
    if known is None:
        return list(range(count))
    if len(known) != count or not all(isinstance(number, int) for number in known) or len(set(known)) < count:
        raise FormatError(f"{where}: masklet_id: expected {count} different whole numbers, found {known!r:.60}")
    return known


def _rle(found: Any, height: int, width: int, where: str) -> bytes | None:
    if found is None:
        return None
    size = take(found, "size", list, where)
    if size != [height, width]:
        raise FormatError(f"{where}: size {size!r:.40} differs from the video's [{height}, {width}]")
    try:
        return check_rle(take(found, "counts", str, where).encode("ascii", "replace"), height, width)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


def _read_pictures(video: _Video) -> Clip:
    check_clip_id(video.name, f"{video.folder}: video")
    frames = list_frames(storage.join(video.folder, FRAMES, video.name))
    header = read_image_header(storage.join(frames.folder, frames.names[0]))
    folder = storage.join(video.folder, MASKS, video.name)
    names = [name for name in storage.list_folder(folder) if not name.startswith(".")]
    if not names or not all(name.isascii() and name.isdigit() for name in names):
        raise FormatError(f"{folder}: expected a folder per object, named by its number, found {names[:5]}")
    source_ids = sorted(names, key=int)
    masks = [
        MaskPrompt(object_id, frame, rle)
        for object_id, name in enumerate(source_ids, 1)
        for frame, rle in _object_masks(storage.join(folder, name), frames, header.height, header.width)
    ]
    annotated = tuple(sorted({mask.frame for mask in masks}))
    return Clip(
        video.name, ClipSource("images", frames.folder, frames.names, identity=frames.identity),
        header.height, header.width, len(frames.names), FPS,
        objects=tuple(ObjectInfo(number, None, str(int(name))) for number, name in enumerate(source_ids, 1)),
        masks=tuple(masks), annotated_frames=annotated if len(annotated) < len(frames.names) else None,
    )  # fmt: skip


def _object_masks(folder: str, frames: FolderListing, height: int, width: int) -> Iterator[tuple[int, bytes]]:
    frame_of = {name.rpartition(".")[0]: frame for frame, name in enumerate(frames.names)}
    for name in list_images(folder).names:
        path = storage.join(folder, name)
        frame = frame_of.get(name.rpartition(".")[0])
        if frame is None:
            raise FormatError(f"{path}: no frame of this name in {frames.folder}; restore it")
        yield frame, mask_to_rle(fit_label_map(read_label_map(path), height, width, path).ids > 0)
