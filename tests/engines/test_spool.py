from __future__ import annotations

import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from rayvos.engines.stcn.spool import ProbabilitySpool
from rayvos.errors import StorageError

MAPS = arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.floats(0, 1, width=32))


@given(st.lists(MAPS, max_size=5))
def test_maps_come_back_to_16_bits_in_any_order(items):
    with ProbabilitySpool() as spool:
        for frame, maps in enumerate(items):
            spool.put(frame, maps)
        for frame, maps in reversed(list(enumerate(items))):
            found = spool.get(frame)
            assert found is not None
            assert found.shape == maps.shape
            assert np.abs(found - maps).max() <= 0.5 / 65535 + 1e-7
        assert spool.get(len(items)) is None


def test_sure_maps_take_little_room():
    maps = np.zeros((3, 120, 216), np.float32)
    maps[:, 30:60, 50:90] = 1
    with ProbabilitySpool() as spool:
        spool.put(0, maps)
        assert len(spool) < maps.nbytes / 50


def test_a_full_folder_is_named():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            ProbabilitySpool() as spool,
            pytest.raises(StorageError, match=r"temporary folder .*could not keep frame 7"),
        ):
            spool.put(7, np.random.default_rng(0).random((1, 50, 50), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
