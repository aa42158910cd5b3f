from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import EngineChoice, load_engine
from rayvos.engines.score_calibration import (
    CalibratedEngine,
    ScoreCalibration,
    calibration_beside,
    read_calibration,
    write_calibration,
)
from rayvos.errors import FormatError, UsageError
from rayvos.models.registry import build_model, packaged_weights
from rayvos.models.weights import save_weights
from tests.engines_for_tests import BoxFillEngine
from tests.ray_cluster import make_clip

CURVE = ScoreCalibration(engine="boxfill", weights="", scores=(0.2, 0.6, 0.9), ious=(0.1, 0.5, 0.8), num_masks=7)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_calibrated_score_never_falls_where_the_score_rises(scores):
    found = [CURVE.apply(score) for score in sorted(scores)]

    assert found == sorted(found)
    assert all(0.1 <= value <= 0.8 for value in found)


def test_a_calibration_reads_back(tmp_path):
    path = str(tmp_path / "a b.calibration.json")
    write_calibration(CURVE, path)

    assert read_calibration(path) == CURVE
    assert read_calibration(path).digest() == CURVE.digest()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", json.dumps({"rayvos_calibration": 2}), json.dumps({"rayvos_calibration": 1, "engine": "cut"})],
)
def test_a_file_that_is_no_calibration_is_refused_by_name(tmp_path, text):
    path = tmp_path / "curve.json"
    path.write_text(text)

    with pytest.raises(FormatError, match=r"curve\.json"):
        read_calibration(str(path))


@pytest.mark.parametrize(
    ("scores", "ious"),
    [((), ()), ((0.1, 0.1), (0.1, 0.2)), ((0.1, 0.2), (0.3, 0.2)), ((0.1,), (1.2,)), ((float("nan"),), (0.5,))],
)
def test_a_curve_that_falls_or_leaves_the_range_is_refused(scores, ious):
    with pytest.raises(FormatError, match="never fall"):
        ScoreCalibration(engine="cut", weights="", scores=scores, ious=ious)


def test_a_calibrated_engine_changes_scores_and_nothing_else(tmp_path):
    clip = make_clip(tmp_path / "clip")
    engine = BoxFillEngine()

    plain = label_clip(engine, clip).to_pylist()
    mapped = label_clip(CalibratedEngine(engine, CURVE), clip).to_pylist()

    changed = {"score", "quality"}
    keep = [{key: value for key, value in row.items() if key not in changed} for row in plain]
    assert [{key: value for key, value in row.items() if key not in changed} for row in mapped] == keep
    for before, after in zip(plain, mapped, strict=True):
        if before["present"]:
            assert after["score"] == pytest.approx(CURVE.apply(before["score"]), abs=1e-6)  # stored as float32
            assert dict(after["quality"])["raw_score"] == before["score"]


def test_another_engines_calibration_is_refused():
    other = ScoreCalibration(engine="cut", weights="", scores=(0.5,), ious=(0.5,))

    with pytest.raises(UsageError, match="engine 'cut' with weights none, but this is 'boxfill'"):
        CalibratedEngine(BoxFillEngine(), other)


def test_a_named_calibration_is_part_of_what_labels_depend_on(tmp_path):
    path = str(tmp_path / "curve.json")
    write_calibration(CURVE, path)
    place = "tests.engines_for_tests:BoxFillEngine"

    plain, mapped = load_engine(place), EngineChoice(place, calibration=path).load()

    assert mapped.options() == {**plain.options(), "calibration": CURVE.digest()}
    assert isinstance(load_engine(place, calibration="none"), BoxFillEngine)


def test_the_calibration_beside_the_weights_is_found_by_name():
    assert calibration_beside("s3://bucket/run 1/best.safetensors") == "s3://bucket/run 1/best.calibration.json"
    assert calibration_beside("best.safetensors") == "best.calibration.json"


def test_a_calibration_beside_the_weights_is_used_unless_it_is_refused(tmp_path):
    model = {"size": 32, "widths": [4, 4, 4, 4, 4]}
    path = str(tmp_path / "my small.safetensors")
    digest = save_weights(path, build_model("guided", model).state_dict(), architecture="guided", model=model)
    curve = replace(CURVE, engine="guided", weights=digest)
    write_calibration(curve, calibration_beside(path))

    found = load_engine("guided", weights=path, device="cpu")

    assert found.options()["calibration"] == curve.digest()
    assert found.needs() == load_engine("guided", weights=path, device="cpu", calibration="none").needs()
    write_calibration(replace(curve, weights="another"), calibration_beside(path))
    with pytest.raises(UsageError, match="weights another, but this is 'guided'"):
        load_engine("guided", weights=path, device="cpu")


def test_packaged_weights_come_with_a_calibration_that_is_theirs_and_used():
    raw, found = load_engine("guided", device="cpu", calibration="none"), load_engine("guided", device="cpu")

    assert isinstance(found, CalibratedEngine)
    assert found.weights == raw.weights
    curve = read_calibration(calibration_beside(packaged_weights()["guided"]))
    assert found.options()["calibration"] == curve.digest()
    assert curve.apply(0) == 0
