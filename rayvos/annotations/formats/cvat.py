"""CVAT "for video 1.1" XML: tracks of boxes, points, polygons and masks over a video.

The `frame` of a shape is a frame number of the *source video* (0-based); a task may start late and take every n-th
frame only. A clip's frames are the task's, so frame i of the clip is number `start + i * step` of the video
(`ClipSource.video_frames`). Boxes are `xyxy` pixel edges already.

What a track says between its shapes: boxes are interpolated linearly; after a shape with `outside="1"` the object is
absent up to the next shape, and towards such a shape the last box stays where it is; a box that no `outside` closes
stays to the end, as in the tool. Points, polygons and masks hold for the frames they are listed at. Polylines and
skeletons are left out, with a logged warning.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.box_lines import xyxy_or_absent
from rayvos.annotations.clip_paths import ClipRoot, Probe, clip_from_path, folder_of, is_one_clip, is_video, with_images
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.cvat_xml import CvatTask, DrawnMask, Edges, Shape, parse_cvat
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo, Point
from rayvos.errors import FormatError, FrameSizeError, MissingPathError
from rayvos.masks.rle import mask_to_rle, polygons_to_rle

__all__ = ["detect", "read_cvat"]

logger = logging.getLogger(__name__)

HEAD = 4096  # bytes in which the root element of an export stands
MAX_FRAMES = 10_000_000  # four days of video: more is a damaged number, and a list of it would fill memory
MASK_SHAPES = {"polygon", "mask"}


def detect(source: str) -> bool:
    """Tell whether `source` is a CVAT XML file or a folder of them."""
    try:
        path = next(_files(source), None)
        if path is None:
            return False
        with storage.open_input(path) as file:
            return b"<annotations" in file.read(HEAD)
    except (FormatError, MissingPathError):
        return False


def read_cvat(
    source: str, *, frames: str | None = None, probe: Probe | None = None, on_error: OnError | None = None
) -> Iterator[Clip]:
    """Yield one clip per XML file; its id is the task's name (else the file's).

    Args:
        source: the XML file, or a folder of XML files, or of folders that hold an `annotations.xml` each.
        frames: the video, the folder of its images, or the folder that holds either under the name in the XML;
            None: beside the XML file.
        probe: reads a video's size and frame count; None trusts the XML.
        on_error: told of files that cannot be used, which are left out; None raises.

    Raises:
        FormatError: no CVAT video export, or one that contradicts itself or its video.
        FrameSizeError: the video's size is not the one in the XML.
        StorageError: a path cannot be read.
    """

    def read(path: str) -> Clip:
        return _task_to_clip(parse_cvat(path), path, frames, probe)

    return stream_clips(_files(source), read, lambda path: path, source=source, on_error=on_error)


def _files(source: str) -> Iterator[str]:
    if source.lower().endswith(".xml"):
        yield source
        return
    names = storage.list_folder(source)
    direct = [name for name in names if name.lower().endswith(".xml")]
    yield from (storage.join(source, name) for name in direct)
    if not direct:
        for name in names:
            path = storage.join(source, name, "annotations.xml")
            if storage.exists(path):
                yield path


def _task_to_clip(task: CvatTask, path: str, frames: str | None, probe: Probe | None) -> Clip:
    file = PurePosixPath(path)
    name = task.meta.get("name") or (file.stem if file.stem != "annotations" else file.parent.name)
    if task.left_out:
        logger.warning("left_out file=%s what=%s", path, sorted(task.left_out))
    numbers = _frame_numbers(task, path)
    empty = _clip_without_prompts(task, name, path, numbers, frames, probe)
    size = (empty.height, empty.width)
    boxes: list[Box] = []
    masks: list[MaskPrompt] = []
    points: list[Point] = []
    tracks = [track for track in task.tracks if track.shapes]
    for object_id, track in enumerate(tracks, 1):
        shapes = sorted(track.shapes, key=lambda shape: shape.frame)
        for first, second in pairwise(shapes):
            if first.frame == second.frame:
                raise FormatError(f"{path}: track {track.source_id} has two shapes at frame {first.frame}; drop one")
        boxes += _boxes(shapes, object_id, numbers, size)
        try:
            masks += _masks(shapes, object_id, numbers, size)
        except FormatError as error:
            raise FormatError(f"{path}: track {track.source_id}: {error}") from error
        for shape in shapes:
            points += _points(shape, object_id, bisect_left(numbers, shape.frame))
    return dataclasses.replace(
        empty,
        objects=tuple(ObjectInfo(number, track.label, track.source_id) for number, track in enumerate(tracks, 1)),
        boxes=tuple(boxes),
        masks=tuple(masks),
        points=tuple(points),
    )


def _whole(task: CvatTask, key: str, where: str) -> int | None:
    text = task.meta.get(key)
    if text is None:
        return None
    if not text.isdigit():
        raise FormatError(f"{where}: <{key}>: expected a whole number from 0, found {text!r}")
    return int(text)


def _frame_numbers(task: CvatTask, where: str) -> list[int]:
    """Return the source frame number of each of the clip's frames."""
    # The shape that closes a track stands on the frame after, which may be off the grid or behind the task's end.
    used = sorted({shape.frame for track in task.tracks for shape in track.shapes if not shape.outside})
    start = _whole(task, "start_frame", where) or 0
    stop, count = _whole(task, "stop_frame", where), _whole(task, "size", where)
    found = re.fullmatch(r"step=(\d+)", task.meta.get("frame_filter", "step=1").replace(" ", ""))
    if found is None or int(found[1]) < 1:
        raise FormatError(f"{where}: <frame_filter>: expected 'step=N', found {task.meta['frame_filter']!r}")
    step = int(found[1])
    if stop is None:
        stop = start + (count - 1) * step if count else max(used, default=-1)
    if used and not start <= used[0] <= used[-1] <= stop:
        raise FormatError(
            f"{where}: the task has frames {start}…{stop}, but shapes are at {used[0]}…{used[-1]}; export it again"
        )
    if not start <= stop < start + MAX_FRAMES:
        raise FormatError(f"{where}: the task has frames {start}…{stop}: none, or too many; export it again")
    numbers = list(range(start, stop + 1, step))
    if not set(used) <= set(numbers):
        # Tools that ignore the step number shapes one by one: the frame attribute is what they mean.
        logger.warning("step_ignored file=%s step=%d", where, step)
        numbers = list(range(start, stop + 1))
    return numbers


