"""The frames of a clip that is a video file, or some frames of one.

A frame is a position in display order. Reading from the start counts frames; a jump uses an index of all packets'
times (one pass over the file without decoding, made on the first jump), seeks to the key frame before and tells
frames by their times, so variable frame rates and reordered frames come out exact.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Clip
from rayvos.errors import DecodeError, FormatError, FrameMissingError, FrameSizeError, MissingPathError
from rayvos.video.container import OpenVideo, VideoIndex, frames_counted, frames_timed, index_video, quarter_turns
from rayvos.video.decode_ahead import DecodeAhead
from rayvos.video.limits import DecodeLimits

__all__ = ["VideoReader"]

DECODE_ONWARD = 32  # frames that are decoded and dropped rather than indexing the file for a jump


@dataclass(eq=False)
class _Place:
    """An open file and how far it was decoded; one thread at a time uses it."""

    opened: OpenVideo
    next: int = 0
    """Position of the frame that comes next."""
    frames: Iterator[Any] | None = field(default=None, repr=False)


class VideoReader:
    """Reads the frames of a clip that is (part of) a video file; several passes may be under way at once.

    Args:
        clip: its source is of kind `video`.
        limits: bounds on decoding.

    Raises:
        FrameMissingError: the file does not exist.
        DecodeError: it is no video.
        FormatError: the clip names more or fewer positions than it has frames.
        StorageError: and its children, naming the file.
    """

    def __init__(self, clip: Clip, limits: DecodeLimits) -> None:
        self.num_frames, self.height, self.width = clip.num_frames, clip.height, clip.width
        self._clip_id, self._path, self._limits = clip.clip_id, clip.source.uri, limits
        self._positions = clip.source.video_frames or range(clip.num_frames)
        if len(self._positions) != clip.num_frames:
            raise FormatError(
                f"clip {clip.clip_id!r}: {len(self._positions)} video frames listed but num_frames is "
                f"{clip.num_frames}; re-import the clip"
            )
        self._lock = threading.Lock()
        self._index: VideoIndex | None = None
        self._seekable = True
        self._idle: list[_Place] = []
        self._passes: set[DecodeAhead[NDArray[np.uint8]]] = set()
        self._closed = False
        self._idle.append(self._open())

    def _open(self) -> _Place:
        where = f"clip {self._clip_id!r}"
        try:
            return _Place(OpenVideo(self._path, where, self._limits))
        except MissingPathError as error:
            raise FrameMissingError(
                f"{where}: the video file {self._path} does not exist; restore it, or re-import the clip"
            ) from error

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, RGB uint8 image (height, width, 3)) in the order asked for; ascending is fastest.

        Raises:
            FrameMissingError, FrameSizeError, DecodeError, ImageTooLargeError, StorageError: naming clip and frame.
        """
        if self._closed:
            raise ValueError(f"clip {self._clip_id!r}: frames were asked for after their reader was closed")
        place = self._idle.pop() if self._idle else self._open()
        ahead = self._limits.frames_ahead(self.height, self.width)
        running = DecodeAhead(lambda frame: self._image(place, frame), frames, num_threads=1, ahead=ahead)
        self._passes.add(running)
        try:
            yield from running
        finally:
            self._passes.discard(running)
            if running.close():  # else the thread still decodes: the place is its own, and ends with it
                self._give_back(place)

    def _give_back(self, place: _Place) -> None:
        if self._closed or self._idle:
            place.opened.close()
        else:
            self._idle.append(place)

    def _image(self, place: _Place, frame: int) -> NDArray[np.uint8]:
        where = f"clip {self._clip_id!r} frame {frame}"
        if not 0 <= frame < self.num_frames:
            raise FrameMissingError(f"{where}: the clip has frames 0…{self.num_frames - 1}; ask for one of them")
        place.opened.where = where
        decoded = self._frame_at(place, self._positions[frame])
        self._limits.check_pixels(decoded.height, decoded.width, where)
        image: NDArray[np.uint8] = decoded.to_ndarray(format="rgb24")
        turns = quarter_turns(decoded)
        if turns:
            image = np.ascontiguousarray(np.rot90(image, turns))
        if image.shape[:2] != (self.height, self.width):
            raise FrameSizeError(
                f"{where} ({self._path}): frame is {image.shape[0]}x{image.shape[1]} but the manifest says "
                f"{self.height}x{self.width}; re-import the clip"
            )
        return image

    def _frame_at(self, place: _Place, position: int) -> Any:
        """Return the decoded frame at a position of the file."""
        if self._seekable and not place.next <= position < place.next + DECODE_ONWARD:
            self._jump(place, position)
        elif position < place.next:
            self._restart(place)
        if place.frames is None:
            place.frames = frames_counted(place.opened)
        for found, frame in place.frames:
            place.next = found + 1
            if found == position:
                return frame
            if found > position:  # key frames of this file cannot be sought by time: count from the start
                self._seekable = False
                self._restart(place)
                return self._frame_at(place, position)
        raise DecodeError(
            f"{place.opened.where} ({self._path}): the file ends after {place.next} frames but the manifest needs "
            f"{max(self._positions) + 1}; the file is cut off or was replaced: copy it again, or re-import the clip"
        )

    def _restart(self, place: _Place) -> None:
        place.opened.restart()
        place.next, place.frames = 0, None

    def _jump(self, place: _Place, position: int) -> None:
        """Move to the key frame before a position, unless decoding onward gets there as soon."""
        index = self._known_index()
        before = int(np.searchsorted(index.keyframes, position, side="right")) - 1
        if before < 0:
            if position < place.next:
                self._restart(place)
            return
        start = int(index.keyframes[before])
        if place.next <= position and start <= place.next:
            return
        place.frames = None
        try:
            place.opened.container.seek(int(index.seek_times[before]), stream=place.opened.stream, backward=True)
        except av.FFmpegError as error:
            raise place.opened.failed("cannot seek", error) from error
        place.next = start
        place.frames = frames_timed(place.opened, index, start)

    def _known_index(self) -> VideoIndex:
        with self._lock:
            if self._index is None:
                opened = self._open().opened
                try:
                    self._index = index_video(opened)
                finally:
                    opened.close()
            return self._index

    def close(self) -> None:
        """Stop the threads of all passes and close the files."""
        self._closed = True
        for running in list(self._passes):
            running.close()
        while self._idle:
            self._idle.pop().opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
