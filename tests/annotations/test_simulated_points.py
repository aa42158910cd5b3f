from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.annotations.simulated_points import PointRule, simulate_clip, write_simulated_points
from rayvos.annotations.tables import check_schema
from rayvos.errors import FormatError, InputError, UsageError
from rayvos.masks.rle import mask_to_rle, rle_to_mask

HEIGHT, WIDTH = 60, 90
RULE = PointRule(distance_px=8)


def make_clip(clip_id: str = "a", num_frames: int = 25, frames=None) -> Clip:
    """Return a clip with two moving squares; the second one leaves after frame 12."""
    masks = []
    for frame in range(num_frames) if frames is None else frames:
        for object_id, left in ((1, frame), (2, 60 - frame)):
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[10:40, left : left + 25] = True
            gone = object_id == 2 and frame > 12
            masks.append(MaskPrompt(object_id, frame, None if gone else mask_to_rle(mask)))
    source = ClipSource("images", "-")
    return Clip(clip_id, source, HEIGHT, WIDTH, num_frames, objects=(ObjectInfo(1), ObjectInfo(2)), masks=tuple(masks))


def test_points_lie_on_their_objects_and_negatives_on_none():
    clip = make_clip()
    truth = {(m.frame, m.object_id): rle_to_mask(m.rle, HEIGHT, WIDTH) for m in clip.masks if m.rle is not None}

    rows = simulate_clip(clip, RULE)

    assert sorted({row["frame"] for row in rows}) == [0, 3, 5, 8, 11, 13, 16, 19, 21, 24]
    for row in rows:
        at = row["y"], row["x"]
        if row["object_id"]:
            assert truth[row["frame"], row["object_id"]][at]
        else:
            assert not any(mask[at] for (frame, _), mask in truth.items() if frame == row["frame"])
    assert {row["object_id"] for row in rows if row["frame"] > 12} == {0, 1}


def test_a_clips_points_do_not_depend_on_its_neighbours(tmp_path):
    clips = [make_clip(name, 4) for name in "abc"]
    write_manifest(clips, str(tmp_path / "all.parquet"))
    write_manifest(clips[1:2], str(tmp_path / "one.parquet"))

    for name in ("all", "one"):
        write_simulated_points(str(tmp_path / f"{name}.parquet"), str(tmp_path / f"{name}_points.parquet"), RULE)

    together, alone = (pq.read_table(tmp_path / f"{name}_points.parquet").to_pylist() for name in ("all", "one"))
    assert [row for row in together if row["clip_id"] == "b"] == alone
    assert len(alone) > 40
    check_schema(pq.read_schema(tmp_path / "one_points.parquet"), "candidates", "points")


def test_frames_are_spaced_among_those_that_have_masks():
    rows = simulate_clip(make_clip(num_frames=30, frames=range(0, 30, 5)), PointRule(num_frames=3))
    assert sorted({row["frame"] for row in rows}) == [0, 15, 25]


def test_another_data_set_draws_other_points():
    clip = make_clip(num_frames=1)
    assert simulate_clip(clip, PointRule(dataset="davis")) != simulate_clip(clip, PointRule(dataset="yt"))


def test_a_bad_clip_is_left_out_and_named(tmp_path):
    bad = Clip("bad", ClipSource("images", "-"), 5, 5, 1, objects=(ObjectInfo(1),), masks=(MaskPrompt(1, 0, b"zz"),))
    write_manifest([make_clip(num_frames=2), bad], str(tmp_path / "m.parquet"))
    errors: list[InputError] = []

    summary = write_simulated_points(str(tmp_path / "m.parquet"), str(tmp_path / "p.parquet"), on_error=errors.append)

    assert (summary.clips, summary.skipped) == (1, 1)
    assert "clip 'bad' frame 0 object 1" in str(errors[0])
    with pytest.raises(FormatError, match="clip 'bad'"):
        write_simulated_points(str(tmp_path / "m.parquet"), str(tmp_path / "q.parquet"))
    assert not (tmp_path / "q.parquet").exists()


def test_a_manifest_without_masks_is_refused(tmp_path):
    write_manifest([Clip("a", ClipSource("images", "-"), 5, 5, 1)], str(tmp_path / "m.parquet"))
    with pytest.raises(InputError, match="no clip has masks to draw points from"):
        write_simulated_points(str(tmp_path / "m.parquet"), str(tmp_path / "p.parquet"))


@pytest.mark.parametrize("options", [{"num_points": -1}, {"num_frames": 0}, {"distance_px": -1.0}])
def test_rules_that_mean_nothing_are_refused(options):
    with pytest.raises(UsageError):
        PointRule(**options)
