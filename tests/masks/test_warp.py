from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayvos.masks.warp import warp_back


@given(st.integers(-6, 6), st.integers(-6, 6), st.integers(0, 9))
def test_a_picture_moved_by_whole_pixels_comes_back(dx, dy, seed):
    first = np.random.default_rng(seed).random((12, 15)).astype(np.float32)
    other = np.roll(first, (dy, dx), (0, 1))
    flow = np.broadcast_to(np.float32([dx, dy]), (12, 15, 2)).copy()

    warped = warp_back(other, flow)

    y, x = np.mgrid[:12, :15]
    visible = (y + dy >= 0) & (y + dy < 12) & (x + dx >= 0) & (x + dx < 15)
    np.testing.assert_allclose(warped[visible], first[visible], atol=1e-6)
    assert not warped[~visible].any()


def test_no_motion_changes_nothing_with_any_number_of_channels():
    image = np.random.default_rng(0).random((5, 6, 3)).astype(np.float32)

    np.testing.assert_allclose(warp_back(image, np.zeros((5, 6, 2), np.float32)), image, atol=1e-6)
