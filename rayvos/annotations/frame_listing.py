"""The frames of a clip as storage lists them: names in order, sizes from headers, and a digest of what is there.

Nothing is decoded. A folder costs one listing, a picture's size the first kilobytes of one file. Sizes are those a
person sees, turned by the EXIF orientation where OpenCV turns the decoded picture, too.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem
from PIL import Image, UnidentifiedImageError

from rayvos import storage
from rayvos.errors import DecodeError, FormatError, FrameMissingError, ImageTooLargeError, MissingPathError

__all__ = [
    "IMAGE_SUFFIXES",
    "FolderListing",
    "ImageHeader",
    "file_identity",
    "image_size",
    "is_image",
    "list_frames",
    "list_images",
    "natural_key",
    "read_image_header",
]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")
HEAD_BYTES = 1 << 16  # holds the size of any picture but those with a long colour profile or preview in front
ORIENTATION = 0x0112  # the EXIF tag
# OpenCV 5.0 turns these; of a TIFF Pillow states the turned size itself, and AVIF is turned by neither.
TURNED_FORMATS = {"JPEG", "MPO", "PNG", "WEBP"}
# What the file systems of fsspec call the state of a file; the first that an entry has is taken.
STATE_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class FolderListing:
    """The pictures of one folder."""

    folder: str
    """Path or URL."""
    names: tuple[str, ...]
    """File names in frame order."""
    states: Mapping[str, str]
    """What storage says of each file: its size, and its etag or time of change."""

    @property
    def identity(self) -> str:
        """Digest of all pictures' names and states."""
        return self.identity_of(self.names)

    def identity_of(self, names: Iterable[str]) -> str:
        """Return the digest of some of the pictures, in the order given.

        Raises:
            FrameMissingError: the folder holds no such picture.
        """
        lines = []
        for name in names:
            if name not in self.states:
                raise FrameMissingError(
                    f"{storage.join(self.folder, name)}: expected a picture, found none among {len(self.names)}; "
                    "restore the file, or correct the name in the annotations"
                )
            lines.append(f"{name}\t{self.states[name]}")
        return _digest(lines)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the head of a picture says."""

    height: int
    width: int
    """Pixels as a person sees the picture, after any EXIF turn."""
    stored_height: int
    stored_width: int
    """Pixels as the file stores them: masks of older data sets have this size."""


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts names with their numbers as numbers: `2.jpg` before `10.jpg`, `00002` before `00010`."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def is_image(name: str) -> bool:
    """Tell by its name whether a file is a picture; hidden files are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def list_images(folder: str) -> FolderListing:
    """List the pictures of a folder with one request; a folder that is not there holds none.

    Raises:
        StorageError: the folder cannot be listed.
    """
    fs, inner = storage.filesystem(folder)
    fs.invalidate_cache(inner)

    def entries() -> list[dict[str, Any]]:
        try:
            return fs.ls(inner, detail=True)  # type: ignore[no-any-return]
        except (FileNotFoundError, NotADirectoryError):
            return []

    with storage.naming(folder, "list"):
        found = {str(entry["name"]).rstrip("/").rpartition("/")[2]: entry for entry in storage.retrying(entries)}
    states = {name: _state(entry) for name, entry in found.items() if is_image(name) and entry["type"] != "directory"}
    return FolderListing(folder, tuple(sorted(states, key=natural_key)), states)


def list_frames(folder: str) -> FolderListing:
    """List the frames of one clip: the pictures of a folder, one per frame.

    Raises:
        MissingPathError: the folder is not there, or holds no picture.
        FormatError: two files stand for one frame (`00000.jpg`, `00000.png`).
        StorageError: the folder cannot be listed.
    """
    listing = list_images(folder)
    if not listing.names:
        raise MissingPathError(f"{folder}: expected a folder of pictures, found none; check the path")
    first: dict[str, str] = {}
    for name in listing.names:
        other = first.setdefault(name.rpartition(".")[0], name)
        if other != name:
            raise FormatError(f"{folder}: {other!r} and {name!r} are two pictures of one frame; keep one of them")
    return listing


def _state(entry: Mapping[str, Any]) -> str:
    state = next((entry[key] for key in STATE_KEYS if entry.get(key) is not None), "")
    return f"{entry.get('size', '')} {state}"


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def file_identity(path: str) -> str:
    """Return the digest of one file's name, size, and etag or time of change.

    Raises:
        StorageError: and its children, naming the path.
    """
    fs, inner = storage.filesystem(path)
    with storage.naming(path):
        entry = storage.retrying(lambda: fs.info(inner))
    return _digest([f"{inner.rpartition('/')[2]}\t{_state(entry)}"])


def image_size(path: str) -> tuple[int, int]:
    """Return (height, width) of a picture as a person sees it.

    Raises:
        DecodeError: the file is no picture, or ends before its size.
        ImageTooLargeError: it states more pixels than Pillow looks at (179 million).
        StorageError: and its children, naming the path.
    """
    header = read_image_header(path)
    return header.height, header.width


def read_image_header(path: str) -> ImageHeader:
    """Read the size of a picture, turned and as stored, without decoding it.

    Raises:
        DecodeError: the file is no picture, or ends before its size.
        ImageTooLargeError: it states more pixels than Pillow looks at (179 million).
        StorageError: and its children, naming the path.
    """
    fs, inner = storage.filesystem(path)
    with storage.naming(path):
        data = storage.retrying(lambda: _read_head(fs, inner))
    # A WebP keeps its orientation at the end.
    header = _parse_header(data, path) if len(data) < HEAD_BYTES or data[:4] != b"RIFF" else None
    if header is None and len(data) == HEAD_BYTES:
        data = storage.read_bytes(path)
        header = _parse_header(data, path)
    if header is None:
        found = "an empty file" if not data else f"{len(data)} bytes that start with {data[:8]!r}"
        raise DecodeError(f"{path}: expected a picture, found {found}; copy the file again")
    return header


def _read_head(fs: AbstractFileSystem, path: str) -> bytes:
    try:
        return fs.cat_file(path, start=0, end=HEAD_BYTES)  # type: ignore[no-any-return]
    except OSError as error:
        if error.errno == errno.EINVAL:  # S3's "range not satisfiable": the object is empty
            return b""
        raise


def _parse_header(data: bytes, path: str) -> ImageHeader | None:
    """Return None where `data` is no picture, or too little of one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decoding has its own limit
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                turned = False
                # Asked only where it stands in front: Pillow decodes the picture to look for it at the end.
                if image.format in TURNED_FORMATS and "exif" in image.info:
                    turned = 5 <= image.getexif().get(ORIENTATION, 1) <= 8
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageTooLargeError(f"{path}: more than {most} pixels by its header; scale the picture down") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, OverflowError):
        return None
    return ImageHeader(width, height, height, width) if turned else ImageHeader(height, width, height, width)
