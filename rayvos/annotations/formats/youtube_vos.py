"""YouTube-VOS 2018 and 2019, and data sets laid out like it: MOSE, LVOS, VOS splits of OVIS.

`<split>/JPEGImages/<video>/00005.jpg`, `<split>/Annotations/<video>/00005.png`, `<split>/meta.json`. Frame names are
kept, ids too (as `source_id`; they are not contiguous); pixels are ids, 255 is void.

Two kinds of videos, told apart by `meta.json`:

- all frames listed there have a file (`train`): each is a mask. On a frame that is annotated for other objects only,
  an object is absent.
- only first appearances have one (`valid`, `test`): an object's prompt is its mask in the first frame listed for it
  or, where it is not drawn there, in the first file that shows it. Objects drawn again later are passed over.

Without `meta.json` a video is of the first kind if every frame has a file or its split is called `train…`; then an
object without a pixel in a file is empty there, and masks that are black and white throughout show one object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rayvos import storage
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.davis import RESOLUTIONS
from rayvos.annotations.formats.json_fields import load_json, take, take_optional
from rayvos.annotations.formats.mask_folder import ClipMasks, mask_clip, read_clip_masks
from rayvos.annotations.manifest import check_clip_id
from rayvos.annotations.records import Clip
from rayvos.errors import FormatError, MissingPathError

__all__ = ["detect", "read_requested_frames", "read_youtube_vos"]

_SPLIT = re.compile(r"(train|val|test)[\w-]*")

Rows = dict[int, list[tuple[int, bytes | None]]]


@dataclass(frozen=True, slots=True)
class _Split:
    path: str
    name: str
    prefix: str
    """In front of the clips' ids: the split's name where several are read together."""


@dataclass(frozen=True, slots=True)
class _Object:
    category: str | None
    frames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Video:
    split: _Split
    video_id: str
    meta: object
    """What `meta.json` says of it, None where there is no such file."""

    @property
    def clip_id(self) -> str:
        return self.split.prefix + self.video_id


def detect(source: str) -> bool:
    """Tell whether `source` is a YouTube-VOS root or split: `JPEGImages` and `Annotations` with a folder per video."""
    splits = _splits(source)
    if not splits:
        return False
    images = storage.list_folder(storage.join(splits[0].path, "JPEGImages"))
    return bool(images) and not set(images) & set(RESOLUTIONS)


def read_youtube_vos(
    source: str,
    *,
    split: str | None = None,
    frames: str | None = None,
    truncate: bool = False,
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield one clip per video.

    Args:
        source: the folder of a split, or the root that holds the splits.
        split: `train`, `valid`, … of a root; None: all that have annotations, with the split's name in front of the
            clips' ids where there are several.
        frames: folder that holds the videos' frames in place of the split's own, such as
            `valid_all_frames/JPEGImages`.
        truncate: leave out masks without a frame instead of raising.
        on_error: told of videos that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format.
        MissingPathError: the split, or a folder, is not there.
        StorageError: a path cannot be read.
    """
    splits = _wanted_splits(source, split)
    if frames is not None and "JPEGImages" in storage.list_folder(frames):
        frames = storage.join(frames, "JPEGImages")
    return stream_clips(
        (video for chosen in splits for video in _videos(chosen)),
        lambda video: _read(video, frames, truncate),
        lambda video: video.clip_id,
        source=source,
        on_error=on_error,
    )


