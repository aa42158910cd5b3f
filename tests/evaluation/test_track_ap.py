from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from rayvos.errors import FormatError
from rayvos.evaluation.tasks import run_in_processes
from rayvos.evaluation.track_ap import evaluate_tracks
from rayvos.evaluation.track_matching import TrackMatcher
from rayvos.masks.rle import mask_to_rle
from tests.evaluation.drawings import HEIGHT, WIDTH, draw

FRAMES = draw(3)


def rle(mask):
    return {"size": [HEIGHT, WIDTH], "counts": mask_to_rle(mask).decode()}


def track(value, shift=0, **known):
    return {
        "video_id": 1, "category_id": 5, "segmentations": [rle(ids == value) for ids in draw(3, shift=shift)], **known,
    }  # fmt: skip


VIDEO = {"id": 1, "height": HEIGHT, "width": WIDTH, "file_names": ["v/0.jpg", "v/1.jpg", "v/2.jpg"]}
TRUTH = {
    "videos": [VIDEO],
    "categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "dog"}],
    "annotations": [track(1, id=1, iscrowd=0), track(2, id=2, iscrowd=0)],
}


def score(folder: Path, results, truth=TRUTH, **options):
    (folder / "gt.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    return evaluate_tracks(str(folder / "gt.json"), str(folder / "results.json"), **options)


def test_perfect_tracks_have_an_average_precision_of_one(tmp_path):
    found = score(tmp_path, [track(1, score=0.9), track(2, score=0.8)])

    assert found.stats["AP"] == found.stats["AR10"] == pytest.approx(1)
    assert found.stats["AP_large"] == -1
    assert found.average_precision(6) is None


def test_no_results_score_zero(tmp_path):
    assert score(tmp_path, []).stats["AP"] == 0


def test_a_track_that_is_twice_there_counts_as_false_once(tmp_path):
    found = score(tmp_path, [track(1, score=0.9), track(1, score=0.8), track(2, score=0.7)])

    assert found.stats["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_two_processes_give_what_one_gives(tmp_path):
    results = [track(1, 2, score=0.9), track(2, 1, score=0.8)]

    assert score(tmp_path, results).stats == score(tmp_path, results, run=run_in_processes(2)).stats


def test_the_iou_of_tracks_sums_over_frames(tmp_path):
    result = track(1, 5, score=0.9)
    result["segmentations"][1] = None
    score(tmp_path, [result])

    ((found,),) = TrackMatcher(str(tmp_path / "gt.json"), str(tmp_path / "results.json"))([1])

    assert found.ious_DT[0, 0] == 2 * 60 / (2 * 180 + 120)  # rectangles of 10 x 12, half covered; one frame is missed


def broken(**changes):
    result = track(1, score=0.5)
    return {key: value for key, value in {**result, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"a": 1}, "list of results"),
        ([broken(video_id=9)], "video 9"),
        ([broken(score=...)], "score"),
        ([broken(score=float("nan"))], "finite score"),
        ([broken(segmentations=[None])], "1 segmentations"),
        ([broken(segmentations=[{"size": [1, 1], "counts": "1"}, None, None])], "size"),
        ([broken(segmentations=["x", None, None])], "RLE"),
    ],
)
def test_results_that_do_not_fit_are_refused_with_their_place(results, message, tmp_path):
    with pytest.raises(FormatError, match=rf"results\.json.*{message}"):
        score(tmp_path, results)


def test_truth_without_annotations_is_refused(tmp_path):
    truth = {key: value for key, value in TRUTH.items() if key != "annotations"}

    with pytest.raises(FormatError, match="hold no annotations"):
        score(tmp_path, [], truth)


def test_an_annotation_id_of_zero_is_refused(tmp_path):
    truth = copy.deepcopy(TRUTH)
    truth["annotations"][0]["id"] = 0

    with pytest.raises(FormatError, match="id 0"):
        score(tmp_path, [], truth)
