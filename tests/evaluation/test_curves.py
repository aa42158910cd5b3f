from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rayvos.errors import UsageError
from rayvos.evaluation.curves import CopyNearest, anchors_every, frame_quality, over_length
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.plots import plot_budget, plot_over_length
from rayvos.evaluation.protocols import Davis2017
from rayvos.evaluation.results import ObjectScores
from rayvos.evaluation.scoring import evaluate
from tests.evaluation.drawings import draw, write_pngs

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))


def scores_of(values, clip_id="a", object_id=1, first=0, clip_frames=None):
    frames = tuple(f"{first + number:05d}" for number in range(len(values)))
    positions = tuple(range(first, first + len(values)))
    values = tuple(values)
    return ObjectScores(
        clip_id, object_id, f"{clip_id}_{object_id}", frames, values, values, positions, clip_frames or len(values)
    )


@pytest.fixture(scope="module")
def golden():
    path = GOLDENS / "algorithms" / "masktrack.json"
    if not path.is_file():
        pytest.skip(f"no golden file at {path}; set RAYVOS_GOLDENS")
    return json.loads(path.read_text())


def test_quantiles_are_the_golden_ones(golden):
    case = golden["evaluation"]

    inner = frame_quality([scores_of(case["per_frame_iou"][1:-1])])

    assert inner.mean_iou == pytest.approx(case["davis_mean_excl_first_last"])
    assert inner.quantiles == pytest.approx(
        {int(key): value for key, value in case["quantiles_excl_first_last"].items()}
    )
    assert frame_quality([scores_of(case["per_frame_iou"][1:])]).mean_iou == pytest.approx(
        case["others_mean_excl_first"]
    )


def test_a_budget_annotates_the_golden_number_of_frames(golden):
    case = golden["anchors_every"]

    assert {key: len(anchors_every(int(key), case["T"])) for key in case["counts"]} == case["counts"]
    assert list(anchors_every(None, 100)) == [0]


def test_clips_weigh_the_same_however_long():
    found = frame_quality([scores_of([1.0] * 9), scores_of([0.5], "b")])

    assert found.mean_iou == 0.75
    assert found.num_frames == 10


def test_a_bin_holds_the_frames_of_its_stretch():
    found = over_length([scores_of([1.0] * 5 + [0.5] * 5), scores_of([0.0], "b", first=9, clip_frames=10)], 2)

    assert [(item.num_objects, item.j) for item in found] == [(1, 1.0), (2, 0.25)]


def test_no_bins_are_refused():
    with pytest.raises(UsageError):
        over_length([scores_of([1.0])], 0)


def test_copying_every_frame_is_perfect_and_copying_one_is_not(tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", {"a": draw(9)}))

    every, second, first = (
        evaluate(truth, CopyNearest(truth, step), Davis2017()).summary["J-Mean"] for step in (1, 2, None)
    )

    assert every == 1
    assert every > second > first
    assert second == pytest.approx((3 + 4 * 9 / 11) / 7)  # odd frames copy their left neighbour: one column moved


def test_plots_are_svg():
    quality = frame_quality([scores_of([0.1, 0.9, 0.5])])

    for svg in (plot_over_length(over_length([scores_of([1.0, 0.5])])), plot_budget([(0.1, quality)], [(0.1, 0.3)])):
        assert svg.startswith("<svg")
