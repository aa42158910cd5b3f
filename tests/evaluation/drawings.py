"""Small clips of moving rectangles, as arrays, PNG folders and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.formats.label_maps import write_label_map
from rayvos.annotations.label_rows import LabelRow, encode_mask, rows_to_table
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.masks.rle import mask_to_rle

HEIGHT, WIDTH = 40, 56
Ids = NDArray[np.uint8]


def draw(num_frames: int = 6, num_objects: int = 2, *, shift: int = 0) -> list[Ids]:
    """Return label maps: rectangles that move one pixel a frame, `shift` pixels to the right of where they belong."""
    frames = []
    for frame in range(num_frames):
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        for object_id in range(1, num_objects + 1):
            x, y = 4 + 16 * (object_id - 1) + frame + shift, 5 + 6 * (object_id - 1)
            ids[y : y + 12, x : x + 10] = object_id
        frames.append(ids)
    return frames


def write_pngs(folder: Path, clips: Mapping[str, list[Ids]], *, step: int = 1) -> str:
    """Write `<clip>/<frame>.png` and return the folder."""
    for clip_id, frames in clips.items():
        for frame, ids in enumerate(frames):
            write_label_map(str(folder / clip_id / f"{frame * step:05d}.png"), ids)
    return str(folder)


def make_clip(clip_id: str, frames: list[Ids], *, step: int = 1, masks: bool = True) -> Clip:
    """Return a clip record that carries the label maps as masks; its frames are named like the PNG files."""
    object_ids = sorted({int(value) for ids in frames for value in np.unique(ids) if value})
    prompts = tuple(
        MaskPrompt(object_id, frame, mask_to_rle(ids == object_id))
        for frame, ids in enumerate(frames)
        for object_id in object_ids
        if (ids == object_id).any()
    )
    return Clip(
        clip_id,
        ClipSource("images", f"frames/{clip_id}", tuple(f"{frame * step:05d}.jpg" for frame in range(len(frames)))),
        *frames[0].shape,
        len(frames),
        objects=tuple(ObjectInfo(object_id, "cat" if object_id == 1 else "dog") for object_id in object_ids),
        masks=prompts if masks else (),
        annotated_frames=tuple(range(len(frames))) if masks else None,
    )


def write_labels(path: Path, clips: Mapping[str, list[Ids]], *, score: float = 0.8, human: tuple[int, ...] = ()) -> str:
    """Write one label table of all clips; masks on the frames `human` are a person's."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for clip_id, frames in clips.items():
        clip = make_clip(clip_id, frames, masks=False)
        rows = [
            LabelRow(
                frame,
                known.object_id,
                encode_mask(ids == known.object_id) if (ids == known.object_id).any() else None,
                score,
                human=frame in human,
            )
            for frame, ids in enumerate(frames)
            for known in clip.objects
        ]
        tables.append(rows_to_table(clip, rows, engine="test", weights=""))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(tables), path)
    return str(path)


def write_truth_manifest(path: Path, clips: Mapping[str, list[Ids]], *, step: int = 1) -> str:
    """Write a manifest whose clips carry their masks."""
    write_manifest([make_clip(clip_id, frames, step=step) for clip_id, frames in clips.items()], str(path))
    return str(path)
