"""Frames from video files (mp4, mov, mkv, webm, avi and more) by PyAV, local or by URL.

A frame is a position in display order. Reading from the start counts frames; a jump uses an index of all packets'
times (one pass over the file without decoding, made on the first jump), seeks to the key frame before and tells
frames by their times, so variable frame rates and reordered frames come out exact.

Damage is an error, not a guess: the decoder is told to refuse broken slices (`err_detect=explode`) that it would
otherwise paint over from their neighbours, frames it marks as corrupt are refused, and a file that ends early is
noticed by the manifest's frame count. Damage that leaves a valid stream cannot be seen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self

import av
import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.records import Clip
from rayvos.errors import DecodeError, FormatError, FrameMissingError, FrameSizeError, MissingPathError
from rayvos.video.decode_ahead import DecodeAhead
from rayvos.video.limits import DecodeLimits

__all__ = ["VIDEO_SUFFIXES", "VideoInfo", "VideoReader", "probe_video"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv")

# Playlists and other formats that make FFmpeg open further files or addresses are not read.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,ivf,gif,mxf,nut"
DECODE_ONWARD = 32  # frames that are decoded and dropped rather than indexing the file for a jump
RE_ENCODE = "re-encode it (ffmpeg -i IN -c:v libx264 -crf 12 OUT.mp4), or leave the clip out"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file holds, told without decoding more than its first frame."""

    num_frames: int
    height: int
    width: int
    """Pixels, after rotation: what a person sees."""
    fps: float | None
    """Average frame rate."""
    frame_times: tuple[float, ...]
    """Seconds at which each frame is shown; () where the file does not say."""
    keyframes: tuple[int, ...]
    """Positions at which decoding can start; () where the file does not say."""
    codec: str
    pixel_format: str
    rotation: int
    """Degrees, counter-clockwise, that were applied: 0, 90, 180 or 270."""


@dataclass(frozen=True, slots=True)
class _Index:
    """Display order of all packets: `times[position]`, and the key frames to seek to."""

    num_frames: int
    times: NDArray[np.int64]
    """(num_frames,) ascending presentation times in the stream's time base; empty where frames have none."""
    keyframes: NDArray[np.int64]
    """Ascending positions."""
    seek_times: NDArray[np.int64]
    """Of each key frame: the time to seek to."""

    def position(self, time: int | None) -> int | None:
        """Return the position of the frame shown at `time`, None where there is none."""
        if time is None or not self.times.size:
            return None
        position = int(np.searchsorted(self.times, time))
        return position if position < self.times.size and self.times[position] == time else None


def probe_video(path: str, *, limits: DecodeLimits | None = None) -> VideoInfo:
    """Look into a video file: one pass over its packets, and its first frame decoded.

    Args:
        path: local path or URL.
        limits: bounds on the frame size.

    Raises:
        MissingPathError: nothing is there.
        StorageError: it cannot be read.
        DecodeError: it is no video, it has no frames, or its first one cannot be decoded.
        ImageTooLargeError: its frames have more pixels than allowed.
    """
    opened = _Opened(path, path, limits or DecodeLimits())
    try:
        stream = opened.stream
        index = _index(opened)
        if index.num_frames == 0:
            raise DecodeError(f"{path}: expected frames, found none; {RE_ENCODE}")
        opened.restart()
        _, first = next(_counted(opened), (0, None))
        if first is None:
            raise DecodeError(f"{path}: {index.num_frames} packets but no frame can be decoded; {RE_ENCODE}")
        turns = _quarter_turns(first)
        height, width = (first.width, first.height) if turns % 2 else (first.height, first.width)
        base = float(stream.time_base or 0)
        return VideoInfo(
            num_frames=index.num_frames,
            height=height,
            width=width,
            fps=float(stream.average_rate) if stream.average_rate else None,
            frame_times=tuple((index.times * base).tolist()),
            keyframes=tuple(index.keyframes.tolist()),
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            rotation=90 * turns,
        )
    finally:
        opened.close()


def _quarter_turns(frame: Any) -> int:
    """Return the counter-clockwise quarter turns that show the frame upright."""
    return int(round(frame.rotation / 90)) % 4


