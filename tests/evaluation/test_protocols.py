from __future__ import annotations

import numpy as np
import pytest

from rayvos.errors import DecodeError, FrameMissingError, FrameSizeError, IdError, InputError, UsageError
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.protocols import Davis2016, Davis2017, SparseFrames, VosBenchmark, YoutubeVos
from rayvos.evaluation.results import read_evaluation, write_csv, write_json
from rayvos.evaluation.scoring import evaluate, group_clips
from rayvos.evaluation.tasks import run_in_processes
from rayvos.evaluation.unsupervised import DavisUnsupervised
from tests.evaluation.drawings import draw, write_pngs

META = {"a": {1: ("cat", "00000"), 2: ("dog", "00000")}}
ALL_PROTOCOLS = [
    Davis2016(), Davis2017(), DavisUnsupervised(), VosBenchmark(), SparseFrames(), YoutubeVos(META, frozenset({"cat"})),
]  # fmt: skip
named = pytest.mark.parametrize("protocol", ALL_PROTOCOLS, ids=lambda protocol: protocol.name)


def score(tmp_path, truth, prediction, protocol, **options):
    source = open_masks(write_pngs(tmp_path / "gt", {"a": truth}))
    return evaluate(source, open_masks(write_pngs(tmp_path / "pred", {"a": prediction})), protocol, **options)


@named
def test_a_perfect_prediction_is_perfect(protocol, tmp_path):
    found = score(tmp_path, draw(), draw(), protocol)

    assert all(set(scores.j) == set(scores.f) == {1.0} for scores in found.objects)


