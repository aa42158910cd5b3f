"""Compares clips with the `expected.json` of the golden folders, and writes tiny frames for tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rayvos.annotations.records import Clip

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).resolve().parents[3] / "../shared/goldens")) / "formats"


def golden(name: str) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a format and what a correct reader reports; skips the test where there are none."""
    folder = GOLDENS / name
    if not folder.exists():
        pytest.skip(f"no format goldens in {GOLDENS}; set RAYVOS_GOLDENS")
    return folder, json.loads((folder / "expected.json").read_text())


def boxes_by_frame(clip: Clip, object_id: int) -> dict[str, list[float]]:
    """Return the visible boxes of an object by frame, keyed like the goldens."""
    return {
        str(frame): [box.x0, box.y0, box.x1, box.y1] for frame, box in clip.boxes_of(object_id).items() if box.visible
    }


def absent_frames(clip: Clip, object_id: int) -> list[int]:
    return sorted(frame for frame, box in clip.boxes_of(object_id).items() if not box.visible)


def assert_boxes(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert found.keys() == expected.keys()
    for frame, box in expected.items():
        assert found[frame] == pytest.approx(box, abs=1e-4)  # text files have four decimals


def assert_clip(clip: Clip, video: dict[str, Any]) -> None:
    """Check size, frames, boxes and absence of a clip with whole-clip boxes against its golden."""
    assert [clip.width, clip.height] == video["size"]
    assert [name.rpartition(".")[0] for name in clip.source.frame_names] == video["frames"]
    assert clip.num_frames == len(video["frames"])
    assert clip.object_ids() == tuple(range(1, len(video["objects"]) + 1))
    for object_id, known in enumerate(video["objects"], 1):
        assert_boxes(boxes_by_frame(clip, object_id), known.get("boxes", known.get("boxes_unclipped")))
        assert absent_frames(clip, object_id) == known.get("absent", [])
        assert clip.objects[object_id - 1].source_id == str(known["id"])


def write_frames(folder: Path, names: list[str], size: tuple[int, int] = (64, 48)) -> None:
    """Write one small JPEG per name; size is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", size, (90, 120, 60)).save(folder / name)
