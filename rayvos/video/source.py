"""Opening a clip, whatever its frames are stored in."""

from __future__ import annotations

from rayvos.annotations.records import Clip
from rayvos.errors import choose
from rayvos.video.image_folder import ImageFolderReader
from rayvos.video.limits import DecodeLimits
from rayvos.video.video_reader import VideoReader

__all__ = ["open_clip"]


def open_clip(
    clip: Clip, *, limits: DecodeLimits | None = None, decode_threads: int = 2
) -> ImageFolderReader | VideoReader:
    """Open a clip's frames for reading (`rayvos.engines.base.FrameReader`); use it as a context manager.

    Args:
        clip: where its frames are, and the size and count that they are checked against.
        limits: bounds on decoding; None takes the defaults.
        decode_threads: threads that decode pictures ahead. A video decodes in one: each frame needs those before it.

    Raises:
        FrameMissingError: the video file does not exist, or a folder holds too few pictures.
        DecodeError: the video file cannot be opened.
        StorageError: and its children, naming the path.
    """
    limits = limits or DecodeLimits()
    if choose("kind of source", clip.source.kind, ("images", "video")) == "images":
        return ImageFolderReader(clip, limits, decode_threads)
    return VideoReader(clip, limits)
