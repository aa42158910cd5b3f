from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.annotations.tables import LABELS
from rayvos.engines.base import FrameReader, Label
from rayvos.engines.labeling import label_clip
from rayvos.engines.timing import StageSeconds
from rayvos.errors import EngineError, IdError, UsageError
from rayvos.masks.rle import mask_to_rle, rle_to_mask
from tests.engines_for_tests import BoxFillEngine
from tests.ray_cluster import make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    return make_clip(tmp_path / "clip", num_frames=10)


def test_there_is_one_row_for_every_frame_and_object(clip: Clip) -> None:
    table = label_clip(BoxFillEngine(), clip)

    assert table.schema.equals(LABELS)
    rows = list(zip(table["frame"].to_pylist(), table["object_id"].to_pylist(), strict=True))
    assert rows == [(frame, object_id) for frame in range(10) for object_id in (1, 2)]
    assert table["present"].to_pylist() == [object_id == 1 or frame % 2 == 0 for frame, object_id in rows]


def test_area_and_box_are_those_of_the_mask(clip: Clip) -> None:
    for row in label_clip(BoxFillEngine(), clip).to_pylist():
        if row["present"]:
            mask = rle_to_mask(row["rle"], clip.height, clip.width)
            ys, xs = np.nonzero(mask)
            assert row["area"] == mask.sum()
            assert list(row["box"].values()) == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        else:
            assert (row["rle"], row["area"], row["box"], row["score"], row["quality"]) == (None,) * 4 + ([],)


def test_frame_ranges_put_together_are_the_whole_clip(clip: Clip) -> None:
    whole = label_clip(BoxFillEngine(), clip)

    parts = [label_clip(BoxFillEngine(), clip, frames=range(*ends)) for ends in ((0, 3), (3, 4), (4, 10))]

    assert pa.concat_tables(parts).equals(whole)


def test_a_mask_without_a_pixel_is_present_and_has_no_box(clip: Clip) -> None:
    row = label_clip(BoxFillEngine(threshold=255), clip, frames=range(1)).to_pylist()[0]

    assert (row["present"], row["area"], row["box"]) == (True, 0, None)


def test_masks_of_people_replace_the_engines_and_those_of_programs_do_not(clip: Clip) -> None:
    drawn = np.ones((clip.height, clip.width), bool)
    rle = mask_to_rle(drawn)
    clip = dataclasses.replace(clip, masks=(MaskPrompt(1, 0, rle), MaskPrompt(1, 1, rle, machine_made=True)))

    first, _, second, *_ = label_clip(BoxFillEngine(), clip).to_pylist()

    assert (first["provenance"], first["rle"], first["engine"]) == ("human", rle, "")
    assert (second["provenance"], second["engine"]) == ("pseudo", "boxfill")
    assert label_clip(BoxFillEngine(), clip, prompts="boxes")["provenance"].to_pylist() == ["pseudo"] * 20


def test_the_time_of_each_stage_is_counted(clip: Clip) -> None:
    seconds = StageSeconds()

    label_clip(BoxFillEngine(delay_s=0.01), clip, seconds=seconds)

    assert seconds.engine >= 0.1
    assert seconds.decode_wait > 0
    assert seconds.encode > 0


def test_frames_outside_the_clip_are_refused(clip: Clip) -> None:
    with pytest.raises(UsageError, match="inside 0…9"):
        label_clip(BoxFillEngine(), clip, frames=range(5, 11))


def test_a_clip_that_cannot_be_used_is_refused_before_it_is_opened(clip: Clip) -> None:
    nowhere = dataclasses.replace(clip.source, uri="/nowhere")

    with pytest.raises(IdError):
        label_clip(BoxFillEngine(), dataclasses.replace(clip, source=nowhere, objects=()))


GOOD = np.zeros((48, 66), bool)
SPOILED = {
    "a label left out": ([Label(0, 1, GOOD, 0.5)], "expected a label, found nothing"),
    "labels out of order": ([Label(0, 2, None), Label(0, 1, None)], "frame 0 object 1: expected a label, found"),
    "a label too many": ([Label(0, 1, None), Label(0, 2, None), Label(1, 1, None)], "expected no further label"),
    "a mask of numbers": ([Label(0, 1, GOOD.astype(np.uint8), 0.5)], "expected a bool mask of 48x66, found uint8"),
    "a mask of another size": ([Label(0, 1, GOOD[1:], 0.5)], r"found bool \(47, 66\)"),
    "a score beyond 1": ([Label(0, 1, GOOD, 1.5)], r"expected a score in \[0, 1\], found 1.5"),
    "no score": ([Label(0, 1, GOOD)], "found None"),
    "a quality that is no number": ([Label(0, 1, GOOD, 0.5, {"fill": float("nan")})], "quality 'fill'"),
}


@pytest.mark.parametrize("case", list(SPOILED))
def test_an_engine_that_breaks_its_promise_is_told_so(clip: Clip, case: str) -> None:
    labels, message = SPOILED[case]

    class Spoiled(BoxFillEngine):
        def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
            yield from labels

    with pytest.raises(EngineError, match=message):
        label_clip(Spoiled(), clip, frames=range(1))


def test_an_engine_may_use_its_array_again(clip: Clip) -> None:
    class Reusing(BoxFillEngine):
        def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
            mask = np.zeros((clip.height, clip.width), bool)
            for frame in frames:
                for object_id in clip.object_ids():
                    mask[:] = False
                    mask[frame, object_id] = True
                    yield Label(frame, object_id, mask, 0.5)

    boxes = label_clip(Reusing(), clip)["box"].to_pylist()

    assert [(box["y0"], box["x0"]) for box in boxes] == [(frame, o) for frame in range(10) for o in (1, 2)]
