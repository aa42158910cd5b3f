"""YouTube-VIS tracks: reading truth and results, and the IoU of whole tracks.

Source: youtubevos/cocoapi, `ytvos.py` and `ytvoseval.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayvos.errors import FormatError
from rayvos.evaluation.json_source import read_json, to_rle
from rayvos.masks.rle import rle_area, rle_box, rle_intersection

__all__ = ["MAX_DETECTIONS", "CategoryTracks", "Track", "TrackMatcher", "read_tracks", "track_iou"]

MAX_DETECTIONS = 100  # of one category in one video; more are cut off by score


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One object of one video."""

    video_id: int
    category_id: int
    rles: tuple[bytes | None, ...]
    """One per frame of the video; None where absent."""
    areas: tuple[int, ...]
    """Pixels on each frame; 0 where absent."""
    mean_area: float
    """Mean over the frames with pixels, as the file states it or as counted; 0 without any."""
    score: float = 1.0
    is_crowd: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CategoryTracks:
    """Truth and detections of one category in one video, ready for matching."""

    video_id: int
    category_id: int
    ious_DT: NDArray[np.float64]
    """(detections, truths): track IoU; detections by falling score, truths in the order of the file."""
    scores_D: NDArray[np.float64]
    areas_D: NDArray[np.float64]
    areas_T: NDArray[np.float64]
    crowd_T: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VisFiles:
    """Parsed truth and results."""

    truths: Mapping[tuple[int, int], list[Track]]
    """By video and category."""
    detections: Mapping[tuple[int, int], list[Track]]
    sizes: Mapping[int, tuple[int, int]]
    """Height and width by video."""
    categories: Mapping[int, str]


def read_tracks(truth: str, results: str) -> VisFiles:
    """Read the truth's and the results' json.

    Raises:
        FormatError: a file is not of the form, a track does not fit its video, or a result is of an unknown video.
        StorageError: a file cannot be read.
    """
    found, listed = read_json(truth), read_json(results)
    try:
        lengths = {video["id"]: len(video["file_names"]) for video in found["videos"]}
        sizes = {video["id"]: (video["height"], video["width"]) for video in found["videos"]}
        categories = {category["id"]: str(category["name"]) for category in found["categories"]}
        annotations = found["annotations"]
    except (KeyError, TypeError) as error:
        raise FormatError(
            f"{truth}: expected YouTube-VIS truth with videos, categories and annotations, failed at {error!r}; "
            "the official validation and test files hold no annotations"
        ) from error
    if not isinstance(listed, list):
        raise FormatError(f"{results}: expected a list of results, found {type(listed).__name__}")
    groups: list[dict[tuple[int, int], list[Track]]] = [{}, {}]
    for group, items, path in zip(groups, (annotations, listed), (truth, results), strict=True):
        for number, item in enumerate(items):
            track = _track(item, lengths, sizes, f"{path} entry {number}", is_truth=path is truth)
            group.setdefault((track.video_id, track.category_id), []).append(track)
    return VisFiles(groups[0], groups[1], sizes, categories)


def _track(
    item: Mapping[str, Any],
    lengths: Mapping[int, int],
    sizes: Mapping[int, tuple[int, int]],
    place: str,
    *,
    is_truth: bool,
) -> Track:
    try:
        video_id, category_id, segmentations = item["video_id"], item["category_id"], item["segmentations"]
        score = 1.0 if is_truth else float(item["score"])
        if is_truth and item["id"] < 1:
            raise FormatError(
                f"{place}: annotation id {item['id']}: expected ids from 1, the official rule for matches"
            )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{place}: expected a track with its masks, failed at {error!r}") from error
    if video_id not in lengths:
        raise FormatError(f"{place}: video {video_id!r} is not in the truth; score results of the same data set")
    if not np.isfinite(score):
        raise FormatError(f"{place}: expected a finite score, found {score}")
    if len(segmentations) != lengths[video_id]:
        raise FormatError(
            f"{place}: {len(segmentations)} segmentations, but video {video_id} has {lengths[video_id]} frames; "
            "write null where the object is absent"
        )
    size = sizes[video_id]
    rles = tuple(None if mask is None else to_rle(mask, *size, place) for mask in segmentations)
    areas = tuple(0 if rle is None else rle_area(rle, *size) for rle in rles)
    stated = item.get("areas") if is_truth else areas
    positive = [area for area in (areas if stated is None else stated) if area]
    mean_area = float(np.mean(positive)) if positive else 0.0
    return Track(video_id, category_id, rles, areas, mean_area, score, bool(item.get("iscrowd", 0)) and is_truth)


def track_iou(first: Track, second: Track, height: int, width: int) -> float:
    """Return the intersection over union of two tracks, both summed over the frames; 0 where both are empty."""
    intersection = union = 0
    for rle, other, area, other_area in zip(first.rles, second.rles, first.areas, second.areas, strict=True):
        shared = 0
        if area and other_area and rle is not None and other is not None and _touch(rle, other, height, width):
            shared = rle_area(rle_intersection([rle, other], height, width), height, width)
        intersection += shared
        union += area + other_area - shared
    return intersection / union if union else 0.0


def _touch(first: bytes, second: bytes, height: int, width: int) -> bool:
    boxes = rle_box(first, height, width), rle_box(second, height, width)
    if boxes[0] is None or boxes[1] is None:
        return False
    return bool((np.maximum(boxes[0][:2], boxes[1][:2]) < np.minimum(boxes[0][2:], boxes[1][2:])).all())


class TrackMatcher:
    """Computes the track IoUs of videos; the files are parsed once per process and never pickled.

    Args:
        truth: path or URL of the truth's json.
        results: path or URL of the results' json.
    """

    def __init__(self, truth: str, results: str) -> None:
        self.truth = truth
        self.results = results
        self._files: VisFiles | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}

    @property
    def files(self) -> VisFiles:
        """The parsed files."""
        if self._files is None:
            self._files = read_tracks(self.truth, self.results)
        return self._files

    def __call__(self, video_ids: Sequence[int]) -> list[list[CategoryTracks]]:
        """Return, for each video, the tracks of every category that occurs in it."""
        return [
            [
                self._match(video_id, category_id)
                for category_id in self.files.categories
                if self._has(video_id, category_id)
            ]
            for video_id in video_ids
        ]

    def _has(self, video_id: int, category_id: int) -> bool:
        key = video_id, category_id
        return key in self.files.truths or key in self.files.detections

    def _match(self, video_id: int, category_id: int) -> CategoryTracks:
        truths = self.files.truths.get((video_id, category_id), [])
        detections = self.files.detections.get((video_id, category_id), [])
        order = np.argsort([-track.score for track in detections], kind="stable")[:MAX_DETECTIONS]
        chosen = [detections[position] for position in order]
        size = self.files.sizes[video_id]
        ious = [[track_iou(detection, truth, *size) for truth in truths] for detection in chosen]
        return CategoryTracks(
            video_id,
            category_id,
            np.array(ious, np.float64).reshape(len(chosen), len(truths)),
            np.array([track.score for track in chosen], np.float64),
            np.array([track.mean_area for track in chosen], np.float64),
            np.array([track.mean_area for track in truths], np.float64),
            np.array([track.is_crowd for track in truths], np.bool_),
        )
