"""The format goldens: which folders there are, how each is read, and clips in the form of `expected.json`.

cvat, pointvos and vidln are compared beside their readers (`tests/annotations/formats`), since their goldens have
forms of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from rayvos.annotations.formats.burst import read_burst
from rayvos.annotations.formats.coco import read_coco
from rayvos.annotations.formats.davis import read_davis
from rayvos.annotations.formats.got10k import read_got10k
from rayvos.annotations.formats.lasot import read_lasot
from rayvos.annotations.formats.mot import read_mot
from rayvos.annotations.formats.sav import read_sav
from rayvos.annotations.formats.tao import read_tao
from rayvos.annotations.formats.trackingnet import read_trackingnet
from rayvos.annotations.formats.youtube_vis import read_youtube_vis
from rayvos.annotations.formats.youtube_vos import read_youtube_vos
from rayvos.annotations.records import Clip, ObjectInfo
from rayvos.masks.rle import rle_to_mask

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "formats"

__all__ = ["GOLDENS", "boxes_of", "clips_of", "expected_of", "folders", "frame_names", "masks_of", "object_of"]


def folders() -> list[str]:
    """Return the names of the golden folders that are there."""
    return sorted(path.parent.name for path in GOLDENS.glob("*/expected.json"))


def expected_of(name: str) -> dict[str, Any]:
    """Return what a correct reader reports of a folder; skips the test where it is absent."""
    path = GOLDENS / name / "expected.json"
    if not path.is_file():
        pytest.skip(f"no format goldens of {name} in {GOLDENS}; set RAYVOS_GOLDENS")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _read(name: str) -> Iterator[Clip]:
    root = str(GOLDENS / name)
    if name in ("davis2016", "davis2017"):
        return read_davis(root, split="val")
    readers = {
        "burst": lambda: read_burst(f"{root}/val"),
        "coco": lambda: read_coco(f"{root}/instances_train2017.json", crowds=True),
        "got10k": lambda: read_got10k(root),
        "lasot": lambda: read_lasot(root),
        "mot17": lambda: read_mot(root),
        "sav": lambda: read_sav(root),
        "tao": lambda: read_tao(f"{root}/train.json"),
        "trackingnet": lambda: read_trackingnet(root),
        "youtubevis": lambda: read_youtube_vis(f"{root}/train.json"),
        "youtubevos": lambda: read_youtube_vos(root),
    }
    return readers[name]()


def clips_of(name: str) -> dict[str, Clip]:
    """Return the clips of a golden folder by clip id."""
    if not (GOLDENS / name).is_dir():
        pytest.skip(f"no format goldens of {name} in {GOLDENS}; set RAYVOS_GOLDENS")
    return {clip.clip_id: clip for clip in _read(name)}


def frame_names(clip: Clip, expected: list[str]) -> list[str]:
    """Return the frames' names in the form of `expected`: with the suffix or without, with folders or without."""
    names = [f"{clip.source.uri}/{name}" for name in clip.source.frame_names]
    if not PurePosixPath(expected[0]).suffix:
        names = [name.rpartition(".")[0] for name in names]
    depth = expected[0].count("/") + 1
    return ["/".join(name.split("/")[-depth:]) for name in names]


def object_of(clip: Clip, source_id: int | str) -> ObjectInfo:
    """Return the object that the source knows by an id."""
    (found,) = (known for known in clip.objects if known.source_id == str(source_id))
    return found


def masks_of(clip: Clip, object_id: int) -> dict[str, Any]:
    """Return an object's masks like the goldens: by frame the area, the tight box and the digest of the pixels."""
    found = {}
    for prompt in clip.masks:
        if prompt.object_id != object_id or prompt.rle is None:
            continue
        mask = rle_to_mask(prompt.rle, clip.height, clip.width)
        rows, columns = np.nonzero(mask)
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1] if rows.size else None
        digest = hashlib.sha1(np.ascontiguousarray(mask, np.uint8).tobytes()).hexdigest()
        found[str(prompt.frame)] = {"area": int(mask.sum()), "bbox_xyxy": box, "sha1": digest}
    return found


def boxes_of(clip: Clip, object_id: int) -> dict[str, list[float]]:
    """Return an object's visible boxes by frame."""
    boxes = clip.boxes_of(object_id).values()
    return {str(box.frame): [box.x0, box.y0, box.x1, box.y1] for box in boxes if box.visible}
