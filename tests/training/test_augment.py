from __future__ import annotations

import numpy as np
import pytest

from rayvos.training.augment import change_gamma, draw_gamma, jitter_colours


def test_gamma_stays_in_the_range_of_the_paper():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_gamma(0.05, rng) for _ in range(2000)])

    assert drawn.min() == pytest.approx(0.815, abs=2e-3)
    assert drawn.max() == pytest.approx(1.227, abs=2e-3)
    assert draw_gamma(0.0, rng) == 1


def test_gamma_keeps_black_white_and_order():
    ramp = np.arange(256, dtype=np.uint8)

    assert np.array_equal(change_gamma(ramp, 1.0), ramp)
    for gamma in (0.8, 1.2):
        changed = change_gamma(ramp, gamma)
        assert (changed[0], changed[-1]) == (0, 255)
        assert (np.diff(changed.astype(int)) >= 0).all()
        assert np.abs(changed - 255 * (ramp / 255) ** gamma).max() <= 0.5


def test_colours_change_a_little_and_only_by_the_generator():
    image = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)

    first = jitter_colours(image, 0.1, np.random.default_rng(2))

    assert np.array_equal(first, jitter_colours(image, 0.1, np.random.default_rng(2)))
    assert not np.array_equal(first, image)
    assert np.abs(first.astype(int) - image).max() < 90
    assert np.array_equal(jitter_colours(image, 0.0, np.random.default_rng(2)), image)
