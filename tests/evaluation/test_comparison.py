from __future__ import annotations

import numpy as np
import pytest

from rayvos.errors import FormatError, InputError
from rayvos.evaluation.comparison import compare, read_object_means
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.plots import plot_comparison
from rayvos.evaluation.protocols import Davis2017
from rayvos.evaluation.results import write_csv, write_json
from rayvos.evaluation.scoring import evaluate
from tests.evaluation.drawings import draw, write_pngs


def means(values):
    return {
        (f"c{index}", 1): dict.fromkeys(("J&F-Mean", "J-Mean", "F-Mean"), value) for index, value in enumerate(values)
    }


def test_json_and_csv_give_the_same_means(tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", {"a": draw(), "b": draw()}))
    found = evaluate(
        truth, open_masks(write_pngs(tmp_path / "p", {"a": draw(shift=1), "b": draw(shift=3)})), Davis2017()
    )

    write_json(found, str(tmp_path / "x.json"))
    write_csv(found.objects, str(tmp_path / "x.csv"))

    assert read_object_means(str(tmp_path / "x.json")) == read_object_means(str(tmp_path / "x.csv"))
    assert len(read_object_means(str(tmp_path / "x.csv"))) == 4


def test_a_result_does_not_differ_from_itself():
    (metric, *_) = compare(means([0.2, 0.9]), means([0.2, 0.9])).metrics

    assert (metric.difference, metric.low, metric.high, metric.share_better) == (0, 0, 0, 0.5)


def test_the_interval_holds_the_difference_and_is_the_same_for_the_same_seed():
    rng = np.random.default_rng(3)
    first = rng.uniform(0.3, 0.9, 30)
    second = first + rng.normal(0.05, 0.02, 30)

    found, again, other = (compare(means(first), means(second), seed=seed) for seed in (1, 1, 2))

    metric = found.metrics[0]
    assert metric.low < metric.difference < metric.high
    assert metric.difference == pytest.approx((second - first).mean())
    spread = (second - first).std(ddof=1) / np.sqrt(30)
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert found == again
    assert found.metrics[0].low != other.metrics[0].low


def test_objects_of_one_side_are_left_out_and_named():
    found = compare(means([0.1, 0.2, 0.3]), means([0.1, 0.4]))

    assert found.num_objects == 2
    assert found.only_first == ("c2 1",)
    assert [clip.clip_id for clip in found.clips] == ["c1", "c0"]


def test_results_without_a_shared_object_are_refused():
    with pytest.raises(InputError, match="no object in common"):
        compare(means([0.1]), {("z", 1): means([0.1])["c0", 1]})


@pytest.mark.parametrize("name", ["x.json", "x.csv"])
def test_a_file_that_is_no_result_is_named(name, tmp_path):
    (tmp_path / name).write_text("clip_id\na\n" if name.endswith("csv") else '{"a": 1}')

    with pytest.raises(FormatError, match=name):
        read_object_means(str(tmp_path / name))


@pytest.mark.parametrize("count", [1, 100])
def test_the_plot_is_an_svg_that_names_clips(count):
    rng = np.random.default_rng(0)

    svg = plot_comparison(compare(means(rng.random(count)), means(rng.random(count)), draws=50))

    assert svg.startswith("<svg")
    assert ">c0<" in svg or count > 1