def _clip_without_prompts(
    task: CvatTask, name: str, path: str, numbers: list[int], frames: str | None, probe: Probe | None
) -> Clip:
    written = (_whole(task, "original_height", path), _whole(task, "original_width", path))
    folder = folder_of(path)
    video = task.meta.get("source", name)
    if frames is not None and is_one_clip(frames):
        place: str | None = frames
    else:
        place = ClipRoot(frames or folder, probe).find([video, PurePosixPath(video).stem, "images"])
    if place is None:
        if frames is not None or None in written or not is_video(video):
            raise MissingPathError(
                f"{path}: found neither {video!r} nor its folder of images in {frames or folder}; name it with --frames"
            )
        place, probe = storage.join(folder, video), None
    if is_video(place) and probe is None:
        if None in written:
            raise FormatError(f"{path}: no <original_size>, and the video {place} is not opened to learn it")
        source = ClipSource("video", place, video_frames=tuple(numbers))
        return Clip(name, source, written[0] or 0, written[1] or 0, len(numbers))
    whole = clip_from_path(place, clip_id=name, probe=probe)
    if None not in written and written != (whole.height, whole.width):
        raise FrameSizeError(
            f"{path}: frames of {written[0]}x{written[1]}, but {place} has {whole.height}x{whole.width}; "
            "annotations and video do not belong together"
        )
    return _select(whole, numbers, path)


