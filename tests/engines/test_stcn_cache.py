from __future__ import annotations

import torch

from rayvos.engines.stcn.cache import FeatureCache
from rayvos.models.stcn import FrameFeatures

IMAGE = torch.zeros(1, 3, 4, 4)
FEATURES = FrameFeatures(*(torch.zeros(1, 4, 2, 2) for _ in range(5)))
BYTES = 4 * (3 * 16 + 5 * 16)  # of one frame


def test_the_last_frames_that_fit_are_kept_and_each_is_given_once():
    cache = FeatureCache(2 * BYTES)
    for frame in (5, 4, 3):
        cache.put(frame, IMAGE, FEATURES)

    assert cache.without(range(3, 7)) == [5, 6]
    assert cache.take(3) is not None
    assert cache.take(3) is None


def test_nothing_is_kept_where_one_frame_does_not_fit():
    cache = FeatureCache(BYTES - 1)
    cache.put(0, IMAGE, FEATURES)

    assert cache.without([0]) == [0]
