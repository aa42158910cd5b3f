"""Writers of tiny data sets for the tests of the readers: frames, label maps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from rayvos.annotations.formats.label_maps import write_label_map

SIZE = (48, 64)  # height, width


def jpeg(height: int = SIZE[0], width: int = SIZE[1], orientation: int = 1) -> bytes:
    """Return a black JPEG; the size is the stored one, before its EXIF turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(data, "JPEG", exif=exif)
    return data.getvalue()


def write_frames(folder: Path, names: list[str], data: bytes | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(jpeg() if data is None else data)


def squares(values: Mapping[int, tuple[int, int]], size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return a label map with a square of 6 pixels a side per value, its corner at (x, y)."""
    ids = np.zeros(size, np.uint8)
    for value, (x, y) in values.items():
        ids[y : y + 6, x : x + 6] = value
    return ids


def write_masks(folder: Path, maps: Mapping[str, np.ndarray], *, grey: bool = False) -> None:
    """Write label maps by name without suffix, with the palette or (grey) without."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in maps.items():
        if grey:
            Image.fromarray(ids).save(folder / f"{name}.png")
        else:
            write_label_map(str(folder / f"{name}.png"), ids)
