"""Run folders made in a moment: real frames, a manifest, a plan, and committed label tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.label_rows import LabelRow, encode_mask, rows_to_table, stamp_labels
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Box, Clip, ObjectInfo
from rayvos.annotations.run_folder import DeadLetter, RunFolder, Unit
from rayvos.annotations.tables import LABELS
from rayvos.pipelines.label import Labelling
from rayvos.pipelines.plan import plan_run
from rayvos.pipelines.sink import commit_unit
from tests.conftest import moving_square, write_image_folder
from tests.engines_for_tests import PlannedEngine

HEIGHT, WIDTH = 48, 66


def make_clip(folder: Path, clip_id: str, num_frames: int = 6, num_objects: int = 2) -> Clip:
    """Write frames and return a clip whose objects overlap; the last object is absent on the last frame."""
    images = moving_square(num_frames, HEIGHT, WIDTH)
    source = write_image_folder(folder / clip_id, images).source
    boxes = []
    for frame in range(num_frames):
        for object_id in range(1, num_objects + 1):
            x0, y0 = 4.0 + 8 * (object_id - 1) + frame, 6.0 + 5 * (object_id - 1)
            absent = object_id == num_objects and frame == num_frames - 1 and num_frames > 1
            boxes.append(Box(object_id, frame, x0, y0, x0 + 20, y0 + 18, visible=not absent))
    objects = tuple(ObjectInfo(i, "dog" if i % 2 else None, str(i + 2)) for i in range(1, num_objects + 1))
    return Clip(clip_id, source, HEIGHT, WIDTH, num_frames, 25.0, objects, tuple(boxes))


def ellipse(box: Box, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.bool_]:
    """Return the ellipse that fills a box."""
    y, x = np.mgrid[:height, :width] + 0.5
    cy, cx, ry, rx = (box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2, (box.y1 - box.y0) / 2, (box.x1 - box.x0) / 2
    return np.asarray(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)


def score_of(clip_id: str, frame: int, object_id: int) -> float:
    """Return a score in [0.05, 0.95] that depends on everything."""
    return 0.05 + 0.9 * ((sum(clip_id.encode()) * 31 + frame * 17 + object_id * 7) % 100) / 100


def label_rows(clip: Clip, frames: Sequence[int]) -> pa.Table:
    """Return labels of a clip: ellipses in the boxes."""
    boxes = {(box.frame, box.object_id): box for box in clip.boxes}
    rows = []
    for frame in frames:
        for object_id in clip.object_ids():
            box = boxes.get((frame, object_id))
            shown = box is not None and box.visible
            mask = encode_mask(ellipse(box, clip.height, clip.width)) if shown else None
            score = score_of(clip.clip_id, frame, object_id) if shown else None
            rows.append(LabelRow(frame, object_id, mask, score, {"box_agreement": 0.5} if shown else {}))
    return rows_to_table(clip, rows, engine="ellipse", weights="")


def commit(run: RunFolder, unit: Unit, clips: Mapping[str, Clip], failed: Sequence[str] = ()) -> None:
    """Commit a unit; pieces of the clips named in `failed` become dead letters."""
    tables, letters = [], []
    for piece in unit.pieces:
        if piece.clip_id in failed:
            message = f"clip {piece.clip_id!r}: <b>broken</b> & lost"
            letters.append(
                DeadLetter(piece.clip_id, piece.frame_start, piece.frame_stop, "decode_failed", message, "trace", 2)
            )
            continue
        table = label_rows(clips[piece.clip_id], range(piece.frame_start, piece.frame_stop))
        tables.append(stamp_labels(table, fingerprint=piece.fingerprint, unit_id=unit.unit_id, round_=piece.round))
    commit_unit(run, unit, pa.concat_tables(tables) if tables else LABELS.empty_table(), letters)


def make_run(
    folder: Path | str,
    clips: Sequence[Clip],
    *,
    failed: Sequence[str] = (),
    chosen: Callable[[list[Unit]], list[Unit]] = lambda units: units,
    engine: PlannedEngine | None = None,
) -> str:
    """Plan and commit a run on these clips (again, where the folder holds one) and return its path."""
    path = str(folder)
    manifest = storage.join(path, "manifest-in.parquet")
    write_manifest(clips, manifest)
    run = RunFolder(path)
    plan = plan_run(run, manifest, Labelling(engine or PlannedEngine()))
    by_id = {clip.clip_id: clip for clip in ManifestFile(manifest)}
    for unit in chosen(plan.todo):
        commit(run, unit, by_id, failed)
    return path


def moved(clip: Clip, by: float) -> Clip:
    """Return the clip with corrected boxes."""
    boxes = tuple(dataclasses.replace(box, x0=box.x0 + by, x1=box.x1 + by) for box in clip.boxes)
    return dataclasses.replace(clip, boxes=boxes)


def files_under(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones included, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_video_size(path: Path) -> tuple[int, int, int]:
    """Return (frames, height, width) of a video as OpenCV sees it."""
    video = cv2.VideoCapture(str(path))
    count = 0
    shape = (0, 0)
    while (found := video.read())[0]:
        count += 1
        shape = found[1].shape[:2]
    return count, *shape
