"""The official boundary rule, its odd corners included."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rayvos.masks.boundaries import boundary_map

GOLDENS = Path(os.environ.get("RAYVOS_GOLDENS", Path(__file__).parents[2] / "../shared/goldens"))
GOLDEN = GOLDENS / "eval" / "boundary_maps.npz"


def test_a_square_in_the_middle_has_its_inner_and_upper_left_outline():
    mask = np.zeros((6, 6), np.bool_)
    mask[2:4, 2:4] = True

    expected = np.zeros((6, 6), np.bool_)
    expected[1, 1:4] = expected[2, 1] = expected[3, 1] = expected[3, 2] = expected[2, 3] = expected[3, 3] = True
    assert np.array_equal(boundary_map(mask), expected)


def test_a_mask_that_fills_the_frame_has_no_boundary():
    assert not boundary_map(np.ones((5, 7), np.bool_)).any()


def test_a_lone_pixel_in_the_last_corner_is_seen_by_its_upper_left_neighbours_only():
    mask = np.zeros((4, 4), np.bool_)
    mask[3, 3] = True

    assert np.argwhere(boundary_map(mask)).tolist() == [[2, 2], [2, 3], [3, 2]]


def test_boundaries_are_the_golden_ones():
    if not GOLDEN.is_file():
        pytest.skip(f"no golden file {GOLDEN}; set RAYVOS_GOLDENS")
    golden = np.load(GOLDEN)
    names = [name.removeprefix("mask_") for name in golden.files if name.startswith("mask_")]

    assert names
    for name in names:
        np.testing.assert_array_equal(boundary_map(golden[f"mask_{name}"] > 0), golden[f"boundary_{name}"] > 0, name)
