"""Training data: objects with masks, from manifests, run folders, and every format that `rayvos import` reads.

Whatever the source, workers read a manifest: other sources are imported once, by the driver, into the run's folder. A
rejected label of a run (scored too low) keeps its box and loses its mask. So one rule holds for all data: an object
with a box but no mask on a frame is known to be in its box and nothing more, and the box is ignored there, except
where it shows an object with a mask.

An opened data set holds the masks of all clips as RLE: about 0.5 KB each, 0.5 GB for a million, in every process that
makes samples. Pictures are read when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.importing import AUTO, import_clips
from rayvos.annotations.label_frames import FrameLabel, frames_of, given_boxes, is_accepted
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Box, Clip, MaskPrompt
from rayvos.annotations.run_folder import RunFolder, iter_labels
from rayvos.errors import InputError, UsageError
from rayvos.masks.boxes import mask_to_box, round_box
from rayvos.masks.ignore import IGNORE
from rayvos.masks.rle import rle_area, rle_to_mask
from rayvos.video.container import probe_video
from rayvos.video.source import open_clip

__all__ = ["ObjectFrame", "ObjectFrames", "ObjectPicture", "TrainingData", "open_objects", "prepare_data"]

HELD_OUT_SHARE = 0.05  # of the clips, where no validation data is given
FRAMES_CHECKED = 4  # pictures that are read before the first step, to meet wrong paths and sizes early


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """Prepared data: small, picklable, and the same as long as its digest is."""

    manifests: tuple[str, ...]
    """Paths or URLs that all workers reach."""
    digest: str
    """SHA-256 of the manifests' bytes."""


def prepare_data(
    sources: Sequence[str], *, folder: str | None, name: str = "data", min_score: float = 0.0
) -> TrainingData:
    """Turn sources into manifests.

    Args:
        sources: manifests (`.parquet`), run folders, or what `rayvos import` recognises.
        folder: of the run, where imported sources are kept; None: only manifests can be used.
        name: of the imported files.
        min_score: labels of runs below lose their mask.

    Raises:
        UsageError: a source is of no known format, or cannot be kept.
        InputError: it cannot be read.
        StorageError: it is not there.
    """
    manifests, digest = [], hashlib.sha256()
    for number, source in enumerate(sources):
        path = storage.absolute(source)
        if not source.endswith(".parquet"):
            if folder is None:
                raise UsageError(f"{source}: expected a manifest (.parquet); make one with `rayvos import`")
            path = storage.join(storage.absolute(folder), "data", f"{name}-{number}.parquet")
            write_manifest(_clips_of(source, min_score), path)
        manifests.append(path)
        digest.update(hashlib.sha256(storage.read_bytes(path)).digest())
    return TrainingData(manifests=tuple(manifests), digest=digest.hexdigest())


def _clips_of(source: str, min_score: float) -> Iterator[Clip]:
    run = RunFolder(source)
    if storage.exists(storage.join(source, "plans")):
        yield from _labelled_clips(run, min_score)
    else:
        for clip in import_clips(AUTO, source, boxes_from_masks=False, probe=probe_video):
            yield replace(clip, traces=())


def _labelled_clips(run: RunFolder, min_score: float) -> Iterator[Clip]:
    """Yield the clips of a run with its accepted labels as masks, and the boxes of its rejected ones."""
    clips = {clip.clip_id: clip for clip in ManifestFile(run.newest_manifest())}
    for clip_id, table in iter_labels(run.path):
        clip, masks, boxes = clips[clip_id], list[MaskPrompt](), list[Box]()
        given = given_boxes(clip)
        for frame, labels in frames_of(table):
            for label in labels:
                if label.rle is None or not label.area:
                    continue
                if is_accepted(label, min_score):
                    masks.append(MaskPrompt(label.object_id, frame, label.rle, machine_made=not label.human))
                else:
                    boxes.append(_known_box(label, frame, given.get(frame, {}).get(label.object_id)))
        yield replace(clip, masks=tuple(masks), boxes=tuple(boxes), points=(), traces=())


def _known_box(label: FrameLabel, frame: int, given: Box | None) -> Box:
    if given is not None:
        return given
    assert label.box is not None, "a mask with an area has a tight box"
    return Box(label.object_id, frame, *label.box)


