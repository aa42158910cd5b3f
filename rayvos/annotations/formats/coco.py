"""COCO instances: still images, each a clip of one frame; and the fields that formats of COCO's family share.

Boxes are `[x, y, width, height]` floats, 0-based; they leave the image by rounding and are clipped to it. A mask is a
list of polygons, or an RLE (compressed or not) for crowds. Left out, and counted in the log: crowds (unless asked
for), annotations whose box has no area or whose area is 0, polygons of fewer than three corners.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.json_fields import (
    JsonObject,
    json_keys,
    load_json,
    number_list,
    take,
    take_optional,
)
from rayvos.annotations.listed_frames import ListedFrames, guesses_beside
from rayvos.annotations.records import Box, Clip, MaskPrompt, ObjectInfo
from rayvos.errors import FormatError
from rayvos.masks.rle import check_rle, polygons_to_rle, uncompressed_to_rle

__all__ = [
    "category_name",
    "category_names",
    "check_size",
    "detect",
    "group_by",
    "read_coco",
    "segmentation_to_rle",
    "xywh_to_xyxy",
]

logger = logging.getLogger(__name__)

Edges = tuple[float, float, float, float]


def detect(source: str) -> bool:
    """Tell whether `source` is a COCO file: images, and nothing of the formats that add videos."""
    keys = json_keys(source)
    others = {"video_id", "track_id", "frame_index", "file_names", "segmentations", "sequences", "masklet"}
    return "file_name" in keys and not keys & others


def read_coco(
    source: str, *, frames: str | None = None, crowds: bool = False, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield one clip per image; its id is the image's, an object's `source_id` the annotation's.

    Args:
        source: the json file.
        frames: the folder that file names start from; None: looked for beside the file.
        crowds: keep annotations of crowds, as objects like any other.
        on_error: told of images that cannot be used, which are left out; None raises.

    Raises:
        FormatError: the file or an entry does not follow the format.
        MissingPathError: `frames` does not hold the images.
        StorageError: the file cannot be read.
    """
    content = load_json(source)
    images = take(content, "images", list, source)
    categories = category_names(content, source)
    annotations = group_by(content, "annotations", "image_id", source)
    listed = ListedFrames(source, frames, guesses_beside(source), _sample(images, source))
    left_out: list[str] = []  # appended to by several threads

    def read(item: tuple[int, Any]) -> Clip:
        image = _Image(source, *item, categories=categories, crowds=crowds, left_out=left_out)
        return image.clip(annotations.get(image.image_id, ()), listed)

    def name_of(item: tuple[int, Any]) -> str:
        return str(item[1].get("id", f"images[{item[0]}]")) if isinstance(item[1], dict) else f"images[{item[0]}]"

    yield from stream_clips(enumerate(images), read, name_of, source=source, on_error=on_error)
    if left_out:
        logger.warning(
            "left_out file=%s %s", source, " ".join(f"{what}={n}" for what, n in sorted(Counter(left_out).items()))
        )


def _sample(images: Sequence[Any], where: str) -> str | None:
    """Return the file name of the first image, None where there is none."""
    return take(images[0], "file_name", str, f"{where}: images[0]") if images else None


def category_names(content: JsonObject, where: str) -> dict[int, str] | None:
    """Return category names by id, None where the file has no categories.

    Raises:
        FormatError: an entry has no id or no name.
    """
    found = take_optional(content, "categories", list, where)
    if found is None:
        return None
    places = ((entry, f"{where}: categories[{number}]") for number, entry in enumerate(found))
    return {take(entry, "id", int, place): take(entry, "name", str, place) for entry, place in places}


def category_name(record: Any, categories: dict[int, str] | None, where: str) -> str | None:
    """Return the name of a record's `category_id`, None where the file names no categories.

    Raises:
        FormatError: the id is missing or unknown.
    """
    if categories is None:
        return None
    number = take(record, "category_id", int, where)
    if number not in categories:
        raise FormatError(f"{where}: category_id {number} is none of the {len(categories)} in categories; add it there")
    return categories[number]


def group_by(content: JsonObject, name: str, key: str, where: str) -> dict[int, list[tuple[int, Any]]]:
    """Return the entries of a list with their positions, by the value of `key`.

    Raises:
        FormatError: the list is missing or null, or an entry has no such key.
    """
    groups: dict[int, list[tuple[int, Any]]] = defaultdict(list)
    for number, entry in enumerate(take(content, name, list, where)):
        groups[take(entry, key, int, f"{where}: {name}[{number}]")].append((number, entry))
    return groups


