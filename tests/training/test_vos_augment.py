"""Crops, warps and mirrors: pictures, label maps and points move together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.training.vos_augment import STATIC, Warp, draw_clip_look, show_frame
from rayvos.training.vos_clips import FrameView, PointSet

HEIGHT, WIDTH, SIZE = 90, 130, 96
STILL = Warp(degrees=0, shear=0)


def view_with_blob(x: float, y: float) -> FrameView:
    """Return a frame with a disc of radius 6 around a point, black in the picture's red, too."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    labels = (np.hypot(columns - x, rows - y) <= 6).astype(np.uint8)
    image = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    image[labels == 1] = 20
    return FrameView(image, labels, PointSet.of([(1, x, y, True), (1, 3.0, 4.0, False)]))


@given(st.integers(0, 10_000), st.integers(30, 100), st.integers(25, 65))
def test_points_move_as_the_pixels_do(seed, x, y):
    rng = np.random.default_rng(seed)
    look = draw_clip_look(rng, HEIGHT, WIDTH, SIZE)

    shown = show_frame(rng, view_with_blob(x, y), look, Warp())

    rows, columns = np.nonzero(shown.labels)
    positives = shown.points.xy_P2[shown.points.positive_P]
    cut = rows.size == 0 or min(rows.min(), columns.min()) == 0 or max(rows.max(), columns.max()) == SIZE - 1
    if not cut:
        assert np.abs(positives[0] - (columns.mean(), rows.mean())).max() < 0.5
        assert shown.image[rows, columns].mean() < shown.image.mean()


@given(st.integers(0, 10_000))
def test_points_outside_the_sample_are_gone(seed):
    rng = np.random.default_rng(seed)

    shown = show_frame(rng, view_with_blob(60, 40), draw_clip_look(rng, HEIGHT, WIDTH, SIZE), Warp())

    assert ((shown.points.xy_P2 >= 0) & (shown.points.xy_P2 <= SIZE - 1)).all()


def test_all_frames_of_a_sample_get_one_crop():
    rng = np.random.default_rng(5)
    look = draw_clip_look(rng, HEIGHT, WIDTH, SIZE)
    view = view_with_blob(60, 40)

    first, second = show_frame(rng, view, look, STILL), show_frame(rng, view, look, STILL)

    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.points.xy_P2, second.points.xy_P2)


@pytest.mark.parametrize("warp", [Warp(), STATIC])
def test_the_same_generator_gives_the_same_sample(warp):
    samples = []
    for _ in range(2):
        rng = np.random.default_rng(11)
        samples.append(show_frame(rng, view_with_blob(60, 40), draw_clip_look(rng, HEIGHT, WIDTH, SIZE), warp))

    assert np.array_equal(samples[0].image, samples[1].image)
    assert np.array_equal(samples[0].labels, samples[1].labels)
