"""What candidates start from, prompt by prompt, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo, Point, Trace
from rayvos.engines.candidates.key_prompts import key_frames, key_prompts, trace_key_frame
from rayvos.errors import FormatError, InputError, UsageError
from rayvos.masks.rle import mask_to_rle

SQUARE = np.zeros((48, 66), bool)
SQUARE[10:20, 5:15] = True
CLIP = Clip("c", ClipSource("images", "frames"), 48, 66, 12, objects=(ObjectInfo(1),))
MASK = MaskPrompt(1, 4, mask_to_rle(SQUARE))
BOXES = tuple(Box(1, frame, 5, 10, 15, 20) for frame in range(2, 9))
TRACES = (
    Trace(1, 3, (5.0, 6.0), (10.0, 10.0)),
    Trace(1, 7, (5.0, 30.0), (10.0, 10.0)),
    Trace(1, 9, (5.0, 30.0), (10.0, 10.0)),
)
POINTS = (Point(1, 1, 5, 5, "negative"), Point(1, 6, 8, 12), Point(1, 8, 8, 12), Point(1, 8, 9, 12))


def given(**prompts: tuple) -> Clip:
    return dataclasses.replace(CLIP, **prompts)


def test_the_strongest_prompt_is_taken_and_the_others_are_left_out():
    whole = given(masks=(MASK,), boxes=BOXES, traces=TRACES, points=POINTS)

    for left_out, kind, key in [((), "masks", None), (("masks",), "boxes", 5), (("masks", "boxes"), "traces", 7)]:
        found = key_prompts(dataclasses.replace(whole, **dict.fromkeys(left_out, ())))
        assert [name for name in ("masks", "boxes", "traces", "points") if getattr(found, name)] == [kind]
        assert key_frames(found) == ({} if key is None else {1: key})


@pytest.mark.parametrize(("kind", "frames"), [("boxes", {5}), ("traces", {7}), ("points", {8}), ("masks", {4})])
def test_a_kind_that_is_asked_for_is_taken(kind, frames):
    found = key_prompts(given(masks=(MASK,), boxes=BOXES, traces=TRACES, points=POINTS), kind)

    assert {prompt.frame for prompt in getattr(found, kind)} == frames


def test_the_key_frame_of_a_trace_is_where_most_is_drawn():
    assert trace_key_frame(TRACES, 48, 66) == 7
    assert trace_key_frame((*TRACES, Trace(1, 9, (6.0,), (10.0,))), 48, 66) == 9  # the same area, one position more


def test_verified_points_do_not_change_what_an_object_with_a_trace_starts_from():
    assert key_prompts(given(traces=TRACES, points=POINTS)) == key_prompts(given(traces=TRACES))


def test_objects_of_which_nothing_is_said_are_left_out():
    found = key_prompts(given(objects=(ObjectInfo(1), ObjectInfo(2)), boxes=BOXES))

    assert found.object_ids() == (1,)


def test_an_object_that_is_absent_everywhere_is_no_error_and_starts_nothing():
    assert key_prompts(given(masks=(MaskPrompt(1, 2, None),))).objects == ()
    assert key_prompts(given(boxes=(Box(1, 2, 0, 0, 0, 0, visible=False),))).objects == ()


def test_absence_is_kept_for_an_object_that_starts_from_a_trace():
    found = key_prompts(given(masks=(MaskPrompt(1, 2, None),), traces=TRACES))

    assert [mask.rle for mask in found.masks] == [None]


@pytest.mark.parametrize(
    ("prompts", "kind", "message"),
    [
        ({}, "auto", "clip 'c': expected masks, boxes, traces or points of an object to start from, found none"),
        ({"points": (Point(1, 0, 5, 5, "negative"),)}, "auto", "found none"),
        ({"boxes": BOXES}, "masks", "clip 'c': expected masks of an object"),
    ],
)
def test_a_clip_without_anything_to_start_from_is_named(prompts, kind, message):
    with pytest.raises(InputError, match=message):
        key_prompts(given(**prompts), kind)


@pytest.mark.parametrize("x", [-1.0, 66.0, float("nan")])
def test_a_trace_or_a_point_outside_the_frame_is_named(x):
    with pytest.raises(FormatError, match=r"clip 'c' frame 3 object 1: trace position \(.*10\) lies outside the 66x48"):
        key_prompts(given(traces=(Trace(1, 3, (5.0, x), (10.0, 10.0)),)))
    with pytest.raises(FormatError, match=r"clip 'c' frame 6 object 1: point position \(.*12\) lies outside"):
        key_prompts(given(points=(Point(1, 6, x, 12),)))


def test_a_mask_of_another_size_is_named():
    with pytest.raises(FormatError, match="clip 'c' frame 4 object 1"):
        key_prompts(given(masks=(MaskPrompt(1, 4, mask_to_rle(SQUARE[:-1])),)))


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="did you mean 'traces'"):
        key_prompts(CLIP, "trace")  # type: ignore[arg-type]
