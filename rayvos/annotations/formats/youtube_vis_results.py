"""Writes labels in the two YouTube-VIS forms: the data set's for training, the server's for results.

Data set: `{"info", "licenses", "categories", "videos", "annotations"}`; an annotation is an object of a video with
`segmentations`, `bboxes` (`[x, y, width, height]`, 0-based) and `areas`, lists as long as the video with `null` where
the object is absent, empty, below the minimum score, or not labelled. Results: a list of
`{video_id, category_id, segmentations, score}`. RLE is compressed with `counts` as a string; an all-zero RLE is never
written. Ids start at 1; videos are numbered in the order of the clips. An object without any mask is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rayvos.annotations.formats.coco_results import NO_CATEGORY, category_ids, category_list, rle_json, xywh
from rayvos.annotations.formats.json_stream import JsonStream
from rayvos.annotations.label_frames import frame_paths, frames_of, is_accepted
from rayvos.annotations.records import Clip

__all__ = ["write_youtube_vis"]


@dataclass(slots=True)
class _ObjectLists:
    """An object's masks over the whole video; positions without an entry are null."""

    segmentations: dict[int, dict[str, Any]] = field(default_factory=dict)
    bboxes: dict[int, list[float]] = field(default_factory=dict)
    areas: dict[int, int] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)


def write_youtube_vis(
    dataset_path: str,
    results_path: str,
    clips: Iterable[tuple[Clip, pa.Table]],
    *,
    category_names: Sequence[str | None],
    min_score: float = 0.0,
) -> tuple[int, int]:
    """Write the labels of many clips, of which one is in memory at a time.

    Args:
        dataset_path: path or URL of the file in the data set's form; each annotation also carries its `score`.
        results_path: path or URL of the file in the form of results; its score is the mean over the object's masks.
        clips: each clip with its label table, as `iter_labels` gives it.
        category_names: the categories of all clips' objects.
        min_score: labels with a lower score become null.

    Returns:
        Number of videos and of annotations.

    Raises:
        StorageError: a file cannot be written.
    """
    categories = category_ids(category_names)
    head = {
        "info": {"description": "labels exported by rayvos"},
        "licenses": [],
        "categories": category_list(categories),
    }
    num_videos = num_annotations = 0
    with (
        JsonStream(dataset_path, head, ("videos", "annotations")) as dataset,
        JsonStream(results_path, {}, ("",)) as results,
    ):
        for clip, table in clips:
            num_videos += 1
            dataset.add("videos", _video(clip, num_videos))
            category_of = {known.object_id: categories[known.category or NO_CATEGORY] for known in clip.objects}
            for object_id, lists in sorted(_objects(clip, table, min_score).items()):
                num_annotations += 1
                segmentations = [lists.segmentations.get(frame) for frame in range(clip.num_frames)]
                score = round(sum(lists.scores) / len(lists.scores), 6)
                ids = {"video_id": num_videos, "category_id": category_of[object_id]}
                results.add("", {**ids, "segmentations": segmentations, "score": score})
                lengths = {"height": clip.height, "width": clip.width, "length": clip.num_frames}
                boxes = [lists.bboxes.get(frame) for frame in range(clip.num_frames)]
                areas = [lists.areas.get(frame) for frame in range(clip.num_frames)]
                annotation = {"id": num_annotations, **ids, "iscrowd": 0, **lengths, "segmentations": segmentations}
                known = {"object_id": object_id, "score": score}
                dataset.add("annotations", {**annotation, "bboxes": boxes, "areas": areas, **known})
    return num_videos, num_annotations


def _video(clip: Clip, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "width": clip.width,
        "height": clip.height,
        "length": clip.num_frames,
        "file_names": frame_paths(clip),
        "clip_id": clip.clip_id,
    }


def _objects(clip: Clip, table: pa.Table, min_score: float) -> dict[int, _ObjectLists]:
    found: dict[int, _ObjectLists] = {}
    for frame, labels in frames_of(table):
        for label in labels:
            if label.rle is None or not label.area or not is_accepted(label, min_score):
                continue
            lists = found.setdefault(label.object_id, _ObjectLists())
            lists.segmentations[frame] = rle_json(label.rle, clip.height, clip.width)
            lists.bboxes[frame] = xywh(label)
            lists.areas[frame] = label.area
            lists.scores.append(label.score or 0.0)
    return found
