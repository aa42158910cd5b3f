"""YouTube-VIS json: videos as lists of file names, an object's masks and boxes as lists of the same length.

`null` in `segmentations` or `bboxes` says that the object is absent in that frame; an RLE without a pixel, that it is
annotated and empty. RLE is compressed or not; polygons are read, too. Boxes are `[x, y, width, height]`, 0-based. A
frame's index is its position in `file_names`, not the number in its name. Test files have no `annotations`: their
clips have no objects. Annotations of crowds are left out.

Clips are named after the folder of their frames where the file has one per video, else by the video's id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.coco import (
    category_name,
    category_names,
    check_size,
    group_by,
    segmentation_to_rle,
    xywh_to_xyxy,
)
from rayvos.annotations.formats.json_fields import JsonObject, json_keys, load_json, take, take_optional
from rayvos.annotations.listed_frames import ListedFrames, guesses_beside
from rayvos.annotations.records import Box, Clip, MaskPrompt, ObjectInfo
from rayvos.errors import FormatError
from rayvos.masks.rle import uncompressed_to_rle

__all__ = ["detect", "read_youtube_vis"]


def detect(source: str) -> bool:
    """Tell whether `source` is a YouTube-VIS file: videos with their file names, or lists of segmentations."""
    keys = json_keys(source)
    return bool(keys & {"file_names", "segmentations"}) and "sequences" not in keys and "seq_name" not in keys


def read_youtube_vis(source: str, *, frames: str | None = None, on_error: OnError | None = None) -> Iterator[Clip]:
    """Yield one clip per video; an object's `source_id` is the id of its annotation.

    Args:
        source: the json file.
        frames: the folder that file names start from (`JPEGImages`); None: looked for beside the file.
        on_error: told of videos that cannot be used, which are left out; None raises.

    Raises:
        FormatError: the file or an entry does not follow the format.
        MissingPathError: `frames` does not hold the images.
        StorageError: the file cannot be read.
    """
    content = load_json(source)
    videos = take(content, "videos", list, source)
    categories = category_names(content, source)
    tracks = group_by(content, "annotations", "video_id", source) if "annotations" in content else {}
    names = _file_names(videos[0], f"{source}: videos[0]") if videos else [None]
    listed = ListedFrames(source, frames, guesses_beside(source), names[0])
    folders = Counter(_folder(video) for video in videos)

    def read(item: tuple[int, Any]) -> Clip:
        where = f"{source}: videos[{item[0]}]"
        video_id = take(item[1], "id", int, where)
        folder = _folder(item[1])
        clip_id = folder if folder is not None and folders[folder] == 1 else str(video_id)
        empty = _clip_without_objects(item[1], clip_id, listed, where)
        return _with_objects(empty, tracks.get(video_id, ()), categories, source)

    def name_of(item: tuple[int, Any]) -> str:
        return _folder(item[1]) or f"videos[{item[0]}]"

    yield from stream_clips(enumerate(videos), read, name_of, source=source, on_error=on_error)


def _file_names(video: Any, where: str) -> list[str]:
    names = take(video, "file_names", list, where)
    if not names or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{where}: file_names: expected the names of the frames, found {names!r:.60}")
    return names


def _folder(video: Any) -> str | None:
    """Return the folder that all frames of a video are in, None where there is no such folder."""
    names = video.get("file_names") if isinstance(video, dict) else None
    if not isinstance(names, list):
        return None
    folders = {name.rpartition("/")[0] for name in names if isinstance(name, str)}
    return folders.pop() or None if len(folders) == 1 else None


def _clip_without_objects(video: JsonObject, clip_id: str, listed: ListedFrames, where: str) -> Clip:
    names = _file_names(video, where)
    length = take_optional(video, "length", int, where)
    if length is not None and length != len(names):
        raise FormatError(f"{where}: length {length}, but {len(names)} file_names; correct one of them")
    return Clip(clip_id, listed.source(names, where), *check_size(video, where), len(names))


def _with_objects(
    clip: Clip, tracks: Sequence[tuple[int, Any]], categories: dict[int, str] | None, source: str
) -> Clip:
    objects: list[ObjectInfo] = []
    masks: list[MaskPrompt] = []
    boxes: list[Box] = []
    for number, track in tracks:
        where = f"{source}: annotations[{number}]"
        if take_optional(track, "iscrowd", (int, bool), where):
            continue
        object_id = len(objects) + 1
        objects.append(
            ObjectInfo(object_id, category_name(track, categories, where), str(take(track, "id", int, where)))
        )
        masks += _masks(track, object_id, clip, where)
        boxes += _boxes(track, object_id, clip, where)
    return Clip(
        clip.clip_id, clip.source, clip.height, clip.width, clip.num_frames,
        objects=tuple(objects), boxes=tuple(boxes), masks=tuple(masks),
    )  # fmt: skip


def _per_frame(track: Any, name: str, clip: Clip, where: str) -> list[Any]:
    values = take_optional(track, name, list, where)
    if values is not None and len(values) != clip.num_frames:
        raise FormatError(
            f"{where}: {name}: expected an entry or null for each of the video's {clip.num_frames} frames, "
            f"found {len(values)}"
        )
    return values or []


def _masks(track: Any, object_id: int, clip: Clip, where: str) -> Iterator[MaskPrompt]:
    empty = uncompressed_to_rle([clip.height * clip.width], clip.height, clip.width)
    for frame, segmentation in enumerate(_per_frame(track, "segmentations", clip, where)):
        if segmentation is None:
            yield MaskPrompt(object_id, frame, None)
        else:
            place = f"{where}: segmentations[{frame}]"
            rle = segmentation_to_rle(segmentation, clip.height, clip.width, place)
            yield MaskPrompt(object_id, frame, empty if rle is None else rle)


def _boxes(track: Any, object_id: int, clip: Clip, where: str) -> Iterator[Box]:
    for frame, xywh in enumerate(_per_frame(track, "bboxes", clip, where)):
        edges = None if xywh is None else xywh_to_xyxy(xywh, f"{where}: bboxes[{frame}]")
        yield Box(object_id, frame, *(edges or (0.0, 0.0, 0.0, 0.0)), visible=edges is not None)