@dataclass(frozen=True, slots=True)
class ObjectFrame:
    """One object on one frame of a clip, with a mask that is large enough."""

    clip: int
    """Position in `ObjectFrames.clips`."""
    frame: int
    object_id: int


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPicture:
    """What a segmenter learns from: one object in its frame."""

    image: NDArray[np.uint8]
    """RGB (height, width, 3)."""
    labels: NDArray[np.uint8]
    """(height, width): 1 on the object, 0 elsewhere, `IGNORE` where nobody knows."""
    box: NDArray[np.float32]
    """(4,) `xyxy`, tight around the object."""


class ObjectFrames:
    """The objects of manifests that can be learnt from.

    Args:
        data: the manifests.
        min_area: pixels that a mask has at least.

    Raises:
        InputError: no object has such a mask.
    """

    def __init__(self, data: TrainingData, *, min_area: int) -> None:
        self.clips: list[Clip] = []
        self.objects: list[ObjectFrame] = []
        for path in data.manifests:
            for clip in ManifestFile(path):
                self._add(clip, min_area)
        if not self.objects:
            raise InputError(
                f"training data {', '.join(data.manifests)}: expected objects with masks of at least {min_area} "
                f"pixels, found none in {len(self.clips)} clips; label the clips first, or lower min_area"
            )

    def _add(self, clip: Clip, min_area: int) -> None:
        number = len(self.clips)
        self.clips.append(clip)
        for mask in clip.masks:
            if mask.rle is not None and rle_area(mask.rle, clip.height, clip.width) >= min_area:
                self.objects.append(ObjectFrame(number, mask.frame, mask.object_id))

    def split(self) -> tuple[list[ObjectFrame], list[ObjectFrame]]:
        """Return objects to learn from and objects held back, of different clips; a single clip is not cut."""
        ranked = sorted(range(len(self.clips)), key=lambda number: _rank(self.clips[number].clip_id))
        held_out = set(ranked[: max(1, round(HELD_OUT_SHARE * len(ranked)))]) if len(ranked) > 1 else set[int]()
        kept = [found for found in self.objects if found.clip not in held_out]
        if not kept:  # all objects lie in the clips that would be held back
            return self.objects, []
        return kept, [found for found in self.objects if found.clip in held_out]

    def check_frames(self) -> None:
        """Read some pictures, evenly spread.

        Raises:
            InputError: one cannot be read, or has another size than its manifest says.
            StorageError: it is not there.
        """
        for place in np.linspace(0, len(self.objects) - 1, min(FRAMES_CHECKED, len(self.objects))):
            self.picture(self.objects[int(place)])

    def picture(self, wanted: ObjectFrame) -> ObjectPicture:
        """Return an object in its frame.

        Raises:
            InputError: the frame cannot be read; names clip and frame.
        """
        clip = self.clips[wanted.clip]
        with open_clip(clip, decode_threads=1) as reader:
            ((_, image),) = reader.read([wanted.frame])
        labels = np.zeros((clip.height, clip.width), np.uint8)
        masks = {mask.object_id: mask.rle for mask in clip.masks if mask.frame == wanted.frame}
        for box in clip.boxes:
            if box.frame == wanted.frame and box.visible and box.object_id not in masks:
                pixels = round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), clip.height, clip.width)
                if pixels is not None:
                    labels[pixels[1] : pixels[3], pixels[0] : pixels[2]] = IGNORE
        for object_id, rle in masks.items():
            if rle is not None and object_id != wanted.object_id:
                labels[rle_to_mask(rle, clip.height, clip.width)] = 0
        own_rle = masks[wanted.object_id]
        assert own_rle is not None, "objects have masks"
        own = rle_to_mask(own_rle, clip.height, clip.width)
        labels[own] = 1
        box_of_mask = mask_to_box(own)
        assert box_of_mask is not None, "masks have an area"
        return ObjectPicture(image, labels, box_of_mask)


@lru_cache(maxsize=4)
def open_objects(data: TrainingData, min_area: int) -> ObjectFrames:
    """Return the objects of prepared data, opened once in a process."""
    return ObjectFrames(data, min_area=min_area)


def _rank(clip_id: str) -> bytes:
    return hashlib.sha256(clip_id.encode()).digest()