def _index(opened: _Opened) -> _Index:
    """Pass over all packets of a freshly opened file."""
    times: list[int | None] = []
    seeks: dict[int, int] = {}
    try:
        for packet in opened.container.demux(opened.stream):
            if packet.size == 0 or packet.is_discard or _is_hidden(packet, opened.stream):
                continue
            times.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                seeks[packet.pts] = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
    except av.FFmpegError as error:
        raise opened.failed("its packets cannot be listed", error) from error
    known = np.unique(np.array([time for time in times if time is not None], np.int64))
    if known.size < len(times):  # times are missing or there twice: such a file is read by counting only
        return _Index(len(times), *(np.empty(0, np.int64) for _ in range(3)))
    starts = np.array(sorted(seeks), np.int64)
    return _Index(
        len(times), known, np.searchsorted(known, starts), np.array([seeks[int(time)] for time in starts], np.int64)
    )


def _is_hidden(packet: Any, stream: Any) -> bool:
    """Tell whether a packet only feeds the decoder: VP8 stores its reference frames so (RFC 6386, section 9.1)."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10


class _Opened:
    """An open file with its video stream."""

    def __init__(self, path: str, where: str, limits: DecodeLimits) -> None:
        self.path, self.where, self._limits = path, where, limits
        self._file: IO[bytes] | None = None
        self.restart()

    def failed(self, problem: str, error: Exception | None = None) -> DecodeError:
        """Return the error to raise for this file."""
        reason = f": {getattr(error, 'strerror', None) or error}" if error else ""
        place = self.where if self.where == self.path else f"{self.where} ({self.path})"
        return DecodeError(f"{place}: {problem}{reason}; {RE_ENCODE}")

    def restart(self) -> None:
        """Open the file again, at its start."""
        self.close()
        # A Python file rather than a name: FFmpeg would take some names for protocols.
        self._file = storage.open_input(self.path)
        try:
            container: Any = av.open(self._file, options={"format_whitelist": FORMATS})
        except (av.FFmpegError, ValueError) as error:
            self.close()
            raise self.failed("expected a video, found none that can be opened", error) from error
        self.container = container
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            self.close()
            raise self.failed("expected a video, found no video stream that can be decoded")
        self.stream = stream
        stream.thread_type = "NONE"  # one core per decoder: clips run in parallel, not the slices of a frame
        self._limits.check_pixels(stream.height or 0, stream.width or 0, self.where)
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(self._limits.max_pixels)}

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            if hasattr(self, "container"):
                self.container.close()
            self._file.close()
            self._file = None


def _counted(opened: _Opened) -> Iterator[tuple[int, Any]]:
    """Yield (position, frame) of a file that stands at its start."""
    position = 0
    try:
        for packet in opened.container.demux(opened.stream):
            for frame in packet.decode():
                _refuse_corrupt(opened, frame)
                yield position, frame
                position += 1
    except av.FFmpegError as error:
        raise opened.failed(f"frame {position} of the file cannot be decoded", error) from error


def _timed(opened: _Opened, index: _Index, start: int) -> Iterator[tuple[int, Any]]:
    """Yield (position, frame) of a file that was sought to the key frame at `start`, or to one before it."""
    reached = False
    for packet in opened.container.demux(opened.stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if reached:
                raise opened.failed("a frame cannot be decoded", error) from error
            continue  # frames shown before the key frame may refer to what lies before the jump
        for frame in frames:
            position = index.position(frame.pts)
            if position is None:
                position = index.num_frames  # beyond every frame: the caller then counts instead
            if position >= start:
                reached = True
                _refuse_corrupt(opened, frame)
                yield position, frame


def _refuse_corrupt(opened: _Opened, frame: Any) -> None:
    if frame.is_corrupt:
        raise opened.failed("the decoder marks a frame as corrupt")


@dataclass(eq=False)
class _Place:
    """An open file and how far it was decoded; one thread at a time uses it."""

    opened: _Opened
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
        self._index: _Index | None = None
        self._seekable = True
        self._idle: list[_Place] = []
        self._passes: set[DecodeAhead[NDArray[np.uint8]]] = set()
        self._closed = False
        self._idle.append(self._open())

    def _open(self) -> _Place:
        where = f"clip {self._clip_id!r}"
        try:
            return _Place(_Opened(self._path, where, self._limits))
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
        turns = _quarter_turns(decoded)
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
            place.frames = _counted(place.opened)
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
        self._restart(place)
        try:
            place.opened.container.seek(int(index.seek_times[before]), stream=place.opened.stream, backward=True)
        except av.FFmpegError as error:
            raise place.opened.failed("cannot seek", error) from error
        place.next = start
        place.frames = _timed(place.opened, index, start)

    def _known_index(self) -> _Index:
        with self._lock:
            if self._index is None:
                opened = self._open().opened
                try:
                    self._index = _index(opened)
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
