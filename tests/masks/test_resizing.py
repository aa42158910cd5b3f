from __future__ import annotations

import numpy as np
import pytest

from rayvos.masks.resizing import resize_plane


def test_a_plane_that_shrinks_keeps_the_means_of_its_areas():
    plane = np.random.default_rng(0).random((12, 20)).astype(np.float32)

    found = resize_plane(plane, 3, 5)

    np.testing.assert_allclose(found, plane.reshape(3, 4, 5, 4).mean((1, 3)), atol=1e-6)


@pytest.mark.parametrize("size", [(12, 20), (30, 20), (5, 40)])
def test_sizes_are_height_and_width_with_any_number_of_channels(size):
    plane = np.ones((12, 20, 3), np.float32)

    assert resize_plane(plane, *size).shape == (*size, 3)
    np.testing.assert_allclose(resize_plane(plane, *size), 1, atol=1e-6)
