"""A clip, still without prompts, from the place of its frames: a folder of images or a video file.

Videos are opened by a `Probe` that the caller hands in (`rayvos.video.container.probe_video`), since annotations know
nothing of decoders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Protocol

from rayvos import storage
from rayvos.annotations.frame_listing import file_identity, image_size, is_image, list_frames, list_images
from rayvos.annotations.records import Clip, ClipSource
from rayvos.errors import FormatError, MissingPathError

__all__ = [
    "ClipRoot",
    "Probe",
    "VideoInfo",
    "clip_from_path",
    "cut_clip",
    "folder_of",
    "is_one_clip",
    "is_video",
    "with_images",
]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


class VideoInfo(Protocol):
    """What a clip takes from a video file."""

    @property
    def num_frames(self) -> int:
        """Number of frames, counted, not guessed from the duration."""

    @property
    def height(self) -> int:
        """Pixels, after rotation."""

    @property
    def width(self) -> int:
        """Pixels, after rotation."""

    @property
    def fps(self) -> float | None:
        """Average frame rate."""


Probe = Callable[[str], VideoInfo]
"""Reads a video file's head and packets, by path or URL."""


def is_video(path: str) -> bool:
    """Tell by its name whether a path is a video file."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def folder_of(path: str) -> str:
    """Return the folder of a file that has a suffix; any other path is the folder itself."""
    path = path.rstrip("/")
    if not PurePosixPath(path).suffix:
        return path or "/"
    head, slash, _ = path.rpartition("/")
    return head or slash or "."


def clip_from_path(path: str, *, clip_id: str | None = None, probe: Probe | None = None) -> Clip:
    """Make a clip without prompts from a video file or a folder of images.

    Args:
        path: local path or URL.
        clip_id: None takes the folder's name, or the file's without its suffix.
        probe: reads a video's size and frame count; a folder needs none.

    Raises:
        MissingPathError: nothing is there, or the folder holds no image.
        FormatError: a video is given and no `probe`.
        DecodeError: the first image, or the video, cannot be read.
    """
    name = PurePosixPath(path.rstrip("/"))
    if is_video(path):
        if probe is None:
            raise FormatError(f"{path}: a video cannot be measured here; extract its frames, or pass a probe")
        identity = file_identity(path)
        info = probe(path)
        source = ClipSource("video", path, identity=identity)
        return Clip(clip_id or name.stem, source, info.height, info.width, info.num_frames, info.fps)
    listing = list_frames(path)
    height, width = image_size(storage.join(path, listing.names[0]))
    source = ClipSource("images", path, frame_names=listing.names, identity=listing.identity)
    return Clip(clip_id or name.name, source, height, width, len(listing.names))


def cut_clip(clip: Clip, num_frames: int) -> Clip:
    """Return a clip of images that ends after `num_frames`, or the clip itself where it has no more."""
    return clip if num_frames >= clip.num_frames else with_images(clip, clip.source.frame_names[:num_frames])


def with_images(clip: Clip, names: Sequence[str]) -> Clip:
    """Return a clip of images that consists of the named ones, in that order."""
    identity = list_images(clip.source.uri).identity_of(names)
    source = dataclasses.replace(clip.source, frame_names=tuple(names), identity=identity)
    return dataclasses.replace(clip, source=source, num_frames=len(names))


def is_one_clip(path: str) -> bool:
    """Tell whether a path is itself a clip (a video file, a folder of images), not a folder of clips."""
    return is_video(path) or any(is_image(name) for name in storage.list_folder(path))


class ClipRoot:
    """A folder of clips, each a folder of images or a video file; folders are listed once.

    Args:
        path: local path or URL of the folder.
        probe: reads a video's size and frame count.
    """

    def __init__(self, path: str, probe: Probe | None) -> None:
        self.path = path
        self._probe = probe
        self._listings: dict[str, frozenset[str]] = {}

    def clip(self, names: Sequence[str], *, clip_id: str) -> Clip:
        """Make a clip without prompts from the first of `names` that is there.

        Args:
            names: paths below the root; the suffix of a video file may be left out.
            clip_id: of the clip.

        Raises:
            MissingPathError: none of the names is there.
            RayvosError: as `clip_from_path`.
        """
        place = self.find(names)
        if place is None:
            tried = ", ".join(repr(name) for name in dict.fromkeys(names) if name)
            raise MissingPathError(
                f"clip {clip_id!r}: expected a folder of images or a video {tried} in {self.path}, found neither; "
                "name the folder that holds the clips with --frames"
            )
        return clip_from_path(place, clip_id=clip_id, probe=self._probe)

    def find(self, names: Sequence[str]) -> str | None:
        """Return the path of the first of `names` that is there, None where none is."""
        for name in names:
            parent, _, last = name.rpartition("/")
            folder = storage.join(self.path, parent) if parent else self.path
            listed = self._listed(folder)
            for suffix in ("", *VIDEO_SUFFIXES):
                if last and last + suffix in listed:
                    return storage.join(folder, last + suffix)
        return None

    def _listed(self, folder: str) -> frozenset[str]:
        if folder not in self._listings:
            self._listings[folder] = frozenset(storage.list_folder(folder))
        return self._listings[folder]
