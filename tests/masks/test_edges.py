from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.masks.edges import enlarge_along_edges


def disc(side, radius):
    y, x = np.mgrid[:side, :side]
    return (x - side / 2 + 0.5) ** 2 + (y - side / 2 + 0.5) ** 2 < radius**2


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_edges_follow_the_pictures():
    truth = disc(320, 100)
    picture = np.where(truth[..., None], (200, 60, 40), (40, 90, 160)).astype(np.uint8)
    coarse = cv2.resize(disc(320, 103).astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)

    found = enlarge_along_edges(coarse, picture) >= 0.5
    resized = cv2.resize(coarse, (320, 320), interpolation=cv2.INTER_LINEAR) >= 0.5

    assert iou(found, truth) > 0.99 > iou(resized, truth)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 9))
def test_values_stay_probabilities_at_the_pictures_size(height, width, side, seed):
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)

    found = enlarge_along_edges(generator.random((side, side)).astype(np.float32), picture)

    assert found.shape == (height, width)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_what_is_equal_everywhere_stays_so(value):
    picture = np.random.default_rng(0).integers(0, 256, (70, 50, 3)).astype(np.uint8)

    found = enlarge_along_edges(np.full((16, 16), value, np.float32), picture)

    np.testing.assert_allclose(found, value, atol=1e-4)


def test_in_a_picture_of_one_colour_the_mask_is_only_smoothed():
    coarse = np.zeros((32, 32), np.float32)
    coarse[:, 16:] = 1

    found = enlarge_along_edges(coarse, np.full((64, 64, 3), 90, np.uint8))

    assert (found[:, :24] < 0.1).all()
    assert (found[:, 40:] > 0.9).all()
    assert (np.diff(found, axis=1) >= -1e-5).all()
