from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rayvos.annotations.review_folder import read_fixes, read_review_set
from rayvos.annotations.run_folder import read_labels
from rayvos.errors import InputError, MissingPathError, UsageError
from rayvos.masks.rle import rle_to_mask
from rayvos.review.fixes import write_review
from tests.review.runs import HEIGHT, WIDTH, files_under, make_clip, make_run, moved


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", [make_clip(tmp_path / "frames", name) for name in ("a", "set/b")])


def test_the_worst_label_of_each_object_is_shown_worst_first(run, tmp_path):
    found = write_review(run, str(tmp_path / "out"), num_worst=3)

    rows = [row for row in read_labels(run).to_pylist() if row["present"]]
    worst = {}
    for row in sorted(rows, key=lambda row: row["score"]):
        worst.setdefault((row["clip_id"], row["object_id"]), row)
    expected = list(worst.values())[:3]
    items = read_review_set(str(tmp_path / "out")).items
    assert found.items == 3
    assert [(i.clip_id, i.object_id, i.frame) for i in items] == [
        (row["clip_id"], row["object_id"], row["frame"]) for row in expected
    ]
    assert [item.score for item in items] == pytest.approx([row["score"] for row in expected])
    for item, row in zip(items, expected, strict=True):
        drawn = np.asarray(Image.open(tmp_path / f"out/labels/{item.name}.png"))
        assert (drawn.astype(bool) == rle_to_mask(row["rle"], HEIGHT, WIDTH)).all()
        for part in ("images", "overlays"):
            with Image.open(tmp_path / f"out/{part}/{item.name}.jpg") as picture:
                assert picture.size == (WIDTH, HEIGHT)


def test_untouched_labels_are_no_fixes_and_scores_choose(run, tmp_path):
    out = str(tmp_path / "out")
    found = write_review(run, out, num_worst=100, below=0.2)

    items = read_review_set(out).items
    assert 0 < len(items) == found.items < 4
    assert all(item.score < 0.2 and item.round == 0 for item in items)
    assert {fix.kind for fix in read_fixes(out, read_review_set(out))} == {"unanswered"}


def test_a_first_round_shows_the_middle_frame_of_each_object(run, tmp_path):
    found = write_review(run, str(tmp_path / "out"), num_worst=3, shown="middle")

    write_review(run, str(tmp_path / "worst"), num_worst=3)
    items, worst = (read_review_set(str(tmp_path / name)).items for name in ("out", "worst"))
    assert [(i.clip_id, i.object_id) for i in items] == [(i.clip_id, i.object_id) for i in worst]
    # Object 1 is seen on the frames 0…5, object 2 on 0…4.
    assert {(item.object_id, item.frame) for item in items} == {(1, 3), (2, 2)}
    assert found.lowest == pytest.approx(min(item.score for item in items))


def test_a_clip_that_was_corrected_is_in_its_next_round(tmp_path):
    clips = [make_clip(tmp_path / "frames", name) for name in ("a", "b")]
    make_run(tmp_path / "run", clips)
    run = make_run(tmp_path / "run", [clips[0], moved(clips[1], 1.0)])

    write_review(run, str(tmp_path / "out"))

    rounds = {item.clip_id: item.round for item in read_review_set(str(tmp_path / "out")).items}
    assert rounds == {"a": 0, "b": 1}


def test_a_folder_with_answers_is_only_replaced_on_request(run, tmp_path):
    out = tmp_path / "out"
    write_review(run, str(out))
    before = files_under(out)
    with pytest.raises(UsageError, match="--overwrite to discard"):
        write_review(run, str(out))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"found 'notes\.txt'; choose another one$"):
        write_review(run, str(out), overwrite=True)
    (out / "notes.txt").unlink()

    write_review(run, str(out), overwrite=True)

    assert files_under(out) == before


def test_a_run_without_bad_labels_and_a_folder_without_a_run_say_so(run, tmp_path):
    with pytest.raises(InputError, match=r"with a score below 0\.01"):
        write_review(run, str(tmp_path / "out"), below=0.01)
    with pytest.raises(MissingPathError):
        write_review(str(tmp_path / "nothing"), str(tmp_path / "out"))
