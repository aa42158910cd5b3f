import json
import os
from pathlib import Path

import numpy as np
import pytest

from rayvos.annotations.label_frames import FrameLabel, to_label_map
from rayvos.annotations.records import Box
from rayvos.engines.keyframes import middle_frame
from rayvos.evaluation.pseudo_labels import MASK_ROW, quality_table
from rayvos.masks.boxes import Margin, crop_around, jitter_box, paint_guidance, round_box
from rayvos.masks.ignore import IGNORE, fill_rejected
from rayvos.masks.rle import mask_to_rle

FOLDER = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))
FILE = FOLDER / "algorithms" / "box2seg.json"
GOLDENS = json.loads(FILE.read_text()) if FILE.exists() else {}
SIZE = 385

needs_goldens = pytest.mark.skipif(not GOLDENS, reason=f"no goldens at {FILE}; set RAYVOS_GOLDENS")


def cases(*keys):
    found = GOLDENS
    for key in keys:
        found = found.get(key, {})
    return found or [pytest.param(None, marks=needs_goldens)]


@pytest.mark.parametrize("case", cases("crop", "cases"))
def test_crops_are_those_of_the_golden_file(case):
    width, height = case["image_wh"]
    margin = Margin(case["margin"]["mode"], case["margin"]["value"], case["margin"].get("min_px", 0))

    pixels = round_box(np.array(case["box_xyxy"], np.float32), height, width)
    crop = crop_around(pixels, margin, height, width)
    guidance = paint_guidance(pixels, crop, SIZE)

    rows, columns = np.flatnonzero(guidance.any(axis=1)), np.flatnonzero(guidance.any(axis=0))
    assert list(pixels) == case["box_rounded_xyxy"]
    assert list(crop) == case["crop_xyxy"]
    assert [SIZE / (crop[2] - crop[0]), SIZE / (crop[3] - crop[1])] == pytest.approx(case["scale_xy"], abs=1e-6)
    assert int(guidance.sum()) == case["guidance_ones"]
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == case["guidance_bbox_xyxy"]


@needs_goldens
def test_jittered_boxes_have_the_range_and_spread_of_the_golden_file():
    golden = GOLDENS["jitter"]
    box = np.array(golden["box_xyxy"], np.float32)
    generator = np.random.default_rng(0)

    boxes = np.array([jitter_box(box, 0.05, 10_000, 10_000, generator) for _ in range(20_000)])

    for side, name in enumerate(["range_x0", "range_y0", "range_x1", "range_y1"]):
        low, high = golden[name]
        assert boxes[:, side].min() == pytest.approx(low, abs=1e-4)
        assert boxes[:, side].max() == pytest.approx(high, abs=1e-4)
    # The spread of 20,000 draws is known to 0.5 %; the golden value is rounded to three digits.
    spread = np.array([10.0, 5.0, 10.0, 5.0]) * golden["clipped_normal_std"]
    assert np.abs(boxes.std(axis=0) / spread - 1).max() < 0.02
    assert np.abs(np.abs(boxes - box).mean(axis=0) / [10, 5, 10, 5] - golden["clipped_normal_mean_abs"]).max() < 0.02
    assert np.abs(np.corrcoef((boxes - box).T) - np.eye(4)).max() < 0.03


@pytest.mark.parametrize("case", cases("middle_frame"))
def test_middle_frames_are_those_of_the_golden_file(case):
    assert middle_frame(case["frames_with_object"]) == case["pick"]
    assert middle_frame(case["frames_with_object"][::-1]) == case["pick"]


@pytest.mark.parametrize("case", cases("ignore_fill", "cases"))
def test_rejected_boxes_are_filled_as_in_the_golden_file(case):
    golden = GOLDENS["ignore_fill"]
    label_map = np.array(golden["label_map"], np.uint8)
    boxes = {int(key): np.array(box, np.float32) for key, box in golden["boxes_xyxy_halfopen"].items()}

    filled = fill_rejected(label_map, boxes, case["rejected"], keep_accepted=case["keep_accepted_objects"])

    assert filled.tolist() == case["result"]
    assert int((filled == IGNORE).sum()) == case["n_ignore"]


# Exports keep accepted objects visible inside an ignored box.
SHOWN_CASES = [
    case for case in cases("ignore_fill", "cases") if not isinstance(case, dict) or case["keep_accepted_objects"]
]


@pytest.mark.parametrize("case", SHOWN_CASES)
def test_exports_fill_rejected_boxes_as_in_the_golden_file(case):
    golden = GOLDENS["ignore_fill"]
    label_map = np.array(golden["label_map"], np.uint8)
    labels, boxes = [], {}
    for key, sides in golden["boxes_xyxy_halfopen"].items():
        mask = label_map == int(key)
        score = 0.2 if int(key) in case["rejected"] else 0.8
        labels.append(FrameLabel(int(key), mask_to_rle(mask), int(mask.sum()), tuple(sides), score))
        boxes[int(key)] = Box(int(key), 0, *sides)

    filled = to_label_map(
        labels, *label_map.shape, values={1: 1, 2: 2, 3: 3}, ignore=IGNORE, boxes=boxes, min_score=0.5
    )

    assert filled.tolist() == case["result"]


@needs_goldens
def test_label_quality_leaves_out_frames_where_the_object_is_absent():
    golden = GOLDENS["quality"]
    rows = np.zeros(len(golden["masks"]) + golden["plus_absent_frames"], MASK_ROW)
    rows["frame"] = np.arange(len(rows))
    rows["iou"] = 1.0
    for row, mask in zip(rows, golden["masks"], strict=False):
        row["iou"] = mask["inter"] / mask["union"]
        row["true_area"] = mask["gt_area"]
        assert row["iou"] == pytest.approx(mask["iou"], abs=1e-6)

    line = quality_table(rows, [""] * len(rows))[0]

    assert line.num_masks == len(golden["masks"])
    assert line.mean_iou == pytest.approx(golden["mean_iou"], abs=1e-6)
    assert line.recall_50 == golden["recall@50"]
    assert line.recall_70 == golden["recall@70"]
    assert rows["iou"].mean() == pytest.approx(golden["vos_style_mean_if_absent_counted"], abs=1e-6)
