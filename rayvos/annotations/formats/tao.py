"""TAO json: COCO with videos and tracks; boxes at about one frame per second.

A clip's frames are the video's listed images, in the order of `frame_index`; the files between them are no part of
it, so that a box never meets a frame by its position in a folder. A frame without a box of an object may show it or
not: it is not annotated, and nothing is said of it. `segmentation` holds the box once more as a polygon and is passed
over. Boxes are `[x, y, width, height]` floats, 0-based.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.coco import category_name, category_names, check_size, group_by, xywh_to_xyxy
from rayvos.annotations.formats.json_fields import json_keys, load_json, take
from rayvos.annotations.listed_frames import ListedFrames
from rayvos.annotations.records import Box, Clip, ObjectInfo
from rayvos.errors import FormatError, IdError

__all__ = ["detect", "read_tao"]

logger = logging.getLogger(__name__)

GUESSES = ("../frames", "frames", ".", "..")

Entry = tuple[int, Any]
"""Position in its list, for messages, and what is there."""


def detect(source: str) -> bool:
    """Tell whether `source` is a TAO file: images of videos with their frame index, or tracks."""
    keys = json_keys(source)
    return bool(keys & {"frame_index", "track_id", "neg_category_ids"}) and not keys & {"sequences", "seq_name"}


def read_tao(source: str, *, frames: str | None = None, on_error: OnError | None = None) -> Iterator[Clip]:
    """Yield one clip per video; its id is the video's name, an object's `source_id` that of its track.

    Args:
        source: the json file.
        frames: the folder that file names start from; None: looked for beside the file.
        on_error: told of videos that cannot be used, which are left out; None raises.

    Raises:
        FormatError: the file or an entry does not follow the format.
        MissingPathError: `frames` does not hold the images.
        StorageError: the file cannot be read.
    """
    content = load_json(source)
    videos = take(content, "videos", list, source)
    images = group_by(content, "images", "video_id", source)
    tracks = group_by(content, "tracks", "video_id", source)
    boxes = group_by(content, "annotations", "track_id", source)
    categories = category_names(content, source)
    first = next((entries[0] for entries in images.values()), None)
    sample = None if first is None else take(first[1], "file_name", str, f"{source}: images[{first[0]}]")
    listed = ListedFrames(source, frames, GUESSES, sample)

    def read(item: Entry) -> Clip:
        where = f"{source}: videos[{item[0]}]"
        video_id = take(item[1], "id", int, where)
        clip, frame_of = _clip_without_objects(item[1], images.get(video_id, ()), listed, source, where)
        return _with_objects(clip, tracks.get(video_id, ()), boxes, frame_of, categories, source)

    def name_of(item: Entry) -> str:
        return str(item[1].get("name", f"videos[{item[0]}]")) if isinstance(item[1], dict) else f"videos[{item[0]}]"

    yield from stream_clips(enumerate(videos), read, name_of, source=source, on_error=on_error)


def _clip_without_objects(
    video: Any, images: Sequence[Entry], listed: ListedFrames, source: str, where: str
) -> tuple[Clip, dict[int, int]]:
    """Return the clip, and the frame by id of its image."""
    if not images:
        raise FormatError(f"{where}: expected images of this video, found none; is the file complete?")
    places = [(f"{source}: images[{number}]", image) for number, image in images]
    order = sorted((take(image, "frame_index", int, place), place, image) for place, image in places)
    indices = [index for index, _, _ in order]
    if len(set(indices)) < len(indices):
        raise FormatError(f"{where}: two images of one frame_index, found {indices[:12]}; correct the file")
    names = [take(image, "file_name", str, place) for _, place, image in order]
    frame_of = {take(image, "id", int, place): frame for frame, (_, place, image) in enumerate(order)}
    clip = Clip(take(video, "name", str, where), listed.source(names, where), *check_size(video, where), len(names))
    return clip, frame_of


def _with_objects(
    clip: Clip,
    tracks: Sequence[Entry],
    boxes: dict[int, list[Entry]],
    frame_of: dict[int, int],
    categories: dict[int, str] | None,
    source: str,
) -> Clip:
    objects: list[ObjectInfo] = []
    found: list[Box] = []
    without_area = 0
    for number, track in tracks:
        where = f"{source}: tracks[{number}]"
        track_id = take(track, "id", int, where)
        object_id = len(objects) + 1
        objects.append(ObjectInfo(object_id, category_name(track, categories, where), str(track_id)))
        seen: set[int] = set()
        for place, annotation in ((f"{source}: annotations[{n}]", entry) for n, entry in boxes.get(track_id, ())):
            frame = frame_of.get(take(annotation, "image_id", int, place))
            if frame is None:
                raise FormatError(f"{place}: its image is none of video {clip.clip_id!r}, which its track belongs to")
            if frame in seen:
                raise IdError(f"{place}: a second box of track {track_id} in frame {frame}; drop one")
            seen.add(frame)
            edges = xywh_to_xyxy(take(annotation, "bbox", list, place), f"{place}: bbox")
            if edges is None:
                without_area += 1
            else:
                found.append(Box(object_id, frame, *edges))
    if without_area:
        logger.warning("left_out clip=%s boxes_without_area=%d", clip.clip_id, without_area)
    return Clip(
        clip.clip_id, clip.source, clip.height, clip.width, clip.num_frames,
        objects=tuple(objects), boxes=tuple(sorted(found, key=lambda box: (box.object_id, box.frame))),
    )  # fmt: skip