def read_requested_frames(source: str, *, split: str | None = None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the frame names that results are wanted for: by clip id and source id, as `meta.json` lists them.

    Raises:
        FormatError: `meta.json` does not follow the format.
        MissingPathError: the split, or its `meta.json`, is not there.
        StorageError: a path cannot be read.
    """
    wanted = {}
    for chosen in _wanted_splits(source, split):
        for video in _videos(chosen):
            if video.meta is None:
                raise MissingPathError(f"{chosen.path}: expected meta.json, which lists the frames; it is not there")
            wanted[video.clip_id] = {str(value): known.frames for value, known in _objects(video).items()}
    return wanted


def _splits(source: str) -> list[_Split]:
    names = set(storage.list_folder(source))
    if {"JPEGImages", "Annotations"} <= names:
        return [_Split(source, source.rstrip("/").rpartition("/")[2], "")]
    found = []
    for name in sorted(names):
        path = storage.join(source, name)
        # Only names of splits are looked into: the source may be a folder of a million other things.
        if _SPLIT.fullmatch(name) and {"JPEGImages", "Annotations"} <= set(storage.list_folder(path)):
            found.append((path, name))
    return [_Split(path, name, f"{name}/" if len(found) > 1 else "") for path, name in found]


def _wanted_splits(source: str, split: str | None) -> list[_Split]:
    found = _splits(source)
    if split is not None:
        found = [_Split(known.path, known.name, "") for known in found if known.name == split]
    if not found:
        what = "a split" if split is None else f"the split {split!r}"
        raise MissingPathError(f"{source}: expected {what} with folders JPEGImages and Annotations, found none")
    return found


def _videos(split: _Split) -> Iterator[_Video]:
    path = storage.join(split.path, "meta.json")
    if storage.exists(path):
        videos = take(load_json(path), "videos", dict, path)
        for video_id, meta in videos.items():
            yield _Video(split, str(video_id), meta if meta is not None else {})
        return
    for video_id in storage.list_folder(storage.join(split.path, "Annotations")):
        if not video_id.startswith("."):
            yield _Video(split, video_id, None)


def _objects(video: _Video) -> dict[int, _Object]:
    """Return what `meta.json` says of the video's objects, by pixel value."""
    where = f"{storage.join(video.split.path, 'meta.json')}: video {video.video_id!r}"
    found = {}
    for name, known in take(video.meta, "objects", dict, where).items():
        place = f"{where} object {name!r}"
        if not (name.isascii() and name.isdigit() and int(name) > 0):
            raise FormatError(f"{place}: expected the pixel value, a whole number from 1")
        frames = take(known, "frames", list, place)
        if not frames or not all(isinstance(frame, str) for frame in frames):
            raise FormatError(f"{place}: frames: expected names of frames, found {frames!r:.60}")
        found[int(name)] = _Object(take_optional(known, "category", str, place), tuple(frames))
    return found


def _read(video: _Video, frames: str | None, truncate: bool) -> Clip:
    check_clip_id(video.video_id, f"{video.split.path}: video")
    images = storage.join(frames or storage.join(video.split.path, "JPEGImages"), video.video_id)
    masks = storage.join(video.split.path, "Annotations", video.video_id)
    found = read_clip_masks(images, masks, truncate=truncate)
    is_train = video.split.name.startswith("train")
    if video.meta is None:
        if found.is_binary:
            found = found.as_one_object()
        full = is_train or len(found.rles) == len(found.frames.names)
        rows = _drawn(found) if full else _first_appearances(found, {})
        return mask_clip(video.clip_id, found, rows, annotated=found.rles.keys() if full else None)
    objects = _objects(video)
    listed = _frames_of(objects, found, masks)
    missing = sorted({frame for frames in listed.values() for frame in frames} - set(found.rles))
    if missing and is_train:
        name = found.frames.names[missing[0]].rpartition(".")[0] + ".png"
        raise FormatError(
            f"{storage.join(masks, name)}: expected a mask, since meta.json lists the frame "
            f"({len(missing)} such frames); restore the files"
        )
    categories = {value: known.category for value, known in objects.items()}
    if missing:
        starts = {value: frames[0] for value, frames in listed.items()}
        return mask_clip(video.clip_id, found, _first_appearances(found, starts), categories=categories)
    rows = _drawn(found, listed)
    return mask_clip(video.clip_id, found, rows, categories=categories, annotated=found.rles.keys())


def _frames_of(objects: Mapping[int, _Object], found: ClipMasks, where: str) -> dict[int, list[int]]:
    listed = {}
    for value, known in objects.items():
        unknown = [name for name in known.frames if name not in found.frame_of]
        if unknown:
            raise FormatError(
                f"{where}: meta.json lists frame {unknown[0]!r} for object {value}, but {found.frames.folder} has no "
                "such frame; restore it"
            )
        listed[value] = sorted(found.frame_of[name] for name in known.frames)
    return listed


def _drawn(found: ClipMasks, listed: Mapping[int, list[int]] | None = None) -> Rows:
    """Return every mask; where an object has no pixel it is empty, or absent where `listed` leaves out the frame."""
    rows: Rows = {}
    for value in sorted({*found.object_values, *(listed or {})}):
        shown = None if listed is None else set(listed.get(value, ()))
        rows[value] = [
            (frame, rles.get(value, found.empty if shown is None or frame in shown else None))
            for frame, rles in found.rles.items()
        ]
    return rows


def _first_appearances(found: ClipMasks, starts: Mapping[int, int]) -> Rows:
    """Return one mask per object: that of its start or, where it has none there, the first that shows it."""
    rows: Rows = {}
    for value in sorted(starts) or found.object_values:
        showing = [frame for frame, rles in found.rles.items() if value in rles]
        start = starts.get(value)
        first = start if start in showing else min(showing, default=None)
        if first is None:
            raise FormatError(
                f"{found.frames.folder}: meta.json lists object {value}, but no mask of the video shows it"
            )
        rows[value] = [(first, found.rles[first][value])]
    return rows
