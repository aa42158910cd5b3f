"""From the prompts of a clip to its candidates, with a propagator and a guide that are cheap."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rayvos.annotations.records import Box, Clip, MaskPrompt, ObjectInfo, Trace
from rayvos.annotations.tables import CANDIDATES
from rayvos.engines.candidates.mining import MiningOptions, mine_clip
from rayvos.engines.candidates.selection import CandidateRule
from rayvos.engines.cut.scribble import ScribbleEngine
from rayvos.errors import EngineError, InputError
from rayvos.masks.rle import mask_to_rle
from rayvos.video.source import open_clip
from tests.conftest import NUM_FRAMES
from tests.engines_for_tests import ShiftEngine

RULE = CandidateRule(num_foreground=2, num_ambiguous=2, num_background=4, distance_px=4, num_frames=3)
OPTIONS = MiningOptions(rule=RULE)


def square_at(frame: int) -> np.ndarray:
    """Return where `moving_square` has its square."""
    mask = np.zeros((48, 66), bool)
    mask[24:36, 2 + frame : 14 + frame] = True
    return mask


def mine(clip: Clip, options: MiningOptions = OPTIONS, frames: range | None = None, guide=None):
    with open_clip(clip) as images:
        return mine_clip(ShiftEngine(), guide or ScribbleEngine(), clip, images, options, frames=frames)


@pytest.fixture
def traced(image_clip: Clip) -> Clip:
    """The moving square with a trace over it on frame 5."""
    trace = Trace(1, 5, tuple(float(x) for x in range(9, 17)), (29.0,) * 8)
    return dataclasses.replace(image_clip, objects=(ObjectInfo(1),), traces=(trace,))


def test_a_traces_candidates_lie_on_and_off_the_object_it_was_drawn_on(traced):
    rows = mine(traced).to_pylist()

    assert sorted({row["frame"] for row in rows}) == [2, 6, 10]
    for row in rows:
        on_object = square_at(row["frame"])[row["y"], row["x"]]
        assert row["kind"] == "ambiguous" or on_object == (row["kind"] == "foreground")
    for frame in (2, 6, 10):
        kinds = [row["kind"] for row in rows if row["frame"] == frame]
        assert {kind: kinds.count(kind) for kind in kinds} == {"foreground": 2, "ambiguous": 2, "background": 4}


def test_the_table_has_its_schema_and_order(traced):
    table = mine(traced)

    assert table.schema.equals(CANDIDATES)
    keys = [(row["frame"], row["object_id"], row["kind"], row["rank"]) for row in table.to_pylist()]
    assert keys == sorted(keys)


def test_a_clip_in_parts_gives_the_candidates_of_the_whole(traced):
    parts = [mine(traced, frames=range(start, start + 4)) for start in range(0, NUM_FRAMES, 4)]

    assert [row for part in parts for row in part.to_pylist()] == mine(traced).to_pylist()


def test_another_object_changes_nothing_and_another_data_set_other_points(traced):
    other = Box(2, 3, 40, 4, 60, 20)
    both = dataclasses.replace(traced, objects=(ObjectInfo(1), ObjectInfo(2)), boxes=(other,))

    alone = mine(traced).to_pylist()

    assert [row for row in mine(both).to_pylist() if row["object_id"] == 1] == alone
    assert mine(traced, dataclasses.replace(OPTIONS, dataset="else")).to_pylist() != alone


def test_a_forced_key_frame_carries_candidates(image_clip):
    given = dataclasses.replace(
        image_clip, objects=(ObjectInfo(1),), masks=(MaskPrompt(1, 4, mask_to_rle(square_at(4))),)
    )

    forced = mine(given, dataclasses.replace(OPTIONS, force_key_frame=True))

    assert sorted(set(forced.column("frame").to_pylist())) == [4, 6, 10]


def test_a_clip_of_one_frame_has_candidates_on_it(image_clip):
    one = dataclasses.replace(
        image_clip,
        num_frames=1,
        source=dataclasses.replace(image_clip.source, frame_names=image_clip.source.frame_names[:1]),
        objects=(ObjectInfo(1),),
        masks=(MaskPrompt(1, 0, mask_to_rle(square_at(0))),),
    )

    assert set(mine(one).column("frame").to_pylist()) == {0}


def test_an_object_that_is_absent_everywhere_has_no_candidates(image_clip):
    absent = dataclasses.replace(image_clip, objects=(ObjectInfo(1),), masks=(MaskPrompt(1, 0, None),))

    assert mine(absent).num_rows == 0


def test_a_clip_without_prompts_is_an_error(image_clip):
    with pytest.raises(InputError, match="to start from"):
        mine(dataclasses.replace(image_clip, objects=(ObjectInfo(1),)))


def test_a_guide_that_finds_nothing_is_an_error(traced):
    class Blind(ScribbleEngine):
        def segment(self, image, prompt):
            return np.zeros(image.shape[:2], bool)

    with pytest.raises(EngineError, match="frame 5 object 1: engine 'scribble' found nothing where the prompt says"):
        mine(traced, guide=Blind())
