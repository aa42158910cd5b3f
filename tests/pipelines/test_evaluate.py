from __future__ import annotations

from pathlib import Path

import pytest

from rayvos.errors import FrameMissingError
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.protocols import Davis2017
from rayvos.evaluation.scoring import evaluate
from rayvos.pipelines.evaluate import run_on_ray
from tests.evaluation.drawings import draw, write_labels, write_pngs

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

CLIPS = {f"clip{index:02d}": draw(5, shift=index % 3) for index in range(20)}


def test_a_cluster_gives_what_one_process_gives(tmp_path: Path) -> None:
    truth = open_masks(write_pngs(tmp_path / "gt", {name: draw(5) for name in CLIPS}))
    prediction = open_masks(write_labels(tmp_path / "labels.parquet", CLIPS))
    done: list[int] = []

    here = evaluate(truth, prediction, Davis2017())
    there = evaluate(truth, prediction, Davis2017(), run=run_on_ray(3), on_clips=done.append)

    assert here == there
    assert sum(done) == len(CLIPS)


def test_an_error_on_the_cluster_arrives_as_itself(tmp_path: Path) -> None:
    truth = open_masks(write_pngs(tmp_path / "gt", CLIPS))
    write_pngs(tmp_path / "pred", CLIPS)
    (tmp_path / "pred/clip07/00002.png").unlink()

    with pytest.raises(FrameMissingError, match="pred/clip07"):
        evaluate(truth, open_masks(str(tmp_path / "pred")), Davis2017(), run=run_on_ray(3))
