"""What is exported reads back as what was labelled, by our own readers of the same formats."""

import dataclasses
import shutil

import numpy as np
import pytest

from rayvos.annotations.formats.coco import read_coco
from rayvos.annotations.formats.davis import read_davis
from rayvos.annotations.formats.sav import read_sav
from rayvos.annotations.formats.youtube_vis import read_youtube_vis
from rayvos.annotations.formats.youtube_vos import read_youtube_vos
from rayvos.annotations.run_folder import read_labels
from rayvos.masks.rle import mask_to_rle, rle_to_mask
from rayvos.review.export_options import ExportOptions
from rayvos.review.exports import export_run
from tests.review.runs import HEIGHT, WIDTH, make_clip, make_run


@pytest.fixture
def run(tmp_path) -> str:
    return make_run(tmp_path / "run", [make_clip(tmp_path / "frames", name) for name in ("a", "b")])


@pytest.fixture
def masks(run) -> dict[tuple[str, int, int], bytes | None]:
    """Masks of the run by clip, frame and object; None is absent."""
    rows = read_labels(run).to_pylist()
    return {(row["clip_id"], row["frame"], row["object_id"]): row["rle"] for row in rows}


def without_overlap(masks):
    """Masks where the lower id gets a shared pixel."""
    found = {}
    for (clip_id, frame, object_id), rle in masks.items():
        if rle is not None and object_id == 2:
            mine, other = (rle_to_mask(masks[clip_id, frame, key], HEIGHT, WIDTH) for key in (2, 1))
            rle = mask_to_rle(mine & ~other)
        found[clip_id, frame, object_id] = rle
    return found


def masks_of(clips):
    empty = mask_to_rle(np.zeros((HEIGHT, WIDTH), np.bool_))
    return {
        (clip.clip_id, mask.frame, mask.object_id): None if mask.rle in (None, empty) else mask.rle
        for clip in clips
        for mask in clip.masks
    }


def test_davis(run, masks, tmp_path):
    export_run(run, str(tmp_path / "davis/Annotations/480p"), ExportOptions("davis", overlap="lowest-id"))
    shutil.copytree(tmp_path / "frames", tmp_path / "davis/JPEGImages/480p")

    assert masks_of(read_davis(str(tmp_path / "davis"))) == without_overlap(masks)


def test_youtube_vos(run, masks, tmp_path):
    export_run(run, str(tmp_path / "train"), ExportOptions("youtube-vos", overlap="lowest-id"))
    shutil.copytree(tmp_path / "frames", tmp_path / "train/JPEGImages")

    clips = list(read_youtube_vos(str(tmp_path / "train")))

    assert masks_of(clips) == without_overlap(masks)
    assert [known.source_id for clip in clips for known in clip.objects] == ["3", "4"] * 2
    assert [known.category for clip in clips for known in clip.objects] == ["dog", "object"] * 2


def test_sav(run, masks, tmp_path):
    export_run(run, str(tmp_path / "val/Annotations_6fps"), ExportOptions("sav"))
    shutil.copytree(tmp_path / "frames", tmp_path / "val/JPEGImages_24fps")

    assert masks_of(read_sav(str(tmp_path / "val"))) == masks


def test_youtube_vis(run, masks, tmp_path):
    export_run(run, str(tmp_path / "vis"), ExportOptions("youtube-vis"))

    clips = list(read_youtube_vis(str(tmp_path / "vis/instances.json"), frames=str(tmp_path / "frames")))

    assert masks_of(clips) == masks
    assert [clip.source.uri for clip in clips] == [str(tmp_path / "frames" / name) for name in ("a", "b")]


def test_coco(run, masks, tmp_path):
    export_run(run, str(tmp_path / "coco"), ExportOptions("coco"))

    stills = list(read_coco(str(tmp_path / "coco/instances.json"), frames=str(tmp_path / "frames")))

    assert len(stills) == 12
    found = [mask.rle for still in stills for mask in still.masks]
    assert found == [rle for rle in masks.values() if rle is not None]


def test_stills_of_coco_keep_their_file_names(tmp_path):
    run = make_run(tmp_path / "run", [make_clip(tmp_path / "frames", "a")])
    export_run(run, str(tmp_path / "coco"), ExportOptions("coco"))
    stills = list(read_coco(str(tmp_path / "coco/instances.json"), frames=str(tmp_path / "frames")))
    renamed = [dataclasses.replace(still, clip_id=f"image {still.clip_id}") for still in stills]
    export_run(make_run(tmp_path / "again", renamed), str(tmp_path / "stills"), ExportOptions("coco"))

    again = list(read_coco(str(tmp_path / "stills/instances.json"), frames=str(tmp_path / "frames/a")))

    assert [still.source.frame_names for still in again] == [(f"{frame:05d}.png",) for frame in range(6)]
