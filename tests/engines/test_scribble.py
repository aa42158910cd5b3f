from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rayvos.annotations.records import Box, ObjectInfo, Point, Trace
from rayvos.engines.cut.scribble import ScribbleEngine
from rayvos.engines.guided.guidance import Prompt
from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import load_engine
from rayvos.errors import UsageError
from rayvos.masks.rle import rle_to_mask
from tests.conftest import moving_square

IMAGE = moving_square(4)[3]
SQUARE = np.zeros(IMAGE.shape[:2], bool)
SQUARE[24:36, 5:17] = True
PROMPTS = {
    "trace": Prompt(trace=(np.array([[7.0, 29], [14, 31]]),)),
    "points": Prompt(positives=np.array([[7.0, 26], [14, 33]]), negatives=np.array([[30.0, 30], [11, 15]])),
    "one point": Prompt(positives=np.array([[11.0, 30]])),
    "box": Prompt(box=np.array([5, 24, 17, 36], np.float32)),
}


def iou(mask: np.ndarray) -> float:
    return float((mask & SQUARE).sum() / (mask | SQUARE).sum())


@pytest.mark.parametrize("name", PROMPTS)
def test_each_kind_of_prompt_finds_a_bright_object(name):
    assert iou(ScribbleEngine().segment(IMAGE, PROMPTS[name])) > 0.8


def test_positives_are_in_the_mask_and_negatives_outside():
    prompt = Prompt(positives=np.array([[11.0, 30]]), negatives=np.array([[8.0, 26]]))

    mask = ScribbleEngine().segment(IMAGE, prompt)

    assert mask[30, 11]
    assert not mask[26, 8]


def test_a_prompt_outside_the_frame_gives_an_empty_mask():
    assert not ScribbleEngine().segment(IMAGE, Prompt(box=np.array([90, 5, 99, 9], np.float32))).any()


def test_frames_are_labelled_where_they_have_prompts(image_clip):
    clip = dataclasses.replace(
        image_clip,
        objects=(ObjectInfo(1), ObjectInfo(2)),
        traces=(Trace(1, 3, (7.0, 14.0), (29.0, 31.0)),),
        points=(Point(2, 5, 13, 30), Point(2, 5, 40, 30, "negative")),
        boxes=(Box(2, 6, 8, 24, 20, 36, visible=False),),
    )

    rows = [row for row in label_clip(load_engine("scribble"), clip).to_pylist() if row["present"]]

    assert [(row["frame"], row["object_id"]) for row in rows] == [(3, 1), (5, 2)]
    assert iou(rle_to_mask(rows[0]["rle"], 48, 66)) > 0.8
    assert all(0 <= row["score"] <= 1 for row in rows)


@pytest.mark.parametrize("option", [{"max_side": "4"}, {"iterations": "0"}, {"margin": "9"}, {"near_trace": "-1"}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(UsageError, match=next(iter(option))):
        load_engine("scribble", **option)
