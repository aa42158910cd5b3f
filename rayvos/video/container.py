"""Video files (mp4, mov, mkv, webm, avi and more) by PyAV, local or by URL: what they hold, and their frames in order.

Damage is an error, not a guess: the decoder is told to refuse broken slices (`err_detect=explode`) that it would
otherwise paint over from their neighbours, frames it marks as corrupt are refused, and a file that ends early is
noticed by the manifest's frame count. Damage that leaves a valid stream cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import av
import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.errors import DecodeError, RayvosError
from rayvos.video.limits import DecodeLimits

__all__ = [
    "VIDEO_SUFFIXES",
    "OpenVideo",
    "VideoIndex",
    "VideoInfo",
    "frames_counted",
    "frames_timed",
    "index_video",
    "probe_video",
    "quarter_turns",
]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv")

# Playlists and other formats that make FFmpeg open further files or addresses are not read.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,h264,hevc,ivf,gif,mxf,nut"
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
class VideoIndex:
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
    opened = OpenVideo(path, path, limits or DecodeLimits())
    try:
        index = index_video(opened)
        if index.num_frames == 0:
            raise DecodeError(f"{path}: expected frames, found none; {RE_ENCODE}")
        opened.restart()
        _, first = next(frames_counted(opened), (0, None))
        if first is None:
            raise DecodeError(f"{path}: {index.num_frames} packets but no frame can be decoded; {RE_ENCODE}")
        stream = opened.stream  # as opened last: that of the first pass is gone
        turns = quarter_turns(first)
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


def quarter_turns(frame: Any) -> int:
    """Return the counter-clockwise quarter turns that show the frame upright."""
    turns: int = round(frame.rotation / 90) % 4
    return turns


def index_video(opened: OpenVideo) -> VideoIndex:
    """Pass over all packets of a freshly opened file."""
    times: list[int | None] = []
    seeks: dict[int, int] = {}
    for packet in opened.packets():
        if packet.size == 0 or packet.is_discard or _is_hidden(packet, opened.stream):
            continue
        times.append(packet.pts)
        if packet.is_keyframe and packet.pts is not None:
            seeks[packet.pts] = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
    known = np.unique(np.array([time for time in times if time is not None], np.int64))
    if known.size < len(times):  # times are missing or there twice: such a file is read by counting only
        return VideoIndex(len(times), *(np.empty(0, np.int64) for _ in range(3)))
    starts = np.array(sorted(seeks), np.int64)
    return VideoIndex(
        len(times), known, np.searchsorted(known, starts), np.array([seeks[int(time)] for time in starts], np.int64)
    )


def _is_hidden(packet: Any, stream: Any) -> bool:
    """Tell whether a packet only feeds the decoder: VP8 stores its reference frames so (RFC 6386, section 9.1)."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10


class OpenVideo:
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
            with storage.naming(self.path):
                if not self._file.read(1):
                    raise self.failed("expected a video, found an empty file")
                self._file.seek(0)
                container = self._open_container()
        except RayvosError:
            self.close()
            raise
        self.container = container
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            self.close()
            raise self.failed("expected a video, found no video stream that can be decoded")
        self.stream = stream
        stream.thread_type = "NONE"  # one core per decoder: clips run in parallel, not the slices of a frame
        self._limits.check_pixels(stream.height or 0, stream.width or 0, self.where)
        stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(self._limits.max_pixels)}

    def _open_container(self) -> Any:
        try:
            return av.open(self._file, options={"format_whitelist": FORMATS})
        except (av.FFmpegError, ValueError) as error:
            raise self.failed("expected a video, found none that can be opened", error) from error

    def packets(self) -> Iterator[Any]:
        """Yield the packets from where the file stands, and an empty one that flushes the decoder."""
        with storage.naming(self.path):
            try:
                yield from self.container.demux(self.stream)
            except av.FFmpegError as error:
                raise self.failed("the file is damaged", error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            if hasattr(self, "container"):
                self.container.close()
            self._file.close()
            self._file = None


def frames_counted(opened: OpenVideo) -> Iterator[tuple[int, Any]]:
    """Yield (position, frame) of a file that stands at its start."""
    position = 0
    try:
        for packet in opened.packets():
            for frame in packet.decode():
                _refuse_corrupt(opened, frame)
                yield position, frame
                position += 1
    except av.FFmpegError as error:
        raise opened.failed(f"frame {position} of the file cannot be decoded", error) from error


def frames_timed(opened: OpenVideo, index: VideoIndex, start: int) -> Iterator[tuple[int, Any]]:
    """Yield (position, frame) of a file that was sought to the key frame at `start`, or to one before it."""
    reached = False
    for packet in opened.packets():
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


def _refuse_corrupt(opened: OpenVideo, frame: Any) -> None:
    if frame.is_corrupt:
        raise opened.failed("the decoder marks a frame as corrupt")
