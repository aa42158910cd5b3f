"""BURST json: masks of objects at about one frame per second, on the pictures of TAO.

A sequence has `all_image_paths` and `annotated_image_paths`; `segmentations` runs parallel to the annotated ones. An
entry holds, by track id (a text, unique in its sequence only), the compressed counts of an RLE of the sequence's size.
An object without an entry in an annotated frame is absent there. Masks with `is_gt` false were made by a program.

`first_frame_annotations.json` has an object's first frame only, with its box `[x, y, width, height]` and a point
beside the mask; of its other frames nothing is said.

Source: formats of BURST-benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayvos import storage
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.coco import category_names, check_size, xywh_to_xyxy
from rayvos.annotations.formats.json_fields import JsonObject, json_keys, load_json, number_list, take, take_optional
from rayvos.annotations.listed_frames import ListedFrames
from rayvos.annotations.records import Box, Clip, MaskPrompt, ObjectInfo, Point
from rayvos.errors import FormatError
from rayvos.masks.rle import check_rle

__all__ = ["detect", "read_burst"]

FILES = ("all_classes.json", "common_classes.json", "uncommon_classes.json", "first_frame_annotations.json")
FIRST_FRAMES = "first_frame_annotations"


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One sequence with its place in the file."""

    where: str
    content: JsonObject
    name: str
    """`<dataset>/<sequence>`."""
    height: int
    width: int


def detect(source: str) -> bool:
    """Tell whether `source` is a BURST file, or the folder of a split."""
    if source.lower().endswith(".json"):
        return "seq_name" in json_keys(source)
    return any("seq_name" in json_keys(storage.join(source, name)) for name in FILES)


