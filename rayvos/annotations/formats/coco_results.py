"""Writes labels as one COCO instances file: an image per labelled frame, an annotation per mask.

Conventions of the file: boxes are `[x, y, width, height]`, 0-based; `segmentation` is compressed RLE with `counts` as
a string; `area` counts the mask's pixels; `iscrowd` is 0; ids start at 1; category ids are 1…N in the order of their
names, objects without a category are `object`. `file_name` is `<clip_id>/<frame's file name>`, or the file name alone
for stills (`frame_paths`). Beside COCO's keys images carry `clip_id` and `frame`, annotations `object_id` and `score`,
which COCO's tools pass over.

A frame without any mask has an image without annotations. Labels below the minimum score and absent objects have no
annotation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from rayvos.annotations.formats.json_stream import JsonStream
from rayvos.annotations.label_frames import FrameLabel, frame_paths, frames_of, is_accepted
from rayvos.annotations.records import Clip

__all__ = ["NO_CATEGORY", "category_ids", "category_list", "rle_json", "write_coco", "xywh"]

NO_CATEGORY = "object"


def category_ids(names: Iterable[str | None]) -> dict[str, int]:
    """Return ids 1…N of the category names in alphabetical order; None counts as `object`."""
    return {name: number for number, name in enumerate(sorted({name or NO_CATEGORY for name in names}), start=1)}


def category_list(categories: dict[str, int]) -> list[dict[str, Any]]:
    """Return the `categories` list of a COCO-like file."""
    return [{"id": number, "name": name, "supercategory": NO_CATEGORY} for name, number in categories.items()]


def rle_json(rle: bytes, height: int, width: int) -> dict[str, Any]:
    """Return compressed RLE as JSON holds it: `counts` as a string."""
    return {"size": [height, width], "counts": rle.decode("ascii")}


def xywh(label: FrameLabel) -> list[float]:
    """Return the tight box of a mask that has pixels as `[x, y, width, height]`."""
    assert label.box is not None, "a mask with pixels has a box"
    x0, y0, x1, y1 = label.box
    return [x0, y0, x1 - x0, y1 - y0]


def write_coco(
    path: str,
    clips: Iterable[tuple[Clip, pa.Table]],
    *,
    category_names: Sequence[str | None],
    min_score: float = 0.0,
) -> tuple[int, int]:
    """Write the labels of many clips, of which one is in memory at a time.

    Args:
        path: path or URL of the file.
        clips: each clip with its label table, as `iter_labels` gives it.
        category_names: the categories of all clips' objects.
        min_score: labels with a lower score are left out.

    Returns:
        Number of images and of annotations.

    Raises:
        StorageError: the file cannot be written.
    """
    categories = category_ids(category_names)
    head = {
        "info": {"description": "labels exported by rayvos"},
        "licenses": [],
        "categories": category_list(categories),
    }
    num_images = num_annotations = 0
    with JsonStream(path, head, ("images", "annotations")) as stream:
        for clip, table in clips:
            names = frame_paths(clip)
            category_of = {known.object_id: categories[known.category or NO_CATEGORY] for known in clip.objects}
            for frame, labels in frames_of(table):
                num_images += 1
                image = {"id": num_images, "file_name": names[frame]}
                size = {"height": clip.height, "width": clip.width}
                stream.add("images", {**image, **size, "clip_id": clip.clip_id, "frame": frame})
                for label in labels:
                    if label.rle is None or not label.area or not is_accepted(label, min_score):
                        continue
                    num_annotations += 1
                    ids = {"id": num_annotations, "image_id": num_images}
                    kind = category_of[label.object_id]
                    stream.add("annotations", {**ids, "category_id": kind, **_annotation(label, clip)})
    return num_images, num_annotations


def _annotation(label: FrameLabel, clip: Clip) -> dict[str, Any]:
    assert label.rle is not None, "the caller asked for a mask"
    return {
        "segmentation": rle_json(label.rle, clip.height, clip.width),
        "area": label.area,
        "bbox": xywh(label),
        "iscrowd": 0,
        "object_id": label.object_id,
        "score": None if label.score is None else round(label.score, 6),
    }