def check_size(record: Any, where: str) -> tuple[int, int]:
    """Return (height, width) of an image or video record; both are from 1.

    Raises:
        FormatError: they are missing or not positive whole numbers.
    """
    height, width = take(record, "height", int, where), take(record, "width", int, where)
    if height < 1 or width < 1:
        raise FormatError(f"{where}: expected a height and width from 1, found {height}x{width}")
    return height, width


def xywh_to_xyxy(xywh: Any, where: str) -> Edges | None:
    """Return the edges of a box, None where it has no area.

    Raises:
        FormatError: it is not four finite numbers.
    """
    x, y, width, height = number_list(xywh, 4, where)
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def segmentation_to_rle(segmentation: Any, height: int, width: int, where: str) -> bytes | None:
    """Return the RLE of polygons, of a compressed or of an uncompressed RLE.

    Returns:
        None where there are polygons, but each of fewer than three corners.

    Raises:
        FormatError: it is neither, or of another size.
    """
    try:
        if isinstance(segmentation, list):
            polygons = [corners for corners in segmentation if not isinstance(corners, list) or len(corners) >= 6]
            flat = [number_list(corners, len(corners) if isinstance(corners, list) else 6, "polygon")
                    for corners in polygons]  # fmt: skip
            return polygons_to_rle(flat, height, width) if flat else None
        size = take(segmentation, "size", list, "segmentation")
        if size != [height, width]:
            raise FormatError(f"segmentation: size {size!r:.40} differs from the picture's [{height}, {width}]")
        counts = take(segmentation, "counts", (list, str), "segmentation")
        if isinstance(counts, list):
            return uncompressed_to_rle(counts, height, width)
        return check_rle(counts.encode("ascii", "replace"), height, width)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error


class _Image:
    """One entry of `images` on its way to a clip."""

    def __init__(
        self,
        source: str,
        number: int,
        image: Any,
        *,
        categories: dict[int, str] | None,
        crowds: bool,
        left_out: list[str],
    ) -> None:
        self._source = source
        self._where = f"{source}: images[{number}]"
        self.image_id = take(image, "id", int, self._where)
        self._name = take(image, "file_name", str, self._where)
        self._height, self._width = check_size(image, self._where)
        self._categories, self._crowds, self._left_out = categories, crowds, left_out

    def clip(self, annotations: Sequence[tuple[int, Any]], listed: ListedFrames) -> Clip:
        objects: list[ObjectInfo] = []
        boxes: list[Box] = []
        masks: list[MaskPrompt] = []
        for number, annotation in annotations:
            where = f"{self._source}: annotations[{number}]"
            problem, edges, rle = self._shape(annotation, where)
            if problem:
                self._left_out.append(problem)
                continue
            object_id = len(objects) + 1
            source_id = str(take(annotation, "id", int, where))
            objects.append(ObjectInfo(object_id, category_name(annotation, self._categories, where), source_id))
            if edges is not None:
                boxes.append(Box(object_id, 0, *edges))
            if rle is not None:
                masks.append(MaskPrompt(object_id, 0, rle))
        return Clip(
            str(self.image_id), listed.source([self._name], self._where), self._height, self._width, 1,
            objects=tuple(objects), boxes=tuple(boxes), masks=tuple(masks),
        )  # fmt: skip

    def _shape(self, annotation: Any, where: str) -> tuple[str, Edges | None, bytes | None]:
        """Return why an annotation is left out (else nothing), its box and its mask."""
        if take_optional(annotation, "iscrowd", (int, bool), where) and not self._crowds:
            return "crowds", None, None
        if take_optional(annotation, "area", float, where) == 0:
            return "without_area", None, None
        edges = None
        if take_optional(annotation, "bbox", list, where) is not None:
            edges = xywh_to_xyxy(annotation["bbox"], f"{where}: bbox")
            edges = edges and self._clipped(edges)
            if edges is None:
                return "without_area", None, None
        segmentation = take_optional(annotation, "segmentation", (list, dict), where)
        if not segmentation:
            return ("", edges, None) if edges is not None else ("without_box_or_mask", None, None)
        rle = segmentation_to_rle(segmentation, self._height, self._width, where)
        return ("", edges, rle) if rle is not None else ("without_polygon", None, None)

    def _clipped(self, edges: Edges) -> Edges | None:
        x0, y0 = max(edges[0], 0.0), max(edges[1], 0.0)
        x1, y1 = min(edges[2], float(self._width)), min(edges[3], float(self._height))
        return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
