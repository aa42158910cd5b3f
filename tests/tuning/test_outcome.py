"""What a sweep says: means, intervals, the best and the thriftiest setting, the table and the page."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from rayvos.review.sweep_report import write_sweep_report
from rayvos.tuning.outcome import best_setting, outcome_of, thriftiest_setting, write_results
from rayvos.tuning.spaces import space_of
from rayvos.tuning.trials import TrialResult


def results_of(space, scores):
    return [
        TrialResult(
            varied=setting.varied, seed=seed, seconds=setting.seconds, step=9, stopped_early=False,
            scores={"j_and_f": value},
        )
        for setting, values in zip(space.settings, scores, strict=True)
        for seed, value in enumerate(values)
    ]  # fmt: skip


@pytest.fixture
def points():
    space = space_of("points", values=(1, 5, 20))
    return outcome_of(space, results_of(space, [(0.3, 0.34), (0.58, 0.62), (0.60, 0.64)]), "j_and_f")


def test_means_carry_students_interval(points):
    assert points.scores[1].mean == pytest.approx(0.6)
    assert points.scores[1].half_width == pytest.approx(12.7062 * 0.02, rel=1e-3)


def test_the_thriftiest_of_what_cannot_be_told_apart_is_named(points):
    assert best_setting(points).setting.varied == {"points": 20}
    assert thriftiest_setting(points).setting.varied == {"points": 5}


def test_one_seed_has_no_interval():
    space = space_of("tau", values=(2, float("inf")))

    outcome = outcome_of(space, results_of(space, [(0.5,), (0.4,)]), "j_and_f")

    assert math.isnan(outcome.scores[0].half_width)
    assert thriftiest_setting(outcome) is best_setting(outcome)


def test_pandas_reads_the_table(points, tmp_path):
    write_results(points, str(tmp_path / "results.parquet"))

    table = pd.read_parquet(tmp_path / "results.parquet")

    assert len(table) == 6
    assert table.groupby("points")["j_and_f"].mean().loc[1] == pytest.approx(0.32)


@pytest.mark.parametrize(
    ("sweep", "best"), [("points", "points 5, reference points 10"), ("tau", "tau 5, min score 0.5")]
)
def test_the_page_stands_alone_and_names_the_best(sweep, best, tmp_path):
    space = space_of(sweep, values=(2, 5), series=(0.0, 0.5) if sweep == "tau" else (5, 10))
    outcome = outcome_of(space, results_of(space, [(0.3, 0.4), (0.5, 0.6), (0.2, 0.3), (0.7, 0.8)]), "j_and_f")

    write_sweep_report(outcome, str(tmp_path / "report.html"), title="a sweep")

    page = (tmp_path / "report.html").read_text()
    assert f"Best: {best}" in page
    assert page.count('class="best"') == 1
    assert page.count("<svg") == (2 if sweep == "points" else 1)
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(("seconds", "plots", "told"), [
    ((56, 56, 136, 136), 2, "takes an\nannotator 56 s per object instead of 136 s"),
    ((56, 56, 56, 56), 1, "Every setting takes an annotator 56 s per object of a training clip (box 7 s: extreme"),
    ((56, 56, 56, None), 1, "labels without fine-tuning"),
])  # fmt: skip
def test_tau_is_drawn_against_time_where_settings_differ_in_it(seconds, plots, told, tmp_path):
    space = space_of("tau", values=(2, 5), finetuned=True)
    settings = [dataclasses.replace(one, seconds=spent) for one, spent in zip(space.settings, seconds, strict=True)]
    space = dataclasses.replace(space, settings=tuple(settings))
    outcome = outcome_of(space, results_of(space, [(0.3, 0.4), (0.6, 0.8), (0.2, 0.3), (0.7, 0.8)]), "j_and_f")

    write_sweep_report(outcome, str(tmp_path / "report.html"), title="a sweep")

    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == plots
    assert told in page
