from __future__ import annotations

import numpy as np
import pytest

from rayvos.errors import ShapeError
from rayvos.masks.traces import render_trace, trace_square


def test_a_trace_is_drawn_where_it_passes_even_if_it_starts_outside():
    mask = render_trace([np.array([[-20.0, 5.0], [30.0, 5.0]])], 12, 16)
    assert mask[4:7].all()
    assert not mask[:4].any()
    assert not mask[7:].any()


def test_a_trace_outside_the_frame_has_no_pixel_and_no_square():
    mask = render_trace([np.array([[100.0, 5.0], [100.0, 9.0]])], 12, 16)
    assert not mask.any()
    with pytest.raises(ShapeError, match="expected pixels inside the frame"):
        trace_square(mask)


@pytest.mark.parametrize("part", [np.zeros((0, 2)), np.zeros((3, 3)), np.array([[np.nan, 1.0]])])
def test_a_trace_without_positions_is_refused(part):
    with pytest.raises(ShapeError, match="trace: expected finite positions"):
        render_trace([part], 12, 16)
