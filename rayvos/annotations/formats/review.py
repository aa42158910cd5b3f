"""Fixed labels come back: the clips of a manifest with what a person said in a folder of `rayvos review`.

Clips that nobody fixed come out as they went in, so that a run on the new manifest redoes the others alone. A mask
that a person gave is never replaced by a later one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from rayvos import storage
from rayvos.annotations.clip_stream import OnError
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Box, Clip, MaskPrompt
from rayvos.annotations.review_folder import REVIEW_FILE, Fix, read_fixes, read_review_set
from rayvos.errors import FormatError, IdError
from rayvos.masks.rle import rle_box

__all__ = ["apply_fixes", "detect", "read_review"]


def detect(source: str) -> bool:
    """Tell whether `source` is a folder that `rayvos review` wrote."""
    return REVIEW_FILE in storage.list_folder(source)


def read_review(source: str, *, manifest: str | None = None, on_error: OnError | None = None) -> Iterator[Clip]:
    """Yield every clip of the manifest, fixed where a person said so.

    Args:
        source: the folder of the review.
        manifest: what to fix; None: the one that the reviewed labels were made on.
        on_error: not used: a fix that cannot be read stops the import, since a clip that is left out here would lose
            its labels in the next run.

    Raises:
        FormatError: an answer or a PNG cannot be used, or the manifest lacks a reviewed clip.
        IdError: the manifest holds another mask of a person already.
        StorageError: a file cannot be read.
    """
    shown = read_review_set(source)
    fixes: dict[str, list[Fix]] = {}
    for fix in read_fixes(source, shown):
        if fix.kind != "unanswered":
            fixes.setdefault(fix.item.clip_id, []).append(fix)
    path = manifest or shown.manifest
    for clip in ManifestFile(path):
        of_clip = fixes.pop(clip.clip_id, None)
        yield clip if of_clip is None else apply_fixes(clip, of_clip, path)
    if fixes:
        raise FormatError(f"{path}: has no clip {min(fixes)!r}, which {source} fixes; name its manifest")


def apply_fixes(clip: Clip, fixes: Sequence[Fix], where: str) -> Clip:
    """Return the clip with what a person said.

    Args:
        clip: the clip.
        fixes: of its labels; none of them unanswered.
        where: the manifest, for messages.

    Raises:
        FormatError: the clip has another size, or fewer frames or objects, than when it was reviewed.
        IdError: it holds another mask of a person on that frame already.
    """
    boxes = {(box.frame, box.object_id): box for box in clip.boxes}
    masks = {(mask.frame, mask.object_id): mask for mask in clip.masks}
    for fix in fixes:
        item = fix.item
        place = item.frame, item.object_id
        _check_place(clip, fix, where)
        before = masks.get(place)
        kept = fix.rle is not None or fix.kind == "not-visible"
        if kept and before is not None and not before.machine_made and before.rle != fix.rle:
            raise IdError(
                f"{where}: clip {clip.clip_id!r} frame {item.frame} object {item.object_id}: has a person's mask "
                f"already, and {item.name!r} is another one; people's masks are kept: answer '' and restore its PNG"
            )
        if kept:
            masks[place] = MaskPrompt(item.object_id, item.frame, fix.rle)
        if fix.kind == "not-visible":
            boxes[place] = Box(item.object_id, item.frame, 0.0, 0.0, 0.0, 0.0, visible=False)
        elif fix.kind == "box-wrong" and fix.rle is None:
            boxes.pop(place, None)
        elif fix.kind == "box-wrong":
            boxes[place] = _tight_box(fix)
    return dataclasses.replace(clip, boxes=tuple(boxes.values()), masks=tuple(masks.values()))


def _check_place(clip: Clip, fix: Fix, where: str) -> None:
    item = fix.item
    same_size = (clip.height, clip.width) == (item.height, item.width)
    if not same_size or item.frame >= clip.num_frames or item.object_id not in clip.object_ids():
        raise FormatError(
            f"{where}: clip {clip.clip_id!r}: expected frame {item.frame} of {item.height}x{item.width} with object "
            f"{item.object_id}, found {clip.num_frames} frames of {clip.height}x{clip.width} with objects "
            f"{list(clip.object_ids())[:10]}; name the manifest that was reviewed"
        )


def _tight_box(fix: Fix) -> Box:
    assert fix.rle is not None, "the caller has a mask"
    sides = rle_box(fix.rle, fix.item.height, fix.item.width)
    assert sides is not None, "a redrawn mask has pixels"
    x0, y0, x1, y1 = np.asarray(sides, np.float64).tolist()
    return Box(fix.item.object_id, fix.item.frame, x0, y0, x1, y1)
