"""Metrics against numbers of the public evaluators; every case of the folder is run, whatever its name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rayvos.evaluation.boundary_f import boundary_f
from rayvos.evaluation.jaccard import jaccard
from rayvos.evaluation.outlines import boundary_radius, disk_half_heights, outline
from rayvos.evaluation.statistics import summarize

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens")) / "eval"
if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
ABSOLUTE = 1e-9  # integer counts followed by one division


def close(found, expected) -> bool:
    return found == pytest.approx(expected, abs=ABSOLUTE, rel=0, nan_ok=True)


@pytest.fixture(scope="module")
def pairs_expected():
    return json.loads((GOLDENS / "pairs_expected.json").read_text())


def test_every_pair_has_the_official_j_and_f(pairs_expected):
    masks = np.load(GOLDENS / "pairs.npz")
    wrong = []
    for case in pairs_expected["pairs"]:
        truth, mask = (masks[f"{kind}_{case['id']}"].astype(bool) for kind in ("gt", "pred"))
        void = masks[f"void_{case['id']}"].astype(bool) if case["void"] else None
        found = jaccard(truth, mask, void), boundary_f(truth, mask, void, bound_th=case["bound_th"])
        if not close(found, (case["J"], case["F"])):
            wrong.append((case["name"], found, case["J"], case["F"]))
    assert pairs_expected["pairs"]
    assert wrong == []


def test_every_pair_has_the_official_number_of_boundary_pixels(pairs_expected):
    masks = np.load(GOLDENS / "pairs.npz")
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


def test_boundaries_are_the_official_ones():
    maps = np.load(GOLDENS / "boundary_maps.npz")
    names = [name.removeprefix("mask_") for name in maps.files if name.startswith("mask_")]
    assert names
    for name in names:
        mask, expected = maps[f"mask_{name}"].astype(bool), maps[f"boundary_{name}"].astype(bool)
        words = outline(mask[None], 0).boundaries_NHW[0]
        bits = np.unpackbits(words.view(np.uint8).reshape(mask.shape[0], -1), axis=1, bitorder="little")
        assert np.array_equal(bits[:, : mask.shape[1]].astype(bool), expected), name
        assert not bits[:, mask.shape[1] :].any()


def test_every_list_has_the_official_statistics(pairs_expected):
    for case in pairs_expected["statistics"]:
        found = summarize([float("nan") if value is None else value for value in case["values"]])
        assert close((found.mean, found.recall), (case["mean"], case["recall"])), case["n"]
        if case["decay"] is not None:  # official decay overflows from 256 frames on
            assert close(found.decay, case["decay"]), case["n"]
        assert np.isfinite(found.decay)
