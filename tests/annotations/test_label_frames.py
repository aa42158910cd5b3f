import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.annotations.label_frames import (
    FrameLabel,
    frame_names,
    frames_of,
    ignore_value,
    is_accepted,
    paint_order,
    to_label_map,
)
from rayvos.annotations.label_rows import encode_mask
from rayvos.annotations.records import Box, Clip, ClipSource
from rayvos.errors import IdError
from tests.review.runs import label_rows, make_clip

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))


def make_label(object_id, mask, score=0.5, human=False):
    encoded = encode_mask(mask)
    return FrameLabel(object_id, encoded.rle, encoded.area, encoded.box, score, human)


def rectangle(x0, y0, x1, y1, height=20, width=30):
    mask = np.zeros((height, width), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


SHARED = (10, 12)  # row, column of a pixel of both objects
ONE, TWO = rectangle(2, 2, 15, 15), rectangle(10, 8, 28, 18)


def winner(labels, **options):
    return to_label_map(labels, 20, 30, values={1: 1, 2: 2}, ignore=255, **options)[SHARED]


def test_the_higher_score_gets_a_shared_pixel():
    assert winner([make_label(1, ONE, 0.9), make_label(2, TWO, 0.3)]) == 1
    assert winner([make_label(1, ONE, 0.3), make_label(2, TWO, 0.9)]) == 2


def test_of_equal_scores_the_lower_id_wins():
    assert winner([make_label(1, ONE, 0.5), make_label(2, TWO, 0.5)]) == 1
    assert winner([make_label(2, TWO, 0.5), make_label(1, ONE, 0.5)]) == 1


def test_a_persons_mask_goes_before_any_engines():
    assert winner([make_label(1, ONE, 0.99), make_label(2, TWO, 0.2, human=True)]) == 2


def test_the_lowest_id_wins_on_request_whatever_the_scores():
    assert winner([make_label(1, ONE, 0.1), make_label(2, TWO, 0.9)], overlap="lowest-id") == 1


@given(st.permutations(range(1, 6)), st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_the_paint_order_depends_on_the_labels_and_not_on_their_order(order, scores):
    labels = [FrameLabel(object_id, b"", score=scores[object_id - 1]) for object_id in order]

    for rule in ("score", "lowest-id"):
        assert paint_order(labels, rule) == paint_order(sorted(labels, key=lambda label: label.object_id), rule)


def test_absent_and_empty_objects_paint_nothing():
    labels = [FrameLabel(1, None), make_label(2, np.zeros((20, 30), np.bool_))]

    assert not to_label_map(labels, 20, 30, values={1: 1, 2: 2}, ignore=255).any()


def test_a_label_below_the_minimum_fills_its_given_box_under_the_accepted_objects():
    labels = [make_label(1, ONE, 0.9), make_label(2, TWO, 0.1)]
    boxes = {2: Box(2, 0, 8, 6, 29.4, 19)}

    found = to_label_map(labels, 20, 30, values={1: 1, 2: 2}, ignore=255, boxes=boxes, min_score=0.5)

    assert (found[ONE] == 1).all()
    assert (found[rectangle(8, 6, 29, 19) & ~ONE] == 255).all()
    assert not found[~rectangle(8, 6, 29, 19) & ~ONE].any()


def test_without_a_given_box_the_masks_own_box_is_ignored():
    found = to_label_map([make_label(2, TWO, 0.1)], 20, 30, values={2: 2}, ignore=255, min_score=0.5)

    assert ((found == 255) == TWO).all()


def test_a_given_box_that_sticks_out_is_ignored_up_to_the_edge():
    boxes = {2: Box(2, 0, -5, -5, 4, 400)}

    found = to_label_map([make_label(2, TWO, 0.1)], 20, 30, values={2: 2}, ignore=255, boxes=boxes, min_score=0.5)

    assert ((found == 255) == rectangle(0, 0, 4, 20)).all()


@pytest.mark.skipif(not (GOLDENS / "algorithms/box2seg.json").exists(), reason="goldens are not here")
def test_the_ignored_boxes_equal_the_golden():
    golden = json.loads((GOLDENS / "algorithms/box2seg.json").read_text())["ignore_fill"]
    truth = np.array(golden["label_map"])
    cases = [case for case in golden["cases"] if case["keep_accepted_objects"]]
    assert cases
    for case in cases:
        labels, boxes = [], {}
        for key, sides in golden["boxes_xyxy_halfopen"].items():
            labels.append(make_label(int(key), truth == int(key), 0.1 if int(key) in case["rejected"] else 0.9))
            boxes[int(key)] = Box(int(key), 0, *sides)
        found = to_label_map(
            labels, *truth.shape, values={1: 1, 2: 2, 3: 3}, ignore=255, boxes=boxes, min_score=0.5
        )  # fmt: skip
        assert found.tolist() == case["result"]
        assert (found == 255).sum() == case["n_ignore"]


def test_people_and_absences_are_accepted_and_a_missing_score_is_not():
    assert is_accepted(FrameLabel(1, None), 1.0)
    assert is_accepted(FrameLabel(1, b"x", score=0.0, human=True), 1.0)
    assert is_accepted(FrameLabel(1, b"x", score=0.5), 0.5)
    assert not is_accepted(FrameLabel(1, b"x"), 0.1)
    assert is_accepted(FrameLabel(1, b"x"), 0.0)


def test_many_objects_make_a_16_bit_map_with_its_own_ignore_value():
    assert [ignore_value(ids) for ids in ([], [1, 254], [1, 255], [300])] == [255, 255, 65535, 65535]

    found = to_label_map([make_label(300, ONE, 0.9)], 20, 30, values={300: 300}, ignore=65535)

    assert found.dtype == np.uint16
    assert found.max() == 300


def test_frames_of_a_table_come_once_in_order_with_their_labels(tmp_path):
    clip = make_clip(tmp_path, "a", num_frames=9, num_objects=3)
    table = label_rows(clip, range(9))

    frames = list(frames_of(table))

    assert [frame for frame, _ in frames] == list(range(9))
    assert all([label.object_id for label in labels] == [1, 2, 3] for _, labels in frames)
    assert [label.rle is None for label in frames[-1][1]] == [False, False, True]


def named(*names):
    return Clip("a", ClipSource("images", "x", tuple(names)), 4, 4, len(names))


def test_frames_keep_the_sources_names_without_folder_and_suffix():
    assert frame_names(named("00005.jpg", "00010.JPG")) == ["00005", "00010"]
    assert frame_names(named("img1/a.b.png", "img1/a.c.png")) == ["a.b", "a.c"]
    assert frame_names(named("x.1", "x.2")) == ["x.1", "x.2"]
    assert frame_names(Clip("v", ClipSource("video", "v.mp4"), 4, 4, 2)) == ["00000", "00001"]


def test_frames_whose_names_collide_are_numbered():
    assert frame_names(named("a/0.jpg", "b/0.jpg")) == ["00000", "00001"]


def test_a_frame_name_that_would_leave_the_folder_is_refused_or_loses_its_folder():
    assert frame_names(named("../../etc/passwd.png")) == ["passwd"]
    for name in ("..\\evil.png", "a\x00b.png", "x/..", "n" * 300):
        with pytest.raises(IdError, match="frame name"):
            frame_names(named(name))
