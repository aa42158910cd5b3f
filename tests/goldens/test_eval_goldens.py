"""Metrics against numbers of the public evaluators; every case of the folder is run, whatever its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rayvos.evaluation.boundary_f import boundary_f
from rayvos.evaluation.jaccard import jaccard
from rayvos.evaluation.meta_files import read_meta, read_seen
from rayvos.evaluation.opening import listed_clips
from rayvos.evaluation.outlines import boundary_radius, disk_half_heights, outline
from rayvos.evaluation.png_source import open_pngs
from rayvos.evaluation.protocols import Davis2016, Davis2017, VosBenchmark, YoutubeVos
from rayvos.evaluation.scoring import evaluate
from rayvos.evaluation.statistics import summarize
from rayvos.evaluation.track_ap import AREA_RANGES, IOU_THRESHOLDS, evaluate_tracks
from rayvos.evaluation.unsupervised import DavisUnsupervised

SHARED = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "eval"
KEPT = Path(__file__).parent / "cases" / "eval"
ABSOLUTE = 1e-9  # integer counts followed by one division


@pytest.fixture(params=[KEPT, SHARED], ids=["kept", "shared"])
def goldens(request) -> Path:
    if not request.param.is_dir():
        pytest.skip(f"no golden files at {request.param}; set RAYVOS_GOLDENS")
    return request.param


def close(found, expected) -> bool:
    return found == pytest.approx(expected, abs=ABSOLUTE, rel=0, nan_ok=True)


@pytest.fixture
def pairs_expected(goldens):
    return json.loads((goldens / "pairs_expected.json").read_text())


def test_every_pair_has_the_official_j_and_f(goldens, pairs_expected):
    masks = np.load(goldens / "pairs.npz")
    wrong = []
    for case in pairs_expected["pairs"]:
        truth, mask = (masks[f"{kind}_{case['id']}"].astype(bool) for kind in ("gt", "pred"))
        void = masks[f"void_{case['id']}"].astype(bool) if case["void"] else None
        found = jaccard(truth, mask, void), boundary_f(truth, mask, void, bound_th=case["bound_th"])
        if not close(found, (case["J"], case["F"])):
            wrong.append((case["name"], found, case["J"], case["F"]))
    assert pairs_expected["pairs"]
    assert wrong == []


def test_every_pair_has_the_official_number_of_boundary_pixels(goldens, pairs_expected):
    masks = np.load(goldens / "pairs.npz")
    for case in pairs_expected["pairs"]:
        pair = np.stack([masks[f"{kind}_{case['id']}"].astype(bool) for kind in ("gt", "pred")])
        if case["void"]:
            pair &= ~masks[f"void_{case['id']}"].astype(bool)
        lengths = outline(pair, int(case["radius"])).lengths_N.tolist()
        assert lengths == [case["gt_boundary_pixels"], case["pred_boundary_pixels"]], case["name"]


def test_every_pair_has_the_official_radius(pairs_expected):
    for case in pairs_expected["pairs"]:
        assert boundary_radius(*case["shape"], case["bound_th"]) == case["radius"], case["name"]
    for size, radius in pairs_expected["radius_for_bound_th_0_008"].items():
        assert boundary_radius(*map(int, size.split("x"))) == radius


def test_disks_are_the_official_ones(pairs_expected):
    for radius, rows in pairs_expected["disk"].items():
        heights = disk_half_heights(int(radius))
        for dx, column in zip(range(-int(radius), int(radius) + 1), np.transpose(rows), strict=True):
            assert column.sum() == 2 * heights[abs(dx)] + 1


def test_boundaries_are_the_official_ones(goldens):
    maps = np.load(goldens / "boundary_maps.npz")
    names = [name.removeprefix("mask_") for name in maps.files if name.startswith("mask_")]
    assert names
    for name in names:
        mask, expected = maps[f"mask_{name}"].astype(bool), maps[f"boundary_{name}"].astype(bool)
        found = np.zeros_like(expected)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0)) // 8
        words = outline(mask[None], 0).boundaries_NHW[0]
        bits = np.unpackbits(words.view(np.uint8).reshape(len(words), -1), axis=1, bitorder="little").astype(bool)
        if rows.size:  # the part around the mask: one more row and one more byte where the image has them
            top, left = max(rows[0] - 1, 0), 8 * max(columns[0] - 1, 0)
            bits = bits[: found.shape[0] - top, : found.shape[1] - left]
            found[top : top + bits.shape[0], left : left + bits.shape[1]] = bits
        assert np.array_equal(found, expected), name


def test_every_list_has_the_official_statistics(pairs_expected):
    for case in pairs_expected["statistics"]:
        found = summarize([float("nan") if value is None else value for value in case["values"]])
        assert close((found.mean, found.recall), (case["mean"], case["recall"])), case["n"]
        if case["decay"] is not None:  # official decay overflows from 256 frames on
            assert close(found.decay, case["decay"]), case["n"]
        assert np.isfinite(found.decay)


def case_folder(goldens: Path, name: str) -> Path:
    folder = goldens / name
    if not folder.is_dir():
        pytest.skip(f"no {name} case at {goldens}")
    return folder


def check_statistics(found, expected):
    for letter, values, statistics in (("J", found.j, found.j_statistics), ("F", found.f, found.f_statistics)):
        official = expected[letter]
        assert close(list(values), official["per_frame"]), (found.name, letter)
        assert close((statistics.mean, statistics.recall), (official["mean"], official["recall"])), (found.name, letter)
        if official["decay"] is not None:
            assert close(statistics.decay, official["decay"]), (found.name, letter)


def check_summary(found, expected):
    assert expected
    for name, value in expected.items():
        assert close(found[name], value), name


def test_davis_2016_equals_the_official_numbers(goldens):
    folder = case_folder(goldens, "davis2016")
    expected = json.loads((folder / "expected.json").read_text())

    found = evaluate(open_pngs(str(folder / "gt")), open_pngs(str(folder / "pred")), Davis2016())

    assert {scores.name for scores in found.objects} == set(expected["sequences"])
    for scores in found.objects:
        check_statistics(scores, expected["sequences"][scores.name])
    check_summary(found.summary, expected["global"])


def test_davis_2017_equals_the_official_numbers(goldens):
    folder = case_folder(goldens, "davis2017")
    expected = json.loads((folder / "expected_semisupervised.json").read_text())

    clip_ids = listed_clips(str(folder / "gt"), None, ("2017",))
    found = evaluate(open_pngs(str(folder / "gt")), open_pngs(str(folder / "pred")), Davis2017(), clip_ids=clip_ids)

    assert {scores.name for scores in found.objects} == set(expected["objects"])
    for scores in found.objects:
        check_statistics(scores, expected["objects"][scores.name])
    check_summary(found.summary, expected["global"])


def check_percent(found, expected):
    official = {
        (clip_id, int(object_id)): values
        for clip_id, objects in expected["videos"].items()
        for object_id, values in objects.items()
    }
    assert {(scores.clip_id, scores.object_id) for scores in found.objects} == set(official)
    for scores in found.objects:
        values = official[scores.clip_id, scores.object_id]
        means = scores.j_statistics.mean * 100, scores.f_statistics.mean * 100
        assert close(means, (values["J"], values["F"])), scores.name
        assert len(scores.j) == values.get("frames", len(scores.j)), scores.name


@pytest.mark.parametrize("rule", ["skip_first_and_last", "all_frames"])
def test_the_rule_of_vos_benchmark_gives_its_numbers(goldens, rule):
    folder = case_folder(goldens, "davis2017")
    expected = json.loads((folder / "expected_vos_benchmark.json").read_text())[rule]

    protocol = VosBenchmark(skip_first_and_last=rule == "skip_first_and_last")
    found = evaluate(open_pngs(str(folder / "gt")), open_pngs(str(folder / "pred")), protocol)

    check_percent(found, expected)
    check_summary(found.summary, expected["global"])


@pytest.mark.parametrize(
    ("rule", "frames"),
    [("skip_first_and_last", "skip-first-and-last"), ("all_frames", "all"), ("after_first_appearance", "after-first")],
)
def test_youtube_vos_gives_the_expected_numbers_by_each_frame_rule(goldens, rule, frames):
    folder = case_folder(goldens, "youtubevos")
    expected = json.loads((folder / "expected.json").read_text())[rule]
    objects = read_meta(str(folder / "valid" / "meta.json"))
    seen = read_seen(str(folder / "categories.json"))

    protocol = YoutubeVos(objects, seen, frames)
    found = evaluate(open_pngs(str(folder / "gt_all")), open_pngs(str(folder / "pred")), protocol)

    check_percent(found, expected)
    check_summary(found.summary, expected["seen_unseen"])


def test_unsupervised_davis_equals_the_official_numbers(goldens):
    folder = case_folder(goldens, "unsupervised")
    expected = json.loads((folder / "expected.json").read_text())

    truth = open_pngs(str(folder / "gt"), annotations="Annotations_unsupervised")
    clip_ids = listed_clips(str(folder / "gt"), None, ("2017", "2019"))
    found = evaluate(truth, open_pngs(str(folder / "pred")), DavisUnsupervised(), clip_ids=clip_ids)

    assert {scores.name for scores in found.objects} == set(expected["objects"])
    for scores in found.objects:
        check_statistics(scores, expected["objects"][scores.name])
    check_summary(found.summary, expected["global"])


def test_real_results_on_real_clips_give_the_official_numbers():
    clips = Path(os.environ.get("RAYVOS_REAL_CLIPS", Path(__file__).parents[2] / "../shared/data/real_clips"))
    if not clips.is_dir():
        pytest.skip(f"no real clips at {clips}; set RAYVOS_REAL_CLIPS")
    expectations = SHARED / "real_osvos_expected.json"
    if not expectations.is_file():
        pytest.skip(f"no expected numbers at {expectations}; set RAYVOS_GOLDENS")
    expected = json.loads(expectations.read_text())["sequences"]

    truth, prediction = open_pngs(str(clips / "DAVIS")), open_pngs(str(clips / "osvos_results"))
    found = evaluate(truth, prediction, Davis2016(), clip_ids=sorted(expected))

    assert len(found.objects) == len(expected)
    for scores in found.objects:
        check_statistics(scores, expected[scores.clip_id])


def test_youtube_vis_equals_the_official_numbers(goldens):
    folder = case_folder(goldens, "youtubevis")
    expected = json.loads((folder / "expected.json").read_text())

    found = evaluate_tracks(str(folder / "gt.json"), str(folder / "results.json"))

    assert set(found.stats) == set(expected["stats"])
    check_summary(found.stats, expected["stats"])
    assert close(IOU_THRESHOLDS.tolist(), expected["iou_thresholds"])
    for name, bounds in expected["area_ranges"].items():
        assert close(AREA_RANGES[name], bounds)
    for position, category_id in enumerate(found.categories):
        official = expected["per_category"][str(category_id)]
        average = found.average_precision(category_id)
        assert (average is None and official["AP"] is None) or close(average, official["AP"])
        for values, name in (
            (found.precision_KTR[position].mean(axis=1), "AP_per_iou"),
            (found.recall_KT[position], "max_recall_per_iou"),
        ):
            wanted = [-1.0 if value is None else value for value in official[name]]  # null: no truth to find
            assert close(values.tolist(), wanted), category_id


def test_track_ious_are_the_official_ones(goldens):
    folder = case_folder(goldens, "youtubevis")
    expected = json.loads((folder / "expected.json").read_text())["track_iou"]["matrix"]

    found = evaluate_tracks(str(folder / "gt.json"), str(folder / "results.json"))

    matrices = {f"{item.video_id}/{item.category_id}": item.ious_DT.tolist() for item in found.tracks}
    for key, matrix in expected.items():
        assert close(np.array(matrices[key]).ravel().tolist(), np.array(matrix).ravel().tolist()), key
