from __future__ import annotations

import numpy as np
import pytest

from rayvos.annotations.label_rows import LabelRow, encode_mask, rows_to_table
from rayvos.annotations.records import Clip, ClipSource, ObjectInfo
from rayvos.errors import IdError
from rayvos.evaluation.true_scores import TrueScores
from tests.evaluation.drawings import draw, write_pngs

SIZE = draw(1)[0].shape
CLIP = Clip("a", ClipSource("images", "a", tuple(f"{i:05d}.jpg" for i in range(4))), *SIZE, 4,
            objects=(ObjectInfo(1), ObjectInfo(2)))  # fmt: skip


def labels(maps, human=()):
    rows = [
        LabelRow(frame, object_id, encode_mask(ids == object_id), 0.25, human=(frame, object_id) in human)
        for frame, ids in enumerate(maps)
        for object_id in (1, 2)
    ]
    return rows_to_table(CLIP, rows, engine="cut", weights="")


def scores(table):
    return {(row["frame"], row["object_id"]): row["score"] for row in table.to_pylist()}


def test_scores_become_ious_where_the_truth_is_known(tmp_path):
    truth = TrueScores(write_pngs(tmp_path / "gt", {"a": draw(2)}), ["a"])  # of the first two frames

    found = scores(truth.judge(CLIP, labels(draw(4, shift=2), human=[(1, 2)])))

    assert found[0, 1] == found[0, 2] == found[1, 1] == pytest.approx(8 / 12)
    assert found[1, 2] == 0.25  # a person's
    assert found[2, 1] == found[3, 2] == 0.25  # no truth


def test_a_mask_of_an_absent_object_scores_nothing(tmp_path):
    true = draw(4)
    true[2][true[2] == 2] = 0
    truth = TrueScores(write_pngs(tmp_path / "gt", {"a": true}), ["a"])

    found = scores(truth.judge(CLIP, labels(draw(4))))

    assert found[2, 2] == 0
    assert found[2, 1] == found[1, 2] == 1


def test_clips_without_truth_keep_their_scores_and_foreign_ids_are_refused(tmp_path):
    table = labels(draw(4))
    assert TrueScores(write_pngs(tmp_path / "b", {"b": draw(4)}), ["a"]).judge(CLIP, table).equals(table)

    foreign = [np.where(ids == 0, 0, ids + 7).astype(np.uint8) for ids in draw(4)]
    with pytest.raises(IdError, match=r"expected some of the objects \[1, 2\], found \[8, 9\]"):
        TrueScores(write_pngs(tmp_path / "c", {"a": foreign}), ["a"]).judge(CLIP, table)
