"""Masks out of a data set's json: YouTube-VIS (tracks of videos) or COCO (images, grouped into clips).

A video's clip id is its `clip_id` where the file says one, else the folder of its pictures; its objects are numbered
by `object_id`, else 1…N in the order of the file. A COCO annotation needs `object_id`, `track_id` or `instance_id`:
without one nothing links an object's masks over time. Crowds are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rayvos import storage
from rayvos.errors import FormatError
from rayvos.evaluation.mask_frames import RleFrame
from rayvos.evaluation.sources import positions_of_names
from rayvos.evaluation.table_sources import RecordClip
from rayvos.masks.rle import check_rle, polygons_to_rle, uncompressed_to_rle

__all__ = ["JsonSource", "read_json", "to_rle"]

TRACK_KEYS = ("object_id", "track_id", "instance_id")


class JsonSource:
    """The masks of a YouTube-VIS or COCO data set; the file is parsed once per process and never pickled.

    Args:
        path: path or URL.

    Raises:
        FormatError: it is neither.
    """

    clips_per_task = 16

    def __init__(self, path: str) -> None:
        self.path = path
        self._clips: dict[str, RecordClip] | None = None
        self.num_frames = {clip_id: len(clip.frames) for clip_id, clip in self._parsed().items()}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_clips": None}

    def _parsed(self) -> dict[str, RecordClip]:
        if self._clips is None:
            self._clips = {clip.clip_id: clip for clip in _parse(read_json(self.path), self.path)}
        return self._clips

    def open_clips(self, clip_ids: Sequence[str]) -> Iterator[RecordClip]:
        """Yield the clips."""
        for clip_id in clip_ids:
            yield self._parsed()[clip_id]


def read_json(path: str) -> Any:
    """Return what a json file holds.

    Raises:
        FormatError: it is no json.
        StorageError: it cannot be read.
    """
    try:
        return json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise FormatError(f"{path}: expected json: {error}; copy the file again") from error


def _parse(found: Any, path: str) -> Iterator[RecordClip]:
    keys = set(found) if isinstance(found, dict) else set()
    try:
        if {"videos", "annotations"} <= keys:
            yield from _videos(found, path)
        elif {"images", "annotations"} <= keys:
            yield from _images(found, path)
        else:
            raise FormatError(
                f"{path}: expected a data set with 'annotations' and 'videos' or 'images', found "
                f"{', '.join(sorted(keys)) or type(found).__name__}; lists of results go to `rayvos eval youtube-vis`"
            )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(f"{path}: expected COCO or YouTube-VIS json: {type(error).__name__} {error}") from error


def _videos(found: Mapping[str, Any], path: str) -> Iterator[RecordClip]:
    tracks: dict[int, list[Mapping[str, Any]]] = {video["id"]: [] for video in found["videos"]}
    for annotation in found["annotations"]:
        if not annotation.get("iscrowd"):
            tracks[annotation["video_id"]].append(annotation)
    for video in found["videos"]:
        files = [PurePosixPath(name) for name in video["file_names"]]
        clip_id = video.get("clip_id") or str(files[0].parent)
        size = video["height"], video["width"]
        rles: list[dict[int, bytes]] = [{} for _ in files]
        for position, track in enumerate(tracks[video["id"]], start=1):
            place = f"{path} clip {clip_id!r} annotation {track.get('id')}"
            if len(track["segmentations"]) != len(files):
                raise FormatError(
                    f"{place}: {len(track['segmentations'])} segmentations for {len(files)} frames; "
                    "expected one per frame, null where absent"
                )
            for frame, segmentation in enumerate(track["segmentations"]):
                if segmentation is not None:
                    rles[frame][track.get("object_id", position)] = to_rle(segmentation, *size, place)
        frames = tuple(RleFrame(size, masks) for masks in rles)
        yield RecordClip(clip_id, path, tuple(file.stem for file in files), tuple(range(len(files))), frames)


def _images(found: Mapping[str, Any], path: str) -> Iterator[RecordClip]:
    masks: dict[int, dict[int, bytes]] = {image["id"]: {} for image in found["images"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in found["images"]}
    for annotation in found["annotations"]:
        place = f"{path} annotation {annotation.get('id')}"
        key = next((key for key in TRACK_KEYS if annotation.get(key) is not None), None)
        if annotation.get("iscrowd"):
            continue
        if key is None:
            raise FormatError(f"{place}: expected one of {', '.join(TRACK_KEYS)}, found none; masks need an object id")
        image_id = annotation["image_id"]
        if annotation[key] in masks[image_id]:
            raise FormatError(f"{place}: object {annotation[key]} has two masks on image {image_id}; merge them")
        masks[image_id][annotation[key]] = to_rle(annotation["segmentation"], *sizes[image_id], place)
    clips: dict[str, list[Mapping[str, Any]]] = {}
    for image in found["images"]:
        clips.setdefault(image.get("clip_id") or str(PurePosixPath(image["file_name"]).parent), []).append(image)
    for clip_id, images in clips.items():
        names = tuple(PurePosixPath(image["file_name"]).stem for image in images)
        stated = [image["frame"] for image in images if isinstance(image.get("frame"), int)]
        positions = tuple(stated) if len(stated) == len(images) else positions_of_names(names)
        frames = tuple(RleFrame(sizes[image["id"]], masks[image["id"]]) for image in images)
        yield RecordClip(clip_id, path, names, positions, frames)


def to_rle(segmentation: Any, height: int, width: int, place: str) -> bytes:
    """Return COCO compressed RLE of a segmentation: compressed or not, or a list of polygons.

    Raises:
        FormatError: it is neither, or of another size.
    """
    if isinstance(segmentation, list):
        return polygons_to_rle(segmentation, height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise FormatError(f"{place}: expected RLE or polygons, found {type(segmentation).__name__}")
    size = segmentation.get("size")
    if size is None or list(size) != [height, width]:
        raise FormatError(f"{place}: expected RLE of size [{height}, {width}], found {size}")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        return uncompressed_to_rle(counts, height, width)
    return check_rle(counts.encode() if isinstance(counts, str) else counts, height, width)