def _select(whole: Clip, numbers: list[int], where: str) -> Clip:
    """Return the clip cut down to the task's frames."""
    source = whole.source
    if source.kind == "images" and len(source.frame_names) == len(numbers):
        return whole  # an export with images holds just the task's
    if numbers[-1] >= whole.num_frames:
        raise FormatError(
            f"{where}: the task uses frame {numbers[-1]}, but {source.uri} has {whole.num_frames} frames; "
            "annotations and video do not belong together"
        )
    if len(numbers) == whole.num_frames:
        return whole
    if source.kind == "images":
        whole = with_images(whole, [source.frame_names[number] for number in numbers])
    else:
        source = dataclasses.replace(source, video_frames=tuple(numbers))
        whole = dataclasses.replace(whole, source=source, num_frames=len(numbers))
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return dataclasses.replace(whole, fps=whole.fps / step if whole.fps else None)


def _boxes(shapes: Sequence[Shape], object_id: int, numbers: list[int], size: tuple[int, int]) -> Iterator[Box]:
    """Yield a track's boxes from its first shape to the clip's end, between listed frames as the tool shows them."""
    for shape, following in zip(shapes, [*shapes[1:], None], strict=True):
        first = bisect_left(numbers, shape.frame)
        last = bisect_left(numbers, following.frame) if following else len(numbers)
        if shape.outside and shape.kind not in MASK_SHAPES:
            yield from (Box(object_id, frame, 0, 0, 0, 0, visible=False) for frame in range(first, last))
        elif shape.kind == "box" and not shape.outside:
            here = there = _edges(shape)
            if following is not None and following.kind == "box" and not following.outside:
                there = _edges(following)
            span = following.frame - shape.frame if following else 1
            for frame in range(first, last):
                share = (numbers[frame] - shape.frame) / span if there != here else 0.0
                x0, y0, x1, y1 = (a + share * (b - a) for a, b in zip(here, there, strict=True))
                yield xyxy_or_absent(object_id, frame, (x0, y0, x1, y1), size)


def _edges(shape: Shape) -> Edges:
    assert not isinstance(shape.value, DrawnMask)
    x0, y0, x1, y1 = shape.value
    return x0, y0, x1, y1


def _points(shape: Shape, object_id: int, frame: int) -> Iterator[Point]:
    if shape.kind == "points" and not shape.outside and not isinstance(shape.value, DrawnMask):
        for x, y in zip(shape.value[::2], shape.value[1::2], strict=True):
            yield Point(object_id, frame, x, y)


def _masks(shapes: Sequence[Shape], object_id: int, numbers: list[int], size: tuple[int, int]) -> Iterator[MaskPrompt]:
    """Yield the masks of the listed frames, and 'absent' from an outside shape up to the next one."""
    for shape, following in zip(shapes, [*shapes[1:], None], strict=True):
        frame = bisect_left(numbers, shape.frame)
        if shape.kind not in MASK_SHAPES:
            continue
        if shape.outside:
            last = bisect_left(numbers, following.frame) if following else len(numbers)
            yield from (MaskPrompt(object_id, absent, None) for absent in range(frame, last))
        elif isinstance(shape.value, DrawnMask):
            yield MaskPrompt(object_id, frame, mask_to_rle(_drawn(shape.value, shape.frame, size)))
        else:
            yield MaskPrompt(object_id, frame, polygons_to_rle([shape.value], *size))


def _drawn(part: DrawnMask, number: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    if part.left < 0 or part.top < 0 or part.left + part.width > width or part.top + part.height > height:
        raise FormatError(f"frame {number}: the mask's rectangle leaves the {width}x{height} frame; export it again")
    mask = np.zeros((height, width), np.bool_)
    inside = np.repeat(np.arange(len(part.runs)) % 2 == 1, part.runs).reshape(part.height, part.width)
    mask[part.top : part.top + part.height, part.left : part.left + part.width] = inside
    return mask
