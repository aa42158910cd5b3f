from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Point
from rayvos.errors import FormatError, FrameMissingError, InputError
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.points import ClipPoints, ScoredFrames, choose_scored_frames, count_points, score_location
from rayvos.evaluation.tasks import run_in_processes
from tests.evaluation.drawings import draw, make_clip, write_labels, write_pngs

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))
POINTS = (
    Point(1, 0, 4.9, 5.0),  # the first pixel of object 1
    Point(1, 0, 3.9, 5.0),  # one pixel left of it
    Point(1, 1, 40.0, 30.0, "negative"),
    Point(2, 1, 21.0, 11.0, "negative"),  # inside object 2
    Point(2, 2, 0.0, 0.0, "ambiguous"),
)


def manifest_with(points, path: Path) -> str:
    write_manifest([dataclasses.replace(make_clip("a", draw(4), masks=False), points=points)], str(path))
    return str(path)


@pytest.mark.parametrize("form", ["pngs", "labels"])
def test_points_are_counted_by_side(form, tmp_path):
    clips = {"a": draw(4)}
    masks = write_pngs(tmp_path / "p", clips) if form == "pngs" else write_labels(tmp_path / "p.parquet", clips)

    found = count_points(manifest_with(POINTS, tmp_path / "points.parquet"), open_masks(masks))

    assert found.objects == (ClipPoints("a", 1, 2, 1, 1, 1), ClipPoints("a", 2, 0, 0, 1, 0))
    assert (found.positive_accuracy, found.negative_accuracy, found.accuracy) == (0.5, 0.5, 0.5)


def test_points_are_counted_in_processes(tmp_path):
    masks = open_masks(write_pngs(tmp_path / "p", {"a": draw(4)}))
    manifest = manifest_with(POINTS, tmp_path / "points.parquet")

    assert count_points(manifest, masks, run=run_in_processes(2)) == count_points(manifest, masks)


def test_no_points_of_a_kind_have_no_share(tmp_path):
    masks = open_masks(write_pngs(tmp_path / "p", {"a": draw(4)}))

    found = count_points(manifest_with(POINTS[:1], tmp_path / "points.parquet"), masks)

    assert found.accuracy == 1
    assert math.isnan(found.negative_accuracy)


def test_a_frame_with_points_and_no_mask_is_refused(tmp_path):
    write_pngs(tmp_path / "p", {"a": draw(4)})
    (tmp_path / "p/a/00001.png").unlink()

    with pytest.raises(FrameMissingError, match="00001"):
        count_points(manifest_with(POINTS, tmp_path / "points.parquet"), open_masks(str(tmp_path / "p")))


def test_a_point_outside_its_frame_is_refused(tmp_path):
    masks = open_masks(write_pngs(tmp_path / "p", {"a": draw(4)}))

    with pytest.raises(FormatError, match="outside the frame"):
        count_points(manifest_with((Point(1, 0, 56.0, 0.0),), tmp_path / "points.parquet"), masks)


def test_a_manifest_without_points_is_refused(tmp_path):
    masks = open_masks(write_pngs(tmp_path / "p", {"a": draw(4)}))

    with pytest.raises(InputError, match="no clip with points"):
        count_points(manifest_with((), tmp_path / "points.parquet"), masks)


def test_scored_frames_are_the_golden_ones():
    path = GOLDENS / "algorithms" / "points.json"
    if not path.is_file():
        pytest.skip(f"no golden file at {path}; set RAYVOS_GOLDENS")
    for case in json.loads(path.read_text())["pv_oops_protocol"]:
        points = {int(frame): tuple(counts) for frame, counts in case["frames_fg_bg"].items()}
        expected = case["result"]

        found = choose_scored_frames(points, case["trace_frame"])

        if expected["keep"]:
            assert found == ScoredFrames(expected["reference"], tuple(expected["eval_frames"]))
        else:
            assert found == expected["why"]


def test_a_location_is_right_when_box_trace_and_square_agree():
    mask, trace = np.zeros((2, 20, 30), bool)
    mask[5:10, 5:15] = True
    trace[7, 5:25] = True

    found = score_location(mask, trace, (5, 0, 15, 10))

    assert (found.recall, found.precision) == (0.5, 1.0)
    assert found.correct
    assert not score_location(mask, trace, (10.6, 0, 20.6, 10)).correct
    assert not score_location(np.zeros_like(mask), trace, (5, 0, 15, 10)).correct
