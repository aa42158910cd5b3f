"""Label maps as PNG files: one picture whose pixel values are object ids, 0 background, 255 void.

Read and written with Pillow, which keeps palette indices; OpenCV would turn them into colours. Source of the colours:
the PASCAL VOC colour map, which DAVIS and YouTube-VOS use.

| mode | pixel value |
|---|---|
| P | the palette index, whatever its colour |
| L, LA | the grey value; alpha says nothing |
| 1 | 0 or 1 (an optimiser may have made it of 0 and 255) |
| RGB, RGBA | the index of the colour in the PASCAL colour map; pictures of black and white only are 0 and 255 |
| I;16 | the 16-bit value; void is 65535 |
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rayvos import storage
from rayvos.errors import DecodeError, FormatError, FrameSizeError, ImageTooLargeError, ShapeError
from rayvos.masks.rle import mask_to_rle

__all__ = [
    "LabelMap",
    "davis_palette",
    "decode_label_map",
    "encode_label_map",
    "fit_label_map",
    "read_label_map",
    "write_label_map",
]

logger = logging.getLogger(__name__)

VOID, VOID_16 = 255, 65535
VOID_COLOUR = (224, 224, 192)  # of index 255 in the PASCAL colour map
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I"}
ALLOWED_SIZE_DIFFERENCE = 1  # pixels: real masks are one pixel narrower than their frames here and there

Ids = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class LabelMap:
    """The ids of one picture."""

    ids: Ids
    """(height, width), as stored."""
    kind: Literal["two-valued", "grey", "palette", "colour"]
    """How the file stores them; two-valued are 1-bit pictures (0 and 1)."""
    void_colour: tuple[int, int, int] | None = None
    """RGB of index 255 where the file has a palette that long."""

    @property
    def void(self) -> int:
        """The value that means 'ignore'."""
        return VOID if self.ids.dtype == np.uint8 else VOID_16

    @property
    def is_binary(self) -> bool:
        """Whether it shows one object in white, as DAVIS 2016 does, and not ids beside a void 255.

        True where nothing but 0 and 255 occurs in grey, or with a palette whose colour 255 is not that of void.
        """
        if self.kind == "two-valued":
            return True
        is_white = self.kind == "grey" or (self.kind == "palette" and self.void_colour != VOID_COLOUR)
        return is_white and set(self.values()) <= {VOID}

    def values(self) -> list[int]:
        """Return the values that occur, ascending, background left out."""
        return [int(value) for value in np.flatnonzero(np.bincount(self.ids.ravel())) if value != 0]

    def to_rles(self) -> dict[int, bytes]:
        """Return the RLE of every value that occurs, background left out."""
        columns = np.asfortranarray(self.ids)
        return {value: mask_to_rle(columns == value) for value in self.values()}


@cache
def _palette() -> NDArray[np.uint8]:
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    colours.setflags(write=False)
    return colours


def davis_palette() -> NDArray[np.uint8]:
    """Return the PASCAL colour map, uint8 (256, 3) RGB: 1 is (128, 0, 0), 2 is (0, 128, 0), 3 is (128, 128, 0)."""
    return _palette()


def read_label_map(path: str) -> LabelMap:
    """Read a label map.

    Args:
        path: path or URL of a PNG file.

    Raises:
        MissingPathError: the file is not there.
        FormatError: it is no PNG, of a mode that holds no ids, or has colours outside the PASCAL colour map.
        DecodeError: it is cut off or damaged.
        StorageError: it cannot be read.
    """
    return decode_label_map(storage.read_bytes(path), path)


def decode_label_map(data: bytes, where: str) -> LabelMap:
    """Decode a label map; as `read_label_map`, with `where` the name of the file in messages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.format != "PNG" or image.mode not in MODES:
                    raise FormatError(
                        f"{where}: expected a PNG label map (palette, grey or RGB), found {image.format} of mode "
                        f"{image.mode!r}; lossy pictures cannot hold ids"
                    )
                image.load()
                return _ids_of(image, where)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageTooLargeError(f"{where}: more than {most} pixels by its header; scale the picture down") from error
    except UnidentifiedImageError as error:
        found = "an empty file" if not data else f"{len(data)} bytes that start with {data[:8]!r}"
        raise FormatError(f"{where}: expected a PNG label map, found {found}; copy the file again") from error
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise DecodeError(f"{where}: the PNG of {len(data)} bytes is cut off or damaged: {error}") from error


