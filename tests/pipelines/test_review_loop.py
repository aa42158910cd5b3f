"""The loop as a chain: label, show the worst, fix them, import, label again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayvos.annotations.importing import import_clips
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Clip
from rayvos.annotations.review_folder import read_review_set
from rayvos.annotations.run_folder import RunFolder
from rayvos.evaluation.jaccard import jaccard
from rayvos.masks.rle import rle_to_mask
from rayvos.pipelines.label import LabelJob
from rayvos.review.fixes import write_review
from tests.faults.test_failing_storage import label_here
from tests.ray_cluster import files_of, job_on, labels_of, make_clips

# Several workers in one process: the note of the one before ends when faulthandler lets go of it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def true_mask(clip: Clip, frame: int, object_id: int) -> np.ndarray:
    """Return what `moving_square` drew: the square, and the corner that the second object is."""
    mask = np.zeros((clip.height, clip.width), bool)
    if object_id == 1:
        mask[clip.height // 2 : clip.height // 2 + 12, 2 + frame : 14 + frame] = True
    else:
        mask[:16, :16] = True
    return mask


def mean_iou(rows: list[dict], clip: Clip) -> float:
    ious = [
        jaccard(true_mask(clip, row["frame"], row["object_id"]), rle_to_mask(row["rle"], clip.height, clip.width))
        for row in rows
        if row["present"]
    ]
    return float(np.mean(ious))


def run_fresh(job: LabelJob, folder: Path) -> list[dict]:
    """Return the labels of a run that knows the last manifest alone."""
    label_here(dataclasses.replace(job, out=str(folder / "fresh")))
    return labels_of(folder / "fresh").to_pylist()


def without_history(rows: list[dict]) -> list[dict]:
    """Return rows without what depends on how they came about."""
    return [{name: value for name, value in row.items() if name not in ("round", "unit_id")} for row in rows]


def test_each_round_redoes_what_was_fixed_and_nothing_else_and_labels_get_better(tmp_path: Path) -> None:
    clips = make_clips(tmp_path, 4)
    job = job_on(clips, tmp_path / "out")
    ious, fixed_clips = [], []
    files: dict[str, bytes] = {}
    for number in range(3):
        receipts = label_here(job)
        labelled = job

        before, files = files, files_of(tmp_path / "out")
        assert {name: files[name] for name in before} == before
        redone = {piece["clip_id"] for piece in RunFolder(job.out).read_plan().to_pylist()} if number == 0 else set()
        assert sum(receipt.num_pieces for receipt in receipts) == len(redone or fixed_clips)
        rows = labels_of(tmp_path / "out").to_pylist()
        ious.append(mean_iou(rows, clips[0]))

        folder = tmp_path / f"fixes {number}"
        write_review(job.out, str(folder), num_worst=2)
        items = read_review_set(str(folder)).items
        for item in items:
            assert (item.frame, item.object_id) not in {
                (row["frame"], row["object_id"])
                for row in rows
                if row["clip_id"] == item.clip_id and row["provenance"] == "human"
            }
            drawn = true_mask(clips[0], item.frame, item.object_id).astype(np.uint8)
            Image.fromarray(drawn).save(folder / "labels" / f"{item.name}.png")
        fixed_clips = sorted({item.clip_id for item in items})
        manifest = str(tmp_path / f"clips {number}.parquet")
        write_manifest(import_clips("review", str(folder)), manifest)
        job = dataclasses.replace(job, manifest=manifest)

    assert ious == sorted(ious)
    assert ious[-1] > ious[0] + 0.01
    final = {clip.clip_id: clip for clip in ManifestFile(labelled.manifest)}
    rows = labels_of(tmp_path / "out").to_pylist()
    for row in rows:
        given = {(mask.frame, mask.object_id) for mask in final[row["clip_id"]].masks}
        if row["provenance"] == "human":
            assert (row["frame"], row["object_id"]) in given
            assert row["round"] > 0
            mask = rle_to_mask(row["rle"], row["height"], row["width"])
            assert (mask == true_mask(clips[0], row["frame"], row["object_id"])).all()
        else:
            assert row["engine"] == "boxfill"
    assert sum(row["provenance"] == "human" for row in rows) == 4  # of the two rounds that were labelled again
    # Whoever has a person's mask was made again in a later round; whoever has none is of the first one.
    corrected = {(clip_id, mask.object_id) for clip_id, clip in final.items() for mask in clip.masks}
    again = {(row["clip_id"], row["object_id"]) for row in rows if row["round"] > 0}
    assert again == corrected
    assert {row["clip_id"] for row in rows if row["round"] == 0} & {clip_id for clip_id, _ in corrected}
    fresh = run_fresh(labelled, tmp_path)
    assert without_history(rows) == without_history(fresh)
