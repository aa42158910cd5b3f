"""A clip's label table seen frame by frame, and the one label map that its overlapping masks become on export.

Labels keep overlaps, since only a format with one id per pixel has to decide them. The rule is the user's:

- `score` (default): the pixel goes to the label with the higher score; a person's mask goes before any engine's, and
  of equal scores the lower object id wins.
- `lowest-id`: the pixel goes to the lower object id, the rule of SAM-2's tools; it never changes between frames.

Labels below a minimum score become *ignore*: the box their object was given is filled with the ignore value, below
the accepted objects, so that training neither learns the bad mask nor learns background from it.
Source: Box2Seg paper, pseudo-label filtering. Differs: accepted objects stay visible inside the ignored box, on
which the paper is silent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayvos.annotations.manifest import check_clip_id
from rayvos.annotations.records import Box, Clip

__all__ = [
    "FrameLabel",
    "LabelIds",
    "Overlap",
    "Sides",
    "frame_file_names",
    "frame_names",
    "frame_paths",
    "frames_of",
    "given_boxes",
    "ignore_value",
    "is_accepted",
    "paint_order",
    "to_label_map",
]

Overlap = Literal["score", "lowest-id"]
LabelIds = NDArray[np.uint8] | NDArray[np.uint16]
Sides = tuple[float, float, float, float]

_COLUMNS = ["frame", "object_id", "present", "rle", "area", "box", "score", "provenance", "round"]
_ROWS_AT_ONCE = 4096  # some MB of masks as Python objects, however long the clip
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".jp2"}


@dataclass(frozen=True, slots=True)
class FrameLabel:
    """One object's label on one frame."""

    object_id: int
    rle: bytes | None
    """COCO compressed counts; None: absent."""
    area: int = 0
    """Pixels of the mask."""
    box: Sides | None = None
    """Tight box of the mask, xyxy pixel edges."""
    score: float | None = None
    """Predicted IoU in [0, 1]; None where absent or where the engine gives none."""
    human: bool = False
    """The mask is one that a person gave."""
    round: int = 0
    """In which it was made."""


def frames_of(table: pa.Table) -> Iterator[tuple[int, list[FrameLabel]]]:
    """Yield (frame, labels by ascending object id) of one clip's label table, sorted as `iter_labels` gives it."""
    frame, labels = -1, list[FrameLabel]()
    for batch in table.select(_COLUMNS).to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            if row["frame"] != frame:
                if labels:
                    yield frame, labels
                frame, labels = row["frame"], []
            box = row["box"] and (row["box"]["x0"], row["box"]["y0"], row["box"]["x1"], row["box"]["y1"])
            rle = row["rle"] if row["present"] else None
            score = row["score"] if row["present"] else None
            labels.append(
                FrameLabel(
                    row["object_id"], rle, row["area"] or 0, box, score, row["provenance"] == "human", row["round"] or 0
                )
            )
    if labels:
        yield frame, labels


def is_accepted(label: FrameLabel, min_score: float) -> bool:
    """Tell whether a label may be used: absent, a person's, or scored at least `min_score`.

    A label without a score counts as 0: nothing vouches for it.
    """
    return label.rle is None or label.human or (label.score or 0.0) >= min_score


def paint_order(labels: Sequence[FrameLabel], overlap: Overlap = "score") -> list[FrameLabel]:
    """Return the labels in the order they are painted over each other: who wins a shared pixel comes last."""
    if overlap == "lowest-id":
        return sorted(labels, key=lambda label: -label.object_id)
    return sorted(labels, key=lambda label: (label.human, label.score or 0.0, -label.object_id))


def given_boxes(clip: Clip) -> dict[int, dict[int, Box]]:
    """Return the visible boxes a person gave, by frame and object id."""
    found: dict[int, dict[int, Box]] = {}
    for box in clip.boxes:
        if box.visible:
            found.setdefault(box.frame, {})[box.object_id] = box
    return found


def ignore_value(object_ids: Sequence[int]) -> int:
    """Return the pixel value for 'ignore': 255, or 65535 in a clip whose ids do not leave 255 free."""
    return 255 if max(object_ids, default=0) < 255 else 65535


def to_label_map(
    labels: Sequence[FrameLabel],
    height: int,
    width: int,
    *,
    values: Mapping[int, int],
    ignore: int,
    boxes: Mapping[int, Box] | None = None,
    overlap: Overlap = "score",
    min_score: float = 0.0,
) -> LabelIds:
    """Return the id map of one frame: 0 background, an object's value, or `ignore`.

    Args:
        labels: the frame's labels.
        height: pixels.
        width: pixels.
        values: the pixel value of each object id.
        ignore: 255 gives a uint8 map, 65535 a uint16 map; see `ignore_value`.
        boxes: given boxes by object id: what is ignored of a label below `min_score`; without one its tight box.
        overlap: who gets a shared pixel.
        min_score: labels below are ignored.

    Raises:
        InputError: a mask does not have `height x width` pixels.
    """
    from rayvos.masks.rle import rle_to_mask

    found = np.zeros((height, width), np.uint8 if ignore == 255 else np.uint16)
    for label in labels:
        if not is_accepted(label, min_score):
            _fill_box(found, label, (boxes or {}).get(label.object_id), ignore)
    for label in paint_order(labels, overlap):
        if label.rle is not None and label.area and is_accepted(label, min_score):
            found[rle_to_mask(label.rle, height, width)] = values[label.object_id]
    return found


def _fill_box(found: LabelIds, label: FrameLabel, box: Box | None, ignore: int) -> None:
    sides = label.box if box is None else (box.x0, box.y0, box.x1, box.y1)
    if sides is not None and all(math.isfinite(side) for side in sides):
        x0, y0, x1, y1 = (max(0, round(side)) for side in sides)  # half-open after round-half-even, as the engines crop
        found[y0:y1, x0:x1] = ignore


def frame_file_names(clip: Clip) -> list[str]:
    """Return the file name of each frame inside its clip: the source's, or `00000.jpg` … for a video without any."""
    if len(clip.source.frame_names) == clip.num_frames:
        return list(clip.source.frame_names)
    return [f"{frame:05d}.jpg" for frame in range(clip.num_frames)]


def frame_paths(clip: Clip) -> list[str]:
    """Return what lists of several clips' frames call each frame: `<clip_id>/<file name>`.

    Names that hold folders, and pictures that are a clip of their own (`000000397133.jpg` of COCO), stay as they are:
    they are told from those of other clips already.
    """
    names = frame_file_names(clip)
    folder = clip.source.uri.rstrip("/").rpartition("/")[2]
    still = clip.source.kind == "images" and clip.num_frames == 1 and folder not in clip.clip_id.split("/")
    if still or any("/" in name for name in names):
        return names
    return [f"{clip.clip_id}/{name}" for name in names]


def frame_names(clip: Clip) -> list[str]:
    """Return a name without folder and suffix for what is written of each frame.

    The names are the source's own (`00005` of `00005.jpg`); where two frames would share one (their files lie in
    different folders), all frames of the clip are numbered: `00000`, `00001` …

    Raises:
        IdError: a name could not name a file inside an output folder.
    """
    names = []
    for file_name in frame_file_names(clip):
        path = PurePosixPath(file_name)
        name = path.stem if path.suffix.lower() in _IMAGE_SUFFIXES else path.name
        names.append(check_clip_id(name, f"clip {clip.clip_id!r}: frame name"))
    if len(set(names)) < len(names):
        return [f"{frame:05d}" for frame in range(clip.num_frames)]
    return names
