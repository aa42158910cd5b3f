"""Crops by the Box2Seg rules, against the golden values and as properties."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.errors import ShapeError
from rayvos.masks.boxes import (
    Margin,
    box_iou,
    clip_box,
    crop_around,
    jitter_box,
    loosen_box,
    mask_to_box,
    paint_guidance,
    paste_probability,
    round_box,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))
GOLDEN = GOLDENS / "algorithms" / "box2seg.json"
SIZE = 385
SIDES = st.tuples(*[st.floats(-40, 90, width=32)] * 4)


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.is_file():
        pytest.skip(f"no golden file {GOLDEN}; set RAYVOS_GOLDENS")
    return json.loads(GOLDEN.read_text())


def ordered(sides):
    x0, x1 = sorted(sides[:2])
    y0, y1 = sorted(sides[2:])
    return np.array([x0, y0, x1, y1], np.float32)


def test_crops_and_guidance_are_the_golden_ones(golden):
    for case in golden["crop"]["cases"]:
        width, height = case["image_wh"]
        rule = case["margin"]
        margin = Margin(rule["mode"], rule["value"], rule.get("min_px", 0))

        pixels = round_box(np.array(case["box_xyxy"], np.float32), height, width)
        crop = crop_around(pixels, margin, height, width)
        guidance = paint_guidance(pixels, crop, SIZE)

        assert list(pixels) == case["box_rounded_xyxy"]
        assert list(crop) == case["crop_xyxy"]
        assert [SIZE / (crop[2] - crop[0]), SIZE / (crop[3] - crop[1])] == pytest.approx(case["scale_xy"], abs=1e-6)
        assert guidance.sum() == case["guidance_ones"]
        assert mask_to_box(guidance).tolist() == case["guidance_bbox_xyxy"]


def test_jittered_boxes_follow_the_golden_statistics(golden):
    rule = golden["jitter"]
    box = np.array(rule["box_xyxy"], np.float32)
    generator = np.random.default_rng(1)

    moved = np.array([jitter_box(box, 0.05, 1000, 1000, generator) for _ in range(20_000)])

    for side, column in (("x0", 0), ("y0", 1), ("x1", 2), ("y1", 3)):
        low, high = rule[f"range_{side}"]
        assert moved[:, column].min() >= low
        assert moved[:, column].max() <= high
        std = rule[f"std_unclipped_{side[0]}"] * rule["clipped_normal_std"]
        assert moved[:, column].std() == pytest.approx(std, rel=0.03)  # 20,000 draws: one sigma is 0.5 %
    assert abs(np.corrcoef(moved.T) - np.eye(4)).max() < 0.03


@given(SIDES, st.floats(0, 3), st.integers(0, 99))
def test_a_jittered_box_stays_ordered_and_in_the_frame(sides, sigma, seed):
    x0, y0, x1, y1 = jitter_box(ordered(sides), sigma, 50, 60, np.random.default_rng(seed))

    assert 0 <= x0 <= x1 <= 60
    assert 0 <= y0 <= y1 <= 50


def test_a_loose_box_holds_its_tight_one_and_stays_in_the_frame() -> None:
    assert loosen_box(np.array([10, 20, 30, 60], np.float32), 0.1, 100, 100).tolist() == [8, 16, 32, 64]
    assert loosen_box(np.array([0, 20, 30, 98], np.float32), 0.5, 100, 40).tolist() == [0, 0, 40, 100]


@given(SIDES, st.sampled_from(["abs:50", "abs:0", "rel:0.2,min16", "rel:0.5"]))
def test_a_crop_holds_its_rounded_box_and_lies_in_the_frame(sides, margin):
    box = ordered(sides)
    pixels = round_box(box, 50, 60)
    if pixels is None:
        assert box_iou(clip_box(box, 50, 60), box)[0, 0] in (0, 1)
        return
    crop = crop_around(pixels, Margin.parse(margin), 50, 60)

    assert 0 <= crop[0] <= pixels[0] < pixels[2] <= crop[2] <= 60
    assert 0 <= crop[1] <= pixels[1] < pixels[3] <= crop[3] <= 50


@pytest.mark.parametrize("box", [[-9, 2, 0, 8], [2, -9, 8, 0], [60, 2, 70, 8], [2, 50, 8, 70]])
def test_a_box_beside_the_frame_has_no_pixels(box):
    assert round_box(np.array(box, np.float32), 50, 60) is None


def test_a_box_of_no_width_gets_one_pixel():
    assert round_box(np.array([3.4, 4, 3.4, 9], np.float32), 50, 60) == (3, 4, 4, 9)
    assert round_box(np.array([59.9, 49.9, 99, 99], np.float32), 50, 60) == (59, 49, 60, 50)


@pytest.mark.parametrize("radius", [20, 60, 130, 220])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_mask_comes_back_from_its_resized_crop(radius, seed):
    generator = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    wobble = sum(generator.normal(0, 0.2 / k) * np.cos(k * angles + generator.uniform(0, 6)) for k in range(2, 6))
    outline = np.stack([427 + radius * (1 + wobble) * np.cos(angles), 240 + radius * (1 + wobble) * np.sin(angles)], 1)
    mask = cv2.fillPoly(np.zeros((480, 854), np.uint8), [outline.astype(np.int32)], 1).astype(bool)
    crop = crop_around(round_box(mask_to_box(mask), 480, 854), Margin(), 480, 854)

    x0, y0, x1, y1 = crop
    resized = cv2.resize(mask[y0:y1, x0:x1].astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    back = paste_probability(resized, crop, 480, 854) >= 0.5

    assert (back & mask).sum() / (back | mask).sum() >= 0.98  # Box2Seg specification: acceptance 3


@given(SIDES, SIDES)
def test_box_iou_is_symmetric_and_one_with_itself(first, second):
    a, b = ordered(first), ordered(second)

    iou = box_iou(a, b)[0, 0]
    assert iou == box_iou(b, a)[0, 0]
    assert 0 <= iou <= 1
    area = float(a[2] - a[0]) * float(a[3] - a[1])
    assert box_iou(a, a)[0, 0] == (1 if area > 0 else 0)


def test_box_iou_compares_every_pair():
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [9, 9, 9, 9]], np.float32)

    expected = [[1, 1 / 3, 0], [1 / 3, 1, 0]]
    np.testing.assert_allclose(box_iou(boxes[:2], boxes), expected, atol=1e-12)


def test_corner_and_size_form_are_inverse():
    boxes = np.array([[[1, 2, 3, 4], [0, 0, 10, 20]]], np.float32)

    assert xywh_to_xyxy(boxes).tolist() == [[[1, 2, 4, 6], [0, 0, 10, 20]]]
    np.testing.assert_array_equal(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes)


@pytest.mark.parametrize("text", ["50", "abs", "rel:-1", "abs:50,", "abs:1e3", "rel:0.2,16"])
def test_a_margin_of_another_form_is_refused(text):
    with pytest.raises(ShapeError, match="margin"):
        Margin.parse(text)