def _ids_of(image: Image.Image, where: str) -> LabelMap:
    if image.mode == "P":
        colours = image.getpalette() or []
        void_colour = (colours[-3], colours[-2], colours[-1]) if len(colours) == 768 else None
        return LabelMap(np.array(image), "palette", void_colour)
    if image.mode == "PA":
        return LabelMap(np.array(image)[..., 0], "palette")
    if image.mode == "1":
        return LabelMap(np.array(image).astype(np.uint8), "two-valued")
    if image.mode == "L":
        return LabelMap(np.array(image), "grey")
    if image.mode == "LA":
        return LabelMap(np.ascontiguousarray(np.array(image)[..., 0]), "grey")
    if image.mode in ("RGB", "RGBA"):
        return _from_colours(np.array(image)[..., :3], where)
    values = np.array(image)
    if values.size and (values.min() < 0 or values.max() > VOID_16):
        raise FormatError(f"{where}: expected ids from 0 to {VOID_16}, found {values.min()}…{values.max()}")
    return LabelMap(values.astype(np.uint16), "grey")


def _from_colours(pixels: NDArray[np.uint8], where: str) -> LabelMap:
    codes = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    found, inverse = np.unique(codes, return_inverse=True)
    if set(found.tolist()) <= {0, 0xFFFFFF}:
        return LabelMap((codes != 0).astype(np.uint8) * np.uint8(VOID), "grey")
    known = davis_palette().astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    order = np.argsort(known)
    position = np.clip(np.searchsorted(known[order], found), 0, 255)
    unknown = found[known[order][position] != found]
    if unknown.size:
        colour = tuple(int(unknown[0]) >> shift & 255 for shift in (16, 8, 0))
        raise FormatError(
            f"{where}: colour {colour} is none of the PASCAL colour map ({unknown.size} such colours); "
            "is this a frame, or a mask saved with smoothed edges? store palette indices"
        )
    ids = order[position].astype(np.uint8)[inverse].reshape(codes.shape)
    return LabelMap(ids, "colour", VOID_COLOUR)


def fit_label_map(label_map: LabelMap, height: int, width: int, where: str) -> LabelMap:
    """Return the label map at the size of its frame; one pixel of difference per side is scaled away.

    Args:
        label_map: any size.
        height: of the frame.
        width: of the frame.
        where: what the message calls the file.

    Raises:
        FrameSizeError: the sizes differ by more than one pixel.
    """
    rows, columns = label_map.ids.shape
    if (rows, columns) == (height, width):
        return label_map
    if max(abs(rows - height), abs(columns - width)) > ALLOWED_SIZE_DIFFERENCE:
        raise FrameSizeError(
            f"{where}: the mask is {rows}x{columns}, its frame {height}x{width}; "
            "mask and frame do not belong together, or one was scaled"
        )
    logger.warning("mask_scaled file=%s mask=%dx%d frame=%dx%d", where, rows, columns, height, width)
    row_of = ((np.arange(height) + 0.5) * rows / height).astype(np.intp)
    column_of = ((np.arange(width) + 0.5) * columns / width).astype(np.intp)
    return LabelMap(label_map.ids[row_of[:, None], column_of], label_map.kind, label_map.void_colour)


def encode_label_map(ids: Ids) -> bytes:
    """Return a label map as PNG bytes: uint8 with the PASCAL palette, uint16 (more than 255 objects) as 16-bit grey.

    Args:
        ids: (height, width).

    Raises:
        ShapeError: another shape or dtype, or no pixel.
    """
    if ids.ndim != 2 or ids.size == 0 or ids.dtype not in (np.uint8, np.uint16):
        raise ShapeError(f"label map: expected uint8 or uint16 (height, width), found {ids.dtype} {ids.shape}")
    height, width = ids.shape
    if ids.dtype == np.uint8:
        image = Image.frombytes("P", (width, height), np.ascontiguousarray(ids).tobytes())
        image.putpalette(davis_palette().tobytes())
    else:
        image = Image.frombytes("I;16", (width, height), np.ascontiguousarray(ids, "<u2").tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_label_map(path: str, ids: Ids) -> None:
    """Write a label map to a path or URL; as `encode_label_map`.

    Raises:
        ShapeError: `ids` is no label map.
        StorageError: the path cannot be written.
    """
    storage.write_bytes(path, encode_label_map(ids))