@named
def test_a_missing_clip_is_named(protocol, tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", {"a": draw(), "only here": draw()}))
    prediction = open_masks(write_pngs(tmp_path / "pred", {"a": draw()}))

    with pytest.raises(InputError, match=r"pred.*only here"):
        evaluate(truth, prediction, protocol)


@named
def test_a_missing_frame_is_named(protocol, tmp_path):
    write_pngs(tmp_path / "pred", {"a": draw()})
    (tmp_path / "pred/a/00003.png").unlink()

    with pytest.raises(FrameMissingError, match=r"pred/a.*00003"):
        evaluate(open_masks(write_pngs(tmp_path / "gt", {"a": draw()})), open_masks(str(tmp_path / "pred")), protocol)


@named
def test_another_size_is_refused_with_both_files(protocol, tmp_path):
    prediction = draw()
    prediction[2] = np.ascontiguousarray(prediction[2][:, :-1])

    with pytest.raises(FrameSizeError, match=r"pred/a/00002\.png.*gt/a/00002\.png"):
        score(tmp_path, draw(), prediction, protocol)


@named
def test_a_damaged_file_is_named(protocol, tmp_path):
    write_pngs(tmp_path / "pred", {"a": draw()})
    path = tmp_path / "pred/a/00003.png"
    path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(DecodeError, match=r"pred/a/00003\.png"):
        evaluate(open_masks(write_pngs(tmp_path / "gt", {"a": draw()})), open_masks(str(tmp_path / "pred")), protocol)


@pytest.mark.parametrize("protocol", [Davis2017(), SparseFrames(), ALL_PROTOCOLS[-1]], ids=lambda p: p.name)
@pytest.mark.parametrize("stranger", [3, 255])
def test_an_id_that_the_truth_lacks_is_refused_with_the_file(protocol, stranger, tmp_path):
    prediction = draw()
    prediction[3][0, 0] = stranger

    with pytest.raises(IdError, match=rf"pred/a/00003\.png.*id {stranger}"):
        score(tmp_path, draw(), prediction, protocol)


def test_more_than_twenty_proposals_are_refused_with_the_file(tmp_path):
    prediction = draw()
    prediction[5][0, 0] = 21

    with pytest.raises(IdError, match=r"pred/a/00005\.png.*21"):
        score(tmp_path, draw(), prediction, DavisUnsupervised())


def test_a_clip_of_two_frames_is_refused_where_its_ends_are_not_scored(tmp_path):
    with pytest.raises(InputError, match="2 annotated frames"):
        score(tmp_path, draw(2), draw(2), Davis2017())


def test_an_unknown_clip_is_refused(tmp_path):
    with pytest.raises(InputError, match="no annotated clip 'z'"):
        score(tmp_path, draw(), draw(), Davis2017(), clip_ids=["z"])


def test_sparse_truth_scores_each_object_after_its_first_frame(tmp_path):
    truth = draw(6)
    for ids in truth[:2]:
        ids[ids == 2] = 0
    source = open_masks(write_pngs(tmp_path / "gt", {"a": truth[::2]}, step=2))
    prediction = open_masks(write_pngs(tmp_path / "pred", {"a": draw(6)}))

    found = evaluate(source, prediction, SparseFrames())
    labels = evaluate(source, prediction, SparseFrames(include_first=True))

    assert {scores.object_id: scores.frames for scores in found.objects} == {1: ("00002", "00004"), 2: ("00004",)}
    assert {scores.object_id: len(scores.frames) for scores in labels.objects} == {1: 3, 2: 2}


def test_a_false_early_prediction_costs_zeros_by_the_rule_of_vos_benchmark_only(tmp_path):
    truth, prediction = draw(6), draw(6)
    for ids in truth[:3]:
        ids[ids == 2] = 0

    late = score(tmp_path, truth, prediction, VosBenchmark(skip_first_and_last=False))
    assert late.objects[1].j == (0, 0, 0, 1, 1, 1)


def test_two_processes_give_what_one_gives(tmp_path):
    clips = {name: draw(5, shift=index) for index, name in enumerate("abcdef")}
    truth = open_masks(write_pngs(tmp_path / "gt", {name: draw(5) for name in clips}))
    prediction = open_masks(write_pngs(tmp_path / "pred", clips))
    done: list[int] = []

    here = evaluate(truth, prediction, Davis2017())
    there = evaluate(truth, prediction, Davis2017(), run=run_in_processes(2), on_clips=done.append)

    assert here == there
    assert sum(done) == 6


def test_an_error_in_a_process_arrives_as_itself(tmp_path):
    clips = {name: draw(5) for name in "abcd"}
    truth = open_masks(write_pngs(tmp_path / "gt", clips))
    write_pngs(tmp_path / "pred", clips)
    (tmp_path / "pred/c/00002.png").unlink()

    with pytest.raises(FrameMissingError, match="pred/c"):
        evaluate(truth, open_masks(str(tmp_path / "pred")), Davis2017(), run=run_in_processes(2))


def test_tasks_are_bounded_by_clips_and_by_frames():
    frames = {"a": 10, "b": 10, "c": 6000, "d": 10, "e": 4995}

    assert group_clips(list("abcde"), frames, 2) == [("a", "b"), ("c",), ("d",), ("e",)]
    assert group_clips(list("abd"), frames, 16) == [("a", "b", "d")]
    assert group_clips([], frames, 16) == []


def test_no_worker_is_refused():
    with pytest.raises(UsageError):
        run_in_processes(0)


def test_a_result_survives_json(tmp_path):
    found = score(tmp_path, draw(), draw(shift=3), ALL_PROTOCOLS[-1])

    write_json(found, str(tmp_path / "out.json"))

    assert read_evaluation(str(tmp_path / "out.json")) == found


def test_the_csv_holds_full_precision(tmp_path):
    found = score(tmp_path, draw(), draw(shift=3), Davis2017())

    write_csv(found.objects, str(tmp_path / "out.csv"))

    head, *lines = (tmp_path / "out.csv").read_text().splitlines()
    column = head.split(",").index("J-Mean")
    assert [float(line.split(",")[column]) for line in lines] == [scores.j_statistics.mean for scores in found.objects]


def test_a_category_counts_as_seen_or_unseen(tmp_path):
    found = score(tmp_path, draw(), draw(shift=1), ALL_PROTOCOLS[-1])

    assert (found.summary["objects_seen"], found.summary["objects_unseen"]) == (1, 1)
    assert found.summary["J_seen"] == 100 * found.objects[0].j_statistics.mean


def test_an_object_that_meta_json_lacks_is_refused(tmp_path):
    with pytest.raises(InputError, match="lists no object 2"):
        score(tmp_path, draw(), draw(), YoutubeVos({"a": {1: ("cat", "00000")}}, frozenset(), frames="all"))
