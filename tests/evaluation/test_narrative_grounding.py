from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rayvos.annotations.formats.label_maps import write_label_map
from rayvos.errors import FormatError, FrameMissingError, InputError
from rayvos.evaluation.boundary_f import boundary_f
from rayvos.evaluation.jaccard import jaccard
from rayvos.evaluation.narrative_grounding import evaluate_expressions, read_expressions
from rayvos.evaluation.png_source import open_pngs
from rayvos.masks.rle import mask_to_rle
from tests.evaluation.drawings import HEIGHT, WIDTH, draw

TRUTH, RESULT = draw(4), draw(4, shift=2)


def rle(mask):
    return {"size": [HEIGHT, WIDTH], "counts": mask_to_rle(mask).decode()}


def write_truth(folder: Path, *, sparse: bool = False) -> tuple[str, list[str]]:
    """One video, two nouns; object 7 has no mask on frame 2. Sparse: the masks of frames 1 and 3 only, as UVO."""
    frames = [1, 3] if sparse else [0, 1, 2, 3]
    video = {"id": 1, "height": HEIGHT, "width": WIDTH, "file_names": [f"v/{frame}.png" for frame in frames]}
    if sparse:
        video["ytid"] = "v"
    masks = [
        [None if frame == 2 and value == 2 else rle(TRUTH[frame] == value) for frame in frames] for value in (1, 2)
    ]
    files = []
    for number, (name, known) in enumerate((("orig", masks[:1]), ("extra", masks[1:]))):
        annotations = [{"id": 6 + number, "video_id": 1, "segmentations": item} for item in known]
        (folder / f"{name}.json").write_text(json.dumps({"videos": [video], "annotations": annotations}))
        files.append(str(folder / f"{name}.json"))
    expressions = {"0": {"obj_id": 6}, "1": {"obj_id": 7}}
    meta = {"videos": {"v": {"frames": ["0", "1", "2", "3"], "expressions": expressions}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    return str(folder / "meta.json"), files


def write_results(folder: Path, first: int = 0) -> str:
    for expression, value in ((0, 1), (1, 2)):
        for frame, ids in enumerate(RESULT):
            path = folder / "v" / str(expression) / f"{frame + first:05d}.png"
            write_label_map(str(path), (ids == value) * np.uint8(255))
    return str(folder)


@pytest.mark.parametrize("first", [0, 1], ids=["files from 0", "files from 1"])
def test_the_score_is_the_mean_over_nouns_of_their_annotated_frames(first, tmp_path):
    expressions = read_expressions(*write_truth(tmp_path))

    found = evaluate_expressions(expressions, open_pngs(write_results(tmp_path / "out", first)))

    frames = [(1, [0, 1, 2, 3]), (2, [0, 1, 3])]
    for name, measure in (("J", jaccard), ("F", boundary_f)):
        means = [np.mean([measure(TRUTH[t] == value, RESULT[t] == value) for t in known]) for value, known in frames]
        assert found.summary[name] == pytest.approx(np.mean(means), abs=1e-12)


def test_sparse_truth_is_found_by_frame_number(tmp_path):
    expressions = read_expressions(*write_truth(tmp_path, sparse=True))

    found = evaluate_expressions(expressions, open_pngs(write_results(tmp_path / "out")))

    assert [scores.frames for scores in found.objects] == [("00001", "00003")] * 2


def test_a_missing_noun_is_named(tmp_path):
    expressions = read_expressions(*write_truth(tmp_path))
    write_results(tmp_path / "out")
    for path in (tmp_path / "out/v/1").iterdir():
        path.unlink()

    with pytest.raises(InputError, match="v/1"):
        evaluate_expressions(expressions, open_pngs(str(tmp_path / "out")))


def test_a_missing_frame_is_named(tmp_path):
    expressions = read_expressions(*write_truth(tmp_path))
    write_results(tmp_path / "out")
    (tmp_path / "out/v/1/00003.png").unlink()

    with pytest.raises(FrameMissingError, match="frame 3 of expression v/1"):
        evaluate_expressions(expressions, open_pngs(str(tmp_path / "out")))


def test_an_object_without_masks_is_refused(tmp_path):
    meta, files = write_truth(tmp_path)

    with pytest.raises(FormatError, match="no masks of object 7"):
        read_expressions(meta, files[:1])
