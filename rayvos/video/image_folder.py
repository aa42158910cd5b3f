"""Frames from pictures: JPEG, PNG, WebP, BMP and whatever else OpenCV reads, local or by URL.

A picture is turned by its EXIF orientation, as people see it; a clip whose manifest size is that of the stored,
unturned picture gets it unturned, since its masks then are (older data sets). Grey, palette, 16-bit and transparent
pictures become 8-bit RGB.

What is refused: a picture that ends early (OpenCV 5.0 returns nothing for any cut JPEG, PNG, WebP or BMP; older
ones fill a cut JPEG with grey, hence the look at its end marker). What no decoder here notices: bytes damaged
inside an otherwise complete JPEG.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rayvos import storage
from rayvos.annotations.frame_listing import list_images
from rayvos.annotations.records import Clip
from rayvos.errors import (
    DecodeError,
    FormatError,
    FrameMissingError,
    FrameSizeError,
    ImageTooLargeError,
    MissingPathError,
)
from rayvos.video.decode_ahead import DecodeAhead
from rayvos.video.limits import DecodeLimits

__all__ = ["ImageFolderReader", "decode_image"]


def decode_image(
    data: bytes, where: str, *, size: tuple[int, int] | None = None, limits: DecodeLimits | None = None
) -> NDArray[np.uint8]:
    """Decode one picture to RGB.

    Args:
        data: the file.
        where: clip, frame and file, for messages.
        size: (height, width) that is expected; None takes what comes.
        limits: bounds on the picture's size.

    Returns:
        uint8 (height, width, 3).

    Raises:
        DecodeError: the file is empty, cut off, damaged, or no picture.
        ImageTooLargeError: its header states more pixels than allowed; nothing is decoded.
        FrameSizeError: neither the turned nor the stored picture has `size`.
    """
    stored = _stored_size(data, where)
    (limits or DecodeLimits()).check_pixels(*stored, where)
    if size is not None and size not in (stored, stored[::-1]):  # no turn helps; a bomb is not unpacked for nothing
        raise _wrong_size(stored, size, where)
    # The last scan of a whole JPEG is followed by the end marker; a thumbnail's marker comes before the scan.
    cut = data[:2] == b"\xff\xd8" and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    image = None if cut else _decode(data, cv2.IMREAD_COLOR_RGB)
    if image is not None and size is not None and image.shape[:2] != size and stored == size:
        image = _decode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise DecodeError(f"{where}: the picture of {len(data)} bytes is cut off or damaged; copy the file again")
    if size is not None and image.shape[:2] != size:
        raise _wrong_size(image.shape[:2], size, where)
    return image


def _wrong_size(found: tuple[int, ...], size: tuple[int, int], where: str) -> FrameSizeError:
    return FrameSizeError(
        f"{where}: image is {found[0]}x{found[1]} but the manifest says {size[0]}x{size[1]}; "
        "re-import the clip, or fix height and width in the manifest"
    )


def _stored_size(data: bytes, where: str) -> tuple[int, int]:
    """Return (height, width) from a picture's header, before any turning; nothing is decoded.

    Args:
        data: the file.
        where: what the message calls it.

    Raises:
        DecodeError: the header is that of no known picture.
        ImageTooLargeError: it states more pixels than Pillow looks at (179 million).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: DecodeLimits decides here
            width, height = Image.open(io.BytesIO(data)).size
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageTooLargeError(f"{where}: more than {most} pixels by its header; scale the picture down") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, OverflowError) as error:
        found = "an empty file" if not data else f"{len(data)} bytes that start with {data[:8]!r}"
        raise DecodeError(f"{where}: expected a picture, found {found}; copy the file again") from error
    return int(height), int(width)


def _decode(data: bytes, flags: int) -> NDArray[np.uint8] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:  # the picture is not to blame
            raise MemoryError(str(error)) from error
        return None


class ImageFolderReader:
    """Reads the frames of a clip of pictures; several passes may be under way at once.

    Args:
        clip: its source is of kind `images`; without frame names, the folder's pictures in natural order are meant.
        limits: bounds on decoding.
        decode_threads: threads per pass.

    Raises:
        FrameMissingError: the folder holds fewer pictures than the clip has frames.
        FormatError: the clip names more or fewer frames than it has.
        StorageError: the folder cannot be listed.
    """

    def __init__(self, clip: Clip, limits: DecodeLimits, decode_threads: int) -> None:
        self.num_frames, self.height, self.width = clip.num_frames, clip.height, clip.width
        self._clip_id, self._uri = clip.clip_id, clip.source.uri
        self._limits, self._decode_threads = limits, decode_threads
        self._names = clip.source.frame_names or list_images(self._uri).names
        self._passes: set[DecodeAhead[NDArray[np.uint8]]] = set()
        self._closed = False
        if len(self._names) != clip.num_frames:
            problem = FrameMissingError if not clip.source.frame_names else FormatError
            raise problem(
                f"clip {clip.clip_id!r}: {len(self._names)} pictures in {self._uri} but the manifest says "
                f"{clip.num_frames} frames; re-import the clip"
            )

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, RGB uint8 image (height, width, 3)) in the order asked for.

        Raises:
            FrameMissingError, FrameSizeError, DecodeError, ImageTooLargeError, StorageError: naming clip and frame.
        """
        if self._closed:
            raise ValueError(f"clip {self._clip_id!r}: frames were asked for after their reader was closed")
        ahead = self._limits.frames_ahead(self.height, self.width)
        running = DecodeAhead(self._image, frames, num_threads=self._decode_threads, ahead=ahead)
        self._passes.add(running)
        try:
            yield from running
        finally:
            self._passes.discard(running)
            running.close()

    def _image(self, frame: int) -> NDArray[np.uint8]:
        where = f"clip {self._clip_id!r} frame {frame}"
        if not 0 <= frame < self.num_frames:
            raise FrameMissingError(f"{where}: the clip has frames 0…{self.num_frames - 1}; ask for one of them")
        name = self._names[frame]
        path = name if storage.is_url(name) or name.startswith("/") else storage.join(self._uri, name)
        try:
            data = storage.read_bytes(path, self._limits.max_file_bytes)
        except MissingPathError as error:
            raise FrameMissingError(f"{where}: {path} does not exist; restore it, or re-import the clip") from error
        return decode_image(data, f"{where} ({path})", size=(self.height, self.width), limits=self._limits)

    def close(self) -> None:
        """Stop the threads of all passes."""
        self._closed = True
        for running in list(self._passes):
            running.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
