"""Candidates as Point-VOS json, as a table and as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rayvos.annotations.formats.point_vos import read_point_vos
from rayvos.annotations.run_folder import read_candidates
from rayvos.errors import UsageError
from rayvos.review.export_options import ExportOptions
from rayvos.review.exports import export_run
from tests.pipelines.test_candidate_sharding import mine_here
from tests.pipelines.test_candidates import candidates_on, make_traced


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with the candidates of two clips of two objects."""
    folder = tmp_path_factory.mktemp("candidates")
    job = candidates_on(make_traced(folder, 2), folder / "run")
    mine_here(job, 1)
    return job.out


def test_point_vos_json_holds_every_candidate_and_takes_the_answers_back(run: str, tmp_path: Path) -> None:
    summary = export_run(run, str(tmp_path / "out"), ExportOptions("point-vos"))

    path = tmp_path / "out" / "points.json"
    records = json.loads(path.read_text())
    points = [point for record in records.values() for point in record["annotated_points"]]
    statuses = ("ACCEPTED", "REJECTED", "AMBIGUOUS")
    for number, point in enumerate(points):
        point |= {"status": statuses[number % 3], "annotator": "ann", "seconds": number / 8}
    path.write_text(json.dumps(records))
    clips = list(read_point_vos(str(path), manifest=str(Path(run).parent / "clips.parquet")))
    assert (summary.clips, summary.files) == (2, 1)
    assert len(records) == 4
    assert len(points) == read_candidates(run).num_rows > 0
    assert [clip.clip_id for clip in clips] == ["clip0", "clip1"]
    verified = [point for clip in clips for point in clip.points]
    assert len(verified) == len(points)
    assert {point.annotator for point in verified} == {"ann"}
    given = {point["seconds"]: (point["x"], point["y"], int(point["frame_id"]), point["status"]) for point in points}
    status_of = dict(zip(("positive", "negative", "ambiguous"), statuses, strict=True))
    back = {point.seconds: (point.x, point.y, point.frame, status_of[point.label]) for point in verified}
    assert back == given


def test_accepted_points_are_as_precise_as_the_annotators_error_rate_says(run: str, tmp_path: Path) -> None:
    """Point-VOS: annotators whose answers are wrong at random, each group within two standard deviations."""
    error_rate, num_annotators = 0.2, 8
    generator = np.random.default_rng(0)
    export_run(run, str(tmp_path / "out"), ExportOptions("point-vos"))
    path = tmp_path / "out" / "points.json"
    records = json.loads(path.read_text())
    points = [point for record in records.values() for point in record["annotated_points"]]
    kinds = np.array([point["kind"] for point in points])
    on_object = generator.random(len(points)) < [0.1 + 0.8 * point["probability"] for point in points]

    accepted = np.zeros((num_annotators, len(points)), bool)
    for found in accepted:
        answers = on_object ^ (generator.random(len(points)) < error_rate)
        for number, (point, answer) in enumerate(zip(points, answers, strict=True)):
            point |= {"status": "ACCEPTED" if answer else "REJECTED", "seconds": number}
        path.write_text(json.dumps(records))
        for clip in read_point_vos(str(path), manifest=str(Path(run).parent / "clips.parquet")):
            for verified in clip.points:
                found[int(verified.seconds or 0)] = verified.label == "positive"

    variance = error_rate * (1 - error_rate)
    for kind in ("foreground", "ambiguous", "background"):
        num_on, num_off = (num_annotators * int((here & (kinds == kind)).sum()) for here in (on_object, ~on_object))
        right, wrong = (int(accepted[:, here & (kinds == kind)].sum()) for here in (on_object, ~on_object))
        assert min(num_on, num_off) > 0
        assert abs(right / num_on - (1 - error_rate)) <= 2 * np.sqrt(variance / num_on)
        expected_right, expected_wrong = num_on * (1 - error_rate), num_off * error_rate
        precision = expected_right / (expected_right + expected_wrong)
        # Of a quotient of two independent counts, to first order.
        slope_right, slope_wrong = (1 - precision), precision
        deviation = np.sqrt(variance * (slope_right**2 * num_on + slope_wrong**2 * num_off))
        assert abs(right / (right + wrong) - precision) <= 2 * deviation / (expected_right + expected_wrong)


def test_the_table_holds_every_candidate(run: str, tmp_path: Path) -> None:
    export_run(run, str(tmp_path / "out"), ExportOptions("parquet"))

    assert read_candidates(str(tmp_path / "out" / "candidates.parquet")).equals(read_candidates(run))


def test_a_sheet_shows_each_objects_key_frame_and_some_frames(run: str, tmp_path: Path) -> None:
    export_run(run, str(tmp_path / "out"), ExportOptions("contact-sheet", rows=2))

    sheet = cv2.imread(str(tmp_path / "out" / "clip0.jpg"))
    assert sheet.shape[0] > 2 * 3 * 48  # of each object: the key frame and two more
    assert sheet.shape[1] > 2 * 66


@pytest.mark.parametrize("name", ["davis", "coco", "overlay"])
def test_candidates_are_not_written_as_masks(run: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"--format {name}: .* holds candidates; choose from contact-sheet, parquet"):
        export_run(run, str(tmp_path / "out"), ExportOptions(name))  # type: ignore[arg-type]


def test_candidates_have_no_score_to_filter_by(run: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds candidates, which have no score"):
        export_run(run, str(tmp_path / "out"), ExportOptions("parquet", min_score=0.5))
