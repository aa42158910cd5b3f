"""Pictures of a whole clip's labels: an overlay video and a contact sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.label_frames import FrameLabel, Overlap, frames_of, given_boxes, is_accepted, paint_order
from rayvos.annotations.records import Box, Clip
from rayvos.review.contact_sheet import SheetFrame, contact_sheet, evenly_spaced, scale_label
from rayvos.review.overlays import ObjectLabel, fit_scale, overlay_image, resize_image
from rayvos.video.source import open_clip

__all__ = ["clip_sheet", "drawn_labels", "sheet_title", "write_overlay_video", "write_video"]

DEFAULT_FPS = 24.0  # image folders state none; DAVIS and SA-V are shown at 24
# The same labels give the same file anywhere: x264's bytes depend on its number of threads, and its look-ahead reads
# memory that it never set (seen with small pictures: the file differs from run to run).
ENCODER = {
    "crf": "21",
    "preset": "veryfast",
    "threads": "2",
    "x264-params": "rc-lookahead=0:mbtree=0:scenecut=0:b-adapt=0",
}


def drawn_labels(
    labels: Sequence[FrameLabel],
    clip: Clip,
    boxes: Mapping[int, Box],
    *,
    overlap: Overlap = "score",
    min_score: float = 0.0,
) -> list[ObjectLabel]:
    """Return what is drawn of one frame, in the order it is painted.

    Args:
        labels: the frame's labels.
        clip: their clip.
        boxes: the frame's given boxes by object id.
        overlap: who gets a shared pixel.
        min_score: of a label below only the given box and the score are drawn.

    Raises:
        InputError: a mask is damaged or has another size than the clip.
    """
    from rayvos.masks.rle import rle_to_mask

    drawn = []
    for label in paint_order(labels, overlap):
        box = boxes.get(label.object_id)
        sides = None if box is None else (box.x0, box.y0, box.x1, box.y1)
        shown = label.rle is not None and label.area > 0 and is_accepted(label, min_score)
        mask = rle_to_mask(label.rle, clip.height, clip.width) if shown and label.rle is not None else None
        drawn.append(ObjectLabel(label.object_id, mask, sides, label.score))
    return drawn


def write_overlay_video(
    clip: Clip,
    table: pa.Table,
    path: str,
    *,
    fps: float | None = None,
    max_side: int | None = None,
    overlap: Overlap = "score",
    min_score: float = 0.0,
) -> int:
    """Write a clip's labelled frames with their labels over them as an H.264 mp4.

    Args:
        clip: the clip.
        table: its labels, as `iter_labels` gives them.
        path: path or URL of the mp4; it appears whole.
        fps: frames per second; None takes the clip's, or 24.
        max_side: longer side in pixels at most; None keeps the clip's size.
        overlap: who gets a shared pixel.
        min_score: of a label below only the given box and the score are drawn.

    Returns:
        The number of frames written.

    Raises:
        InputError: a frame or a mask cannot be read.
        StorageError: the video cannot be written.
    """
    scale = fit_scale(clip.height, clip.width, max_side)
    height, width = max(1, round(clip.height * scale)), max(1, round(clip.width * scale))
    boxes = given_boxes(clip)
    num_frames = 0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal num_frames
        for frame, image, labels in _labelled_images(clip, table):
            drawn = [
                scale_label(label, height, width, from_height=clip.height, from_width=clip.width)
                for label in drawn_labels(labels, clip, boxes.get(frame, {}), overlap=overlap, min_score=min_score)
            ]
            num_frames += 1
            yield overlay_image(resize_image(image, height, width), drawn)

    write_video(path, pictures(), height, width, fps or clip.fps or DEFAULT_FPS)
    return num_frames


def _labelled_images(
    clip: Clip, table: pa.Table, frames: Sequence[int] | None = None
) -> Iterator[tuple[int, NDArray[np.uint8], list[FrameLabel]]]:
    """Yield (frame, image, labels) of the labelled frames (or those of them in `frames`), ascending."""
    if frames is not None:
        table = table.filter(pc.is_in(table.column("frame"), pa.array(frames, pa.int32())))
    wanted = sorted(table.column("frame").unique().to_pylist())
    with open_clip(clip) as reader:
        for (frame, image), (labelled_frame, labels) in zip(reader.read(wanted), frames_of(table), strict=True):
            assert frame == labelled_frame, "both come in ascending order"
            yield frame, image, labels


def write_video(path: str, images: Iterable[NDArray[np.uint8]], height: int, width: int, fps: float) -> None:
    """Write RGB images of one size as an H.264 mp4 that every player and browser shows.

    An odd last row or column is drawn twice, since the pixel format needs even sizes.

    Raises:
        StorageError: the video cannot be written.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with storage.open_output(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        for image in images:
            even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, "rgb24")))
        container.mux(stream.encode())


def clip_sheet(
    clip: Clip,
    table: pa.Table,
    *,
    num_frames: int = 4,
    max_side: int = 480,
    overlap: Overlap = "score",
    min_score: float = 0.0,
    title: str | None = None,
) -> NDArray[np.uint8]:
    """Return a clip's contact sheet: evenly spaced frames, given boxes on the left, masks on the right.

    Args:
        clip: the clip.
        table: its labels, as `iter_labels` gives them.
        num_frames: rows of the sheet; they are taken from the frames on which some object is present.
        max_side: longer side of each panel in pixels.
        overlap: who gets a shared pixel.
        min_score: of a label below only the score is drawn.
        title: written on top; None names clip, objects and engine.

    Raises:
        InputError: there is no label, or a frame or a mask cannot be read.
    """
    present = table.filter(table.column("present")) if table.num_rows else table
    frames = sorted((present if present.num_rows else table).column("frame").unique().to_pylist())
    chosen = [frames[position] for position in evenly_spaced(len(frames), num_frames)] if frames else []
    boxes = given_boxes(clip)
    rows = []
    for frame, image, labels in _labelled_images(clip, table, chosen):
        given = {key: (box.x0, box.y0, box.x1, box.y1) for key, box in sorted(boxes.get(frame, {}).items())}
        rows.append(
            SheetFrame(frame, image, given, drawn_labels(labels, clip, {}, overlap=overlap, min_score=min_score))
        )
    return contact_sheet(rows, title=title or sheet_title(clip, table), max_side=max_side)


def sheet_title(clip: Clip, table: pa.Table) -> str:
    """Return `clip · 2 objects · cut`: what a contact sheet shows."""
    engines = sorted({engine for engine in table.column("engine").unique().to_pylist() if engine})
    count = len(clip.objects)
    return " · ".join([clip.clip_id, f"{count} object{'' if count == 1 else 's'}", *engines])
