"""What sweeps vary, and what it costs an annotator."""

from __future__ import annotations

import pytest

from rayvos.errors import UsageError
from rayvos.tuning.spaces import Costs, space_of


def test_tau_is_crossed_with_the_filter():
    space = space_of("tau", values=(2, float("inf")), series=(0, 0.5))

    assert [setting.name for setting in space.settings] == [
        "tau=2,min_score=0", "tau=inf,min_score=0", "tau=2,min_score=0.5", "tau=inf,min_score=0.5",
    ]  # fmt: skip
    assert space.settings[2].options == {"loss": "huberised", "tau": "2", "min_score": "0.5"}
    assert all(setting.seconds is None for setting in space.settings)


def test_tau_is_crossed_with_labels_made_with_fine_tuning():
    space = space_of("tau", values=(2,), series=(0, 0.5), finetuned=True)

    assert space.series == ("min_score", "finetuned")
    assert [(setting.name, setting.finetuned) for setting in space.settings] == [
        ("tau=2,min_score=0,finetuned=0", False), ("tau=2,min_score=0.5,finetuned=0", False),
        ("tau=2,min_score=0,finetuned=1", True), ("tau=2,min_score=0.5,finetuned=1", True),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="compared by sweep 'tau'"):
        space_of("points", finetuned=True)


def test_frames_cost_masks_and_points_cost_points():
    frames = space_of("frames", values=(5,), costs=Costs(mask_s=60))
    points = space_of("points", values=(10,))

    assert frames.settings[0].seconds == 300
    assert points.settings[0].seconds == pytest.approx(95)  # ten points on each of ten frames at 0.95 s


def test_times_name_their_source_unless_they_are_ones_own():
    assert space_of("frames").times == "mask 80 s: Point-VOS"
    assert space_of("tau", finetuned=True, costs=Costs(mask_s=60)).times == (
        "box 7 s: extreme clicking, 2017; mask 60 s: as given"
    )


def test_training_shows_no_more_reference_points_than_there_are():
    space = space_of("points", values=(2, 20), series=(5,))

    assert [setting.options["reference_points"] for setting in space.settings] == ["2", "5"]
    assert {setting.options["validated_points"] for setting in space.settings} == {"5"}


@pytest.mark.parametrize(("sweep", "values", "series", "message"), [
    ("taus", (), (), "did you mean 'tau'"), ("tau", (0.5,), (), "from 1"), ("tau", (), (2,), "from 0 to 1"),
    ("frames", (1,), (), "from 2"), ("frames", (2.5,), (), "whole"), ("frames", (), (1,), "one axis"),
    ("points", (0,), (), "from 1"),
])  # fmt: skip
def test_impossible_values_are_named(sweep, values, series, message):
    with pytest.raises(UsageError, match=message):
        space_of(sweep, values=values, series=series)
