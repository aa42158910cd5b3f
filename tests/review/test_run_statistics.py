import numpy as np
import pyarrow as pa
import pytest

from rayvos.annotations.label_rows import LabelRow, encode_mask, rows_to_table
from rayvos.annotations.records import Clip, ClipSource, ObjectInfo
from rayvos.annotations.tables import LABELS
from rayvos.review.run_statistics import RunStatistics

MASK = np.ones((4, 5), np.bool_)


def table_of(
    clip_id: str, scores: dict[tuple[int, int], float | None], human: tuple[tuple[int, int], ...] = ()
) -> pa.Table:
    objects = tuple(ObjectInfo(object_id) for object_id in sorted({object_id for _, object_id in scores}))
    clip = Clip(clip_id, ClipSource("images", "x"), 4, 5, 1 + max(frame for frame, _ in scores), objects=objects)
    rows = [
        LabelRow(
            frame, object_id, None if score is None else encode_mask(MASK), score,
            {} if score is None else {"margin": score / 2}, (frame, object_id) in human,
        )
        for (frame, object_id), score in sorted(scores.items())
    ]  # fmt: skip
    return rows_to_table(clip, rows, engine="cut", weights="")


def test_counts_leave_out_absences_and_what_people_drew():
    statistics = RunStatistics(low_score=0.5)

    statistics.add("a", table_of("a", {(0, 1): 0.2, (1, 1): 0.8, (0, 2): None, (1, 2): 1.0}, human=((1, 2),)))

    assert (statistics.num_masks, statistics.num_absent, statistics.num_human) == (2, 1, 1)
    assert (statistics.num_clips, statistics.num_frames, statistics.num_low) == (1, 2, 1)
    assert statistics.mean_score == pytest.approx(0.5)
    assert statistics.histogram.sum() == 2
    assert statistics.quality_means() == {"margin": pytest.approx(0.25)}


def test_the_worst_label_of_each_object_comes_worst_first():
    statistics = RunStatistics(num_worst=3)
    statistics.add("a", table_of("a", {(0, 1): 0.3, (1, 1): 0.1, (0, 2): 0.6, (1, 2): 0.7}))
    statistics.add("b", table_of("b", {(0, 1): 0.2, (0, 2): 0.9}))

    found = [(label.clip_id, label.object_id, label.frame) for label in statistics.worst_labels()]

    assert found == [("a", 1, 1), ("b", 1, 0), ("a", 2, 0)]


def test_the_worst_clips_come_first_and_clips_without_masks_last():
    statistics = RunStatistics(num_clips_kept=3)
    for name, score in (("good", 0.9), ("empty", None), ("bad", 0.1), ("middle", 0.5)):
        statistics.add(name, table_of(name, {(0, 1): score}))

    assert [clip.clip_id for clip in statistics.worst_clips()] == ["bad", "middle", "good"]
    assert statistics.num_clips == 4


def test_equal_scores_keep_the_order_of_the_manifest():
    statistics = RunStatistics(num_worst=2)
    for name in ("a", "b", "c"):
        statistics.add(name, table_of(name, {(0, 1): 0.5}))

    assert [label.clip_id for label in statistics.worst_labels()] == ["a", "b"]


def test_what_is_kept_does_not_grow_with_the_run():
    statistics = RunStatistics(num_worst=4, num_clips_kept=5)
    scores = np.random.default_rng(0).random(200)
    for number, score in enumerate(scores):
        statistics.add(f"{number}", table_of(f"{number}", {(0, 1): float(score)}))

    assert [label.score for label in statistics.worst_labels()] == pytest.approx(sorted(scores)[:4])
    assert len(statistics.worst_clips()) == 5
    assert statistics.num_masks == 200


def test_an_empty_table_and_no_table_give_no_mean():
    statistics = RunStatistics()
    assert statistics.mean_score is None

    statistics.add("a", LABELS.empty_table())

    assert statistics.mean_score is None
    assert statistics.worst_labels() == []
