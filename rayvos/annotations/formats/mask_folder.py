"""The label maps of one clip: a folder of PNG files that carry the names of its frames.

Shared by DAVIS, YouTube-VOS and the data sets laid out like them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rayvos import storage
from rayvos.annotations.formats.label_maps import LabelMap, fit_label_map, read_label_map
from rayvos.annotations.frame_listing import FolderListing, list_frames, list_images, read_image_header
from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.errors import FormatError
from rayvos.masks.rle import rle_union, uncompressed_to_rle

__all__ = ["ClipMasks", "mask_clip", "read_clip_masks"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipMasks:
    """What the PNG files of a clip show."""

    frames: FolderListing
    height: int
    width: int
    rles: Mapping[int, Mapping[int, bytes]]
    """RLE by frame and pixel value; a frame without an entry has no file."""
    is_binary: bool
    """Whether all files show one object in white, as DAVIS 2016 does."""
    void: int
    """The value that means 'ignore'."""

    @cached_property
    def frame_of(self) -> dict[str, int]:
        """Frame by name without suffix."""
        return {_stem(name): frame for frame, name in enumerate(self.frames.names)}

    @cached_property
    def empty(self) -> bytes:
        """RLE of a mask without a pixel."""
        return uncompressed_to_rle([self.height * self.width], self.height, self.width)

    @cached_property
    def object_values(self) -> list[int]:
        """Pixel values of the objects, ascending."""
        return sorted({value for rles in self.rles.values() for value in rles} - {self.void})

    def as_one_object(self) -> ClipMasks:
        """Return the same masks with every value as object 1."""
        merged = {
            frame: {1: rle_union(list(rles.values()), self.height, self.width)} if rles else {}
            for frame, rles in self.rles.items()
        }
        return ClipMasks(self.frames, self.height, self.width, merged, False, self.void)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def read_clip_masks(frame_folder: str, mask_folder: str, *, truncate: bool = False) -> ClipMasks:
    """Read all label maps of a clip; of its frames only the list, and the size of the first.

    Args:
        frame_folder: path or URL of the folder with the frames.
        mask_folder: path or URL of the folder with the PNG files.
        truncate: leave out masks without a frame, with a logged warning, instead of raising.

    Raises:
        MissingPathError: one of the folders holds no picture.
        FormatError: a mask has no frame, or is no label map.
        FrameSizeError: a mask is more than one pixel off its frame's size.
        StorageError: a path cannot be read.
    """
    frames = list_frames(frame_folder)
    names = [name for name in list_images(mask_folder).names if name.lower().endswith(".png")]
    if not names:
        raise FormatError(f"{mask_folder}: expected a PNG per annotated frame, found none; check the path")
    frame_of = {_stem(name): frame for frame, name in enumerate(frames.names)}
    orphans = [name for name in names if _stem(name) not in frame_of]
    if orphans and not truncate:
        raise FormatError(
            f"{storage.join(mask_folder, orphans[0])}: no frame of this name in {frame_folder} ({len(orphans)} such "
            "masks); restore the frames, or leave such masks out with --truncate"
        )
    if orphans:
        logger.warning("masks_without_frame folder=%s masks=%d", mask_folder, len(orphans))
        names = [name for name in names if _stem(name) in frame_of]
    maps = {frame_of[_stem(name)]: read_label_map(storage.join(mask_folder, name)) for name in names}
    return _fit_all(frames, maps, {frame_of[_stem(name)]: storage.join(mask_folder, name) for name in names})


def _fit_all(frames: FolderListing, maps: Mapping[int, LabelMap], paths: Mapping[int, str]) -> ClipMasks:
    header = read_image_header(storage.join(frames.folder, frames.names[0]))
    size, stored = (header.height, header.width), (header.stored_height, header.stored_width)
    if size != stored and all(label_map.ids.shape == stored for label_map in maps.values()):
        size = stored  # drawn over the picture as stored, before EXIF turned it
    fitted = {frame: fit_label_map(label_map, *size, paths[frame]) for frame, label_map in maps.items()}
    shown = [label_map for label_map in fitted.values() if label_map.ids.any()]
    voids = {label_map.void for label_map in fitted.values()}
    if len(voids) > 1:
        raise FormatError(f"{paths[min(paths)]}: the clip mixes 8-bit and 16-bit label maps; write all of them alike")
    return ClipMasks(
        frames,
        *size,
        {frame: label_map.to_rles() for frame, label_map in sorted(fitted.items())},
        is_binary=bool(shown) and all(label_map.is_binary for label_map in shown),
        void=max(voids, default=255),
    )


def mask_clip(
    clip_id: str,
    found: ClipMasks,
    rows: Mapping[int, Sequence[tuple[int, bytes | None]]],
    *,
    categories: Mapping[int, str | None] | None = None,
    annotated: Collection[int] | None = None,
) -> Clip:
    """Make the clip of a folder of frames.

    Args:
        clip_id: of the clip.
        found: its frames and size.
        rows: (frame, RLE or None where absent) by pixel value of the object.
        categories: by pixel value.
        annotated: frames with annotation; all, or None, leaves `annotated_frames` open.
    """
    values = sorted(rows)
    num_frames = len(found.frames.names)
    partial = annotated is not None and len(annotated) < num_frames
    return Clip(
        clip_id,
        ClipSource("images", found.frames.folder, found.frames.names, identity=found.frames.identity),
        found.height,
        found.width,
        num_frames,
        objects=tuple(
            ObjectInfo(number, (categories or {}).get(value), str(value)) for number, value in enumerate(values, 1)
        ),
        masks=tuple(
            MaskPrompt(number, frame, rle) for number, value in enumerate(values, 1) for frame, rle in rows[value]
        ),
        annotated_frames=tuple(sorted(annotated or ())) if partial else None,
    )
