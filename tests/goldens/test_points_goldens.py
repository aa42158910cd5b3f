"""Point simulation, candidates, traces and protocols against recorded truths: all exact."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rayvos.annotations.formats.point_vos import LABELS
from rayvos.annotations.formats.vidln import read_vidln
from rayvos.engines.candidates.selection import mine_candidates
from rayvos.evaluation.points import ScoredFrames, choose_scored_frames
from rayvos.masks.points import evenly_spaced_frames, farthest_points, pixel_keys, sample_points, splitmix64
from rayvos.masks.traces import render_trace, trace_square

FOLDER = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "algorithms"
if not (FOLDER / "points.json").is_file():
    pytest.skip(f"no points.json in {FOLDER}; set RAYVOS_GOLDENS", allow_module_level=True)
TRUTH: dict[str, Any] = json.loads((FOLDER / "points.json").read_text())
KINDS = {"fg": "foreground", "uncertain": "ambiguous", "bg": "background"}


def region(rule: str, height: int, width: int) -> np.ndarray:
    """Return the pixels for which a rule of the file holds."""
    if rule == "all pixels":
        return np.ones((height, width), bool)
    holds = compile(rule.replace("^", "**"), "rule", "eval")
    return np.array([[eval(holds, {"x": x, "y": y}) for x in range(width)] for y in range(height)])


@pytest.mark.parametrize("case", TRUTH["rng"]["splitmix64"], ids=lambda case: str(case["x"]))
def test_the_hash_is_splitmix64(case):
    assert str(splitmix64(np.array([case["x"]], np.uint64))[0]) == case["y"]


@pytest.mark.parametrize("case", TRUTH["rng"]["keys"], ids=lambda case: str(case["idx"]))
def test_a_pixel_has_its_key(case):
    assert str(pixel_keys(case["seed"], np.array([case["idx"]]))[0]) == case["key"]


@pytest.mark.parametrize("case", TRUTH["random_sim"]["cases"], ids=lambda case: f"{case['shape']}-{case['n']}")
def test_random_points_are_the_recorded_ones(case):
    group = TRUTH["random_sim"]
    shape = region(group["shapes"][case["shape"]], *group["image_hw"])

    points = sample_points(shape, case["n"], distance_px=group["d"], seed=case["seed"])

    assert shape.sum() == group["areas"][case["shape"]]
    assert points.tolist() == case["points_xy"]


@pytest.mark.parametrize("case", TRUTH["fps"]["cases"], ids=lambda case: case["shape"])
def test_farthest_points_are_the_recorded_ones(case):
    assert farthest_points(region(case["rule"], *TRUTH["fps"]["image_hw"]), 10).tolist() == case["points_xy_10"]


@pytest.mark.parametrize("case", TRUTH["frame_subsampling"]["cases"], ids=lambda case: f"{case['T']}-{case['n']}")
@pytest.mark.parametrize("spacing", ["endpoints", "midpoints"])
def test_kept_frames_are_the_recorded_ones(case, spacing):
    assert evenly_spaced_frames(case["T"], case["n"], spacing) == case[spacing]


@pytest.mark.parametrize("case", TRUTH["candidates"]["cases"], ids=lambda case: f"{case['map']}-{case['seed']}")
def test_candidates_are_the_recorded_ones(case):
    height, width = TRUTH["candidates"]["image_hw"]
    y, x = np.mgrid[:height, :width]
    distance = np.sqrt((x - case["cx"]) ** 2 + (y - case["cy"]) ** 2)
    probability = 1 / (1 + np.exp((distance - case["r"]) / case["s"]))

    found = mine_candidates(probability, case["seed"])

    for group, kind in KINDS.items():
        assert [[point.x, point.y] for point in found if point.kind == kind] == case[group]


@pytest.mark.parametrize("case", TRUTH["pv_oops_protocol"], ids=lambda case: str(case["trace_frame"]))
def test_scored_frames_are_the_recorded_ones(case):
    counts = {int(frame): tuple(pair) for frame, pair in case["frames_fg_bg"].items()}

    found = choose_scored_frames(counts, case["trace_frame"])

    truth = case["result"]
    if truth["keep"]:
        assert found == ScoredFrames(truth["reference"], tuple(truth["eval_frames"]))
    else:
        assert isinstance(found, str)


@pytest.mark.parametrize("case", TRUTH["verification"]["mapping"], ids=lambda case: f"{case['group']}-{case['answer']}")
def test_a_verified_points_status_has_its_label(case):
    assert LABELS[case["status"]] == {1: "positive", 0: "negative", None: "ambiguous"}[case["label"]]


def draw(name: str) -> np.ndarray:
    group = TRUTH["trace_render"]
    height, width = group["image_hw"]
    parts = [np.array(part) * [width, height] - 0.5 for part in group["cases"][name]["parts_xy"]]
    return render_trace(parts, height, width)


@pytest.mark.parametrize("name", TRUTH["trace_render"]["cases"])
def test_a_drawn_trace_and_its_square_are_the_recorded_ones(name):
    truth = TRUTH["trace_render"]["cases"][name]

    trace = draw(name)
    centre_x, centre_y, side = trace_square(trace)

    rows, columns = np.flatnonzero(trace.any(1)), np.flatnonzero(trace.any(0))
    assert trace.sum() == truth["area"]
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == truth["bbox_xyxy"]
    assert [centre_x, centre_y] == truth["centre_xy"]
    assert side == pytest.approx(truth["side_px"], abs=1e-5)  # the file holds 6 decimals


def test_the_key_frame_with_the_largest_trace_is_the_recorded_one():
    frames = [name for name in TRUTH["trace_render"]["cases"] if name.startswith("kf")]
    assert max(frames, key=lambda name: draw(name).sum()) == TRUTH["trace_render"]["largest_area_keyframe"]


@pytest.mark.parametrize("case", TRUTH["trace_segments"]["cases"], ids=lambda case: str(case["caption_span"]))
def test_the_trace_of_a_noun_is_the_recorded_one(case, tmp_path):
    truth = TRUTH["trace_segments"]
    width, parts = 640, truth["traces"]
    names = [f"{frame:05d}" for frame in range(4)]
    (tmp_path / "frames/v").mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(tmp_path / f"frames/v/{name}.png"), np.zeros((48, width, 3), np.uint8))
    words = [
        {"referenced_word_start_idx": word["s"], "referenced_word_end_idx": word["e"], "start_ms": word["start"]}
        for word in truth["alignment"]
    ]
    drawn = [
        [{"x": one["x"], "y": one["y"], "time_ms_since_epoch": one["t"], "kf_idx": one["kf"]} for one in part]
        for part in parts
    ]
    whole = [0, len("A dog jumps high")]  # an object that is always there: without any, a narrative is refused
    actor = {
        "actor_name": "dog", "caption": "A dog jumps high off", "noun_segments": [whole, case["caption_span"]],
        "recording_start_time_ms_since_epoch": truth["recording_start_ms"], "traces": drawn, "time_alignment": words,
    }  # fmt: skip
    record = {
        "dataset_id": "d", "video_id": "v", "vidln_id": "n", "keyframe_names": names, "actor_narratives": [actor]
    }  # fmt: skip
    (tmp_path / "narratives.jsonl").write_text(json.dumps(record))

    (clip,) = read_vidln(str(tmp_path / "narratives.jsonl"), objects="nouns")

    time_at = {float(int(one["x"] * width)): one["t"] for part in parts for one in part}
    found = [[time_at[x] for x in trace.x] for trace in clip.traces if trace.object_id == 2]
    assert found == case["result_t"]
