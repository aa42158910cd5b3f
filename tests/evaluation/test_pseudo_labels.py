from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rayvos.errors import IdError, InputError, ShapeError
from rayvos.evaluation.calibration import calibration_from_masks
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.pseudo_labels import MASK_ROW, measure_masks, quality_table
from rayvos.evaluation.table_sources import ManifestSource
from tests.evaluation.drawings import draw, write_labels, write_pngs, write_truth_manifest

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))


def lines(table):
    return {(row.group, row.name): row for row in table}


def test_the_table_equals_the_golden_one():
    path = GOLDENS / "algorithms" / "box2seg.json"
    if not path.is_file():
        pytest.skip(f"no golden file at {path}; set RAYVOS_GOLDENS")
    golden = json.loads(path.read_text())["quality"]
    rows = np.zeros(len(golden["masks"]) + golden["plus_absent_frames"], MASK_ROW)
    rows["distance"] = -1
    rows["iou"][len(golden["masks"]) :] = 1.0  # absent in truth: must not enter
    for row, mask in zip(rows, golden["masks"], strict=False):
        row["iou"], row["true_area"] = mask["inter"] / mask["union"], mask["gt_area"]

    (found, *_) = quality_table(rows, [""] * len(rows))

    assert found.num_masks == len(golden["masks"])
    assert found.mean_iou == pytest.approx(golden["mean_iou"], abs=1e-9)
    assert (found.recall_50, found.recall_70) == (golden["recall@50"], golden["recall@70"])


def test_a_persons_masks_are_told_apart_and_give_the_distance(tmp_path):
    truth = write_pngs(tmp_path / "gt", {"a": draw(12)})
    labels = write_labels(tmp_path / "labels.parquet", {"a": draw(12, shift=1)}, human=(3,))

    found = measure_masks(open_masks(truth), open_masks(labels))

    table = lines(found.table)
    assert table["all", "all masks"].num_masks == 24
    assert table["human", "a person's masks"].num_masks == 2
    assert table["distance", "1…2 frames"].num_masks == 8
    assert table["distance", "6…10 frames"].num_masks == 6
    assert table["size", "small"].num_masks == 24


def test_classes_come_from_the_truths_manifest(tmp_path):
    truth = open_masks(write_truth_manifest(tmp_path / "gt.parquet", {"a": draw(4)}))
    labels = open_masks(write_labels(tmp_path / "labels.parquet", {"a": draw(4, shift=2)}))
    assert isinstance(truth, ManifestSource)

    table = lines(measure_masks(truth, labels, categories=truth.categories(["a"])).table)

    assert table["class", "cat"].num_masks == table["class", "dog"].num_masks == 4
    assert table["class", "cat"].mean_iou == pytest.approx(8 / 12)


def test_masks_of_absent_objects_are_counted_apart(tmp_path):
    truth = draw(4)
    truth[2][truth[2] == 2] = 0
    labels = open_masks(write_labels(tmp_path / "labels.parquet", {"a": draw(4)}))

    found = measure_masks(open_masks(write_pngs(tmp_path / "gt", {"a": truth})), labels)

    assert found.masks_where_absent == 1
    assert found.table[0].num_masks == 7
    assert found.table[0].mean_iou == 1


def test_an_id_that_the_truth_never_has_is_refused(tmp_path):
    labels = open_masks(write_labels(tmp_path / "labels.parquet", {"a": draw(4)}))

    with pytest.raises(IdError, match="id 2"):
        measure_masks(open_masks(write_pngs(tmp_path / "gt", {"a": draw(4, 1)})), labels)


def test_black_and_white_truth_is_one_object_on_request(tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", {"a": [(ids > 0) * np.uint8(255) for ids in draw(4, 1)]}))
    labels = open_masks(write_labels(tmp_path / "labels.parquet", {"a": draw(4, 1, shift=2)}, score=0.6))

    found = measure_masks(truth, labels, binary=True)

    assert found.table[0].mean_iou == pytest.approx(8 / 12)
    assert calibration_from_masks(found).bins[0].mean_score == pytest.approx(0.6)


def test_truth_without_objects_is_refused(tmp_path):
    empty = [np.zeros_like(ids) for ids in draw(4)]

    with pytest.raises(InputError, match="no object is present"):
        measure_masks(
            open_masks(write_pngs(tmp_path / "gt", {"a": empty})),
            open_masks(write_pngs(tmp_path / "pred", {"a": empty})),
        )


def test_masks_without_scores_cannot_be_calibrated(tmp_path):
    truth = write_pngs(tmp_path / "gt", {"a": draw(4)})

    with pytest.raises(ShapeError, match="score"):
        calibration_from_masks(measure_masks(open_masks(truth), open_masks(truth)))


def test_calibration_leaves_out_a_persons_masks_and_counts_false_ones_as_zero(tmp_path):
    truth = draw(4)
    truth[2][truth[2] == 2] = 0
    labels = open_masks(write_labels(tmp_path / "labels.parquet", {"a": draw(4)}, score=0.9, human=(0,)))

    found = calibration_from_masks(measure_masks(open_masks(write_pngs(tmp_path / "gt", {"a": truth})), labels))

    assert (found.num_masks, found.num_bad) == (6, 1)
    assert found.bins[0].mean_iou == pytest.approx(5 / 6)