def read_burst(
    source: str, *, frames: str | None = None, all_frames: bool = False, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield one clip per sequence; its id is `<dataset>/<sequence>`, an object's `source_id` that of its track.

    Args:
        source: a json file, or the folder of a split, of which `all_classes.json` is read.
        frames: the folder that holds `<dataset>/<sequence>/<image>`; None: looked for beside the file.
        all_frames: take every image of a sequence as a frame, and not the annotated ones only.
        on_error: told of sequences that cannot be used, which are left out; None raises.

    Raises:
        FormatError: the file or an entry does not follow the format.
        MissingPathError: `frames` does not hold the images, or the folder no such file.
        StorageError: the file cannot be read.
    """
    path = source if source.lower().endswith(".json") else storage.join(source, FILES[0])
    content = load_json(path)
    sequences = take(content, "sequences", list, path)
    categories = category_names(content, path) or {}
    split = take_optional(content, "split", str, path) or ""
    listed = ListedFrames(path, frames, _guesses(split), _sample(sequences, path))
    first_only = FIRST_FRAMES in path.rpartition("/")[2]

    def read(item: tuple[int, Any]) -> Clip:
        sequence = _sequence(item[1], f"{path}: sequences[{item[0]}]")
        names = _names(sequence, "all_image_paths" if all_frames else "annotated_image_paths")
        return _clip(sequence, names, categories, listed, first_only=first_only)

    def name_of(item: tuple[int, Any]) -> str:
        known = item[1] if isinstance(item[1], dict) else {}
        return f"{known.get('dataset')}/{known.get('seq_name', item[0])}"

    yield from stream_clips(enumerate(sequences), read, name_of, source=source, on_error=on_error)


def _guesses(split: str) -> list[str]:
    return [f"../frames/{split}", f"../../frames/{split}", "../frames", "frames", f"../{split}", "."]


def _sequence(content: Any, where: str) -> _Sequence:
    name = f"{take(content, 'dataset', str, where)}/{take(content, 'seq_name', str, where)}"
    return _Sequence(where, content, name, *check_size(content, where))


def _names(sequence: _Sequence, key: str) -> list[str]:
    names = take(sequence.content, key, list, sequence.where)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise FormatError(f"{sequence.where}: {key}: expected different names of frames, found {names!r:.60}")
    return names


def _sample(sequences: list[Any], path: str) -> str | None:
    if not sequences:
        return None
    sequence = _sequence(sequences[0], f"{path}: sequences[0]")
    return storage.join(sequence.name, _names(sequence, "annotated_image_paths")[0])


def _clip(
    sequence: _Sequence,
    names: list[str],
    categories: Mapping[int, str],
    listed: ListedFrames,
    *,
    first_only: bool,
) -> Clip:
    frame_of = {name: frame for frame, name in enumerate(names)}
    annotated = _names(sequence, "annotated_image_paths")
    if not set(annotated) <= set(names):
        raise FormatError(f"{sequence.where}: annotated_image_paths holds frames that all_image_paths lacks")
    entries = take(sequence.content, "segmentations", list, sequence.where)
    if len(entries) != len(annotated):
        raise FormatError(
            f"{sequence.where}: {len(entries)} segmentations for {len(annotated)} annotated_image_paths; is the file "
            "complete?"
        )
    objects = _objects(sequence, categories)
    prompts = _Prompts(sequence, {known.source_id or "": known.object_id for known in objects})
    for name, entry in zip(annotated, entries, strict=True):
        prompts.add(frame_of[name], entry, f"{sequence.where}: segmentations of {name!r}", first_only=first_only)
    partial = len(annotated) < len(names) and not first_only
    return Clip(
        sequence.name,
        listed.source([storage.join(sequence.name, name) for name in names], sequence.where),
        sequence.height,
        sequence.width,
        len(names),
        fps=_fps(sequence, all_frames=len(names) > len(annotated)),
        objects=objects,
        boxes=tuple(prompts.boxes),
        masks=tuple(sorted(prompts.masks, key=lambda mask: (mask.object_id, mask.frame))),
        points=tuple(prompts.points),
        annotated_frames=tuple(sorted(frame_of[name] for name in annotated)) if partial else None,
    )


def _fps(sequence: _Sequence, *, all_frames: bool) -> float | None:
    """Return the frame rate that the file states for all images; of the annotated ones it is not known."""
    return take_optional(sequence.content, "fps", float, sequence.where) if all_frames else None


def _objects(sequence: _Sequence, categories: Mapping[int, str]) -> tuple[ObjectInfo, ...]:
    known = take(sequence.content, "track_category_ids", dict, sequence.where)
    for track_id, category_id in known.items():
        if not track_id.isdigit() or (categories and category_id not in categories):
            raise FormatError(
                f"{sequence.where}: track_category_ids: track {track_id!r} of category {category_id!r}: expected a "
                "number, and a category of the file"
            )
    order = sorted(known, key=int)
    return tuple(
        ObjectInfo(object_id, categories.get(known[track_id]), track_id) for object_id, track_id in enumerate(order, 1)
    )


class _Prompts:
    """Collects the prompts of a sequence, frame by frame."""

    def __init__(self, sequence: _Sequence, object_ids: Mapping[str, int]) -> None:
        self._sequence, self._object_ids = sequence, object_ids
        self.masks: list[MaskPrompt] = []
        self.boxes: list[Box] = []
        self.points: list[Point] = []

    def add(self, frame: int, entry: Any, where: str, *, first_only: bool) -> None:
        if not isinstance(entry, dict):
            raise FormatError(f"{where}: expected an object with a mask per track, found {entry!r:.40}")
        unknown = sorted(set(entry) - set(self._object_ids))
        if unknown:
            raise FormatError(f"{where}: track {unknown[0]!r} is not listed in track_category_ids; add it there")
        for track_id, object_id in self._object_ids.items():
            if track_id in entry:
                self._add_object(frame, object_id, entry[track_id], f"{where}: track {track_id}")
            elif not first_only:
                self.masks.append(MaskPrompt(object_id, frame, None))

    def _add_object(self, frame: int, object_id: int, found: Any, where: str) -> None:
        counts = take(found, "rle", str, where).encode("ascii", "replace")
        try:
            rle = check_rle(counts, self._sequence.height, self._sequence.width)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from error
        machine_made = take_optional(found, "is_gt", bool, where) is False
        self.masks.append(MaskPrompt(object_id, frame, rle, machine_made))
        if take_optional(found, "bbox", list, where) is not None:
            edges = xywh_to_xyxy(found["bbox"], f"{where}: bbox")
            if edges is not None:
                self.boxes.append(Box(object_id, frame, *edges))
        if take_optional(found, "point", list, where) is not None:
            x, y = number_list(found["point"], 2, f"{where}: point")
            self.points.append(Point(object_id, frame, x, y))
