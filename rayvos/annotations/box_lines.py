"""Text files with one `x,y,w,h` line per frame, as trackers' data sets ship them (LaSOT, GOT-10k, TrackingNet).

Numbers may be separated by comma, semicolon, tab or spaces; line ends may be CRLF; a byte-order mark and a missing
last newline are fine. A line of four NaN says that there is no box on the frame.
"""

from __future__ import annotations

import logging
import math
import re

import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.records import Box
from rayvos.errors import FormatError

__all__ = ["boxes_of_track", "match_frames", "read_box_lines", "read_flags", "read_text", "xyxy_or_absent"]

logger = logging.getLogger(__name__)

_SEPARATORS = re.compile(r"[,;\s]+")


def read_text(path: str) -> str:
    """Return a UTF-8 text file without its byte-order mark.

    Raises:
        FormatError: it is not UTF-8.
        StorageError: it cannot be read.
    """
    try:
        return storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x}") from error


def read_box_lines(path: str) -> NDArray[np.float64]:
    """Return the boxes of a file as written: (lines, 4), `x, y, w, h`; a line of NaN stays one.

    Raises:
        FormatError: the file is empty, or a line is not four numbers.
        StorageError: it cannot be read.
    """
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FormatError(f"{path}: expected a line 'x,y,w,h' per frame, found an empty file")
    return np.array([_numbers(line, f"{path} line {number}") for number, line in enumerate(lines, 1)])


def _numbers(line: str, where: str) -> list[float]:
    tokens = _SEPARATORS.split(line.strip())
    try:
        values = [float(token) for token in tokens]
    except ValueError:
        values = []
    missing = sum(math.isnan(value) for value in values)
    if len(values) != 4 or missing not in (0, 4) or any(math.isinf(value) for value in values):
        raise FormatError(
            f"{where}: expected four numbers 'x,y,w,h' (or four NaN: no box), found {line.strip()[:60]!r}"
        )
    return values


def read_flags(path: str, num_frames: int) -> NDArray[np.int64]:
    """Return one whole number per frame from a file that has them in one line or one per line: (num_frames,).

    Raises:
        FormatError: something else than whole numbers, or another count than `num_frames`.
        StorageError: the file cannot be read.
    """
    tokens = [token for token in _SEPARATORS.split(read_text(path).strip()) if token]
    try:
        flags = np.array([int(token) for token in tokens], np.int64)
    except ValueError as error:
        raise FormatError(f"{path}: expected whole numbers, one per frame: {error}") from error
    if len(flags) != num_frames:
        raise FormatError(f"{path}: expected {num_frames} flags, one per frame, found {len(flags)}")
    return flags


def match_frames(num_boxes: int, num_images: int, where: str, *, truncate: bool) -> int:
    """Return how many frames a clip has whose boxes and images should be equally many.

    Args:
        num_boxes: lines of the box file.
        num_images: images of the folder.
        where: the clip, for the message.
        truncate: use the shorter count, with a logged warning, instead of raising.

    Raises:
        FormatError: the counts differ and `truncate` is off.
    """
    if num_boxes == num_images:
        return num_images
    if not truncate:
        raise FormatError(
            f"{where}: annotations of {num_boxes} frames but {num_images} images; complete the download, "
            "or cut to the shorter one with --truncate"
        )
    logger.warning("truncated clip=%s boxes=%d images=%d", where, num_boxes, num_images)
    return min(num_boxes, num_images)


def xyxy_or_absent(
    object_id: int, frame: int, xyxy: tuple[float, float, float, float], size: tuple[int, int], *, visible: bool = True
) -> Box:
    """Return the box, `visible=False` where nothing of it can be seen: zero area, or wholly outside the frame.

    Args:
        object_id: of the box.
        frame: of the box.
        xyxy: pixel edges as the source has them; kept, also where the object is absent.
        size: (height, width) of the frame.
        visible: what the source says.
    """
    x0, y0, x1, y1 = xyxy
    height, width = size
    inside = x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < width and y0 < height
    return Box(object_id, frame, x0, y0, x1, y1, visible=visible and inside)


def boxes_of_track(xywh: NDArray[np.float64], visible: NDArray[np.bool_], size: tuple[int, int]) -> tuple[Box, ...]:
    """Return the boxes of a clip's only object, frame by frame.

    Args:
        xywh: (frames, 4); a line of NaN, a side of zero or less, or a place outside the frame means absent.
        visible: (frames,), False where the source says so.
        size: (height, width) of the frames.
    """
    seen = visible & ~np.isnan(xywh[:, 0])
    x, y, w, h = np.nan_to_num(xywh).T
    edges = np.stack([x, y, x + w, y + h], axis=1).tolist()
    return tuple(
        xyxy_or_absent(1, frame, (x0, y0, x1, y1), size, visible=bool(seen[frame]))
        for frame, (x0, y0, x1, y1) in enumerate(edges)
    )
