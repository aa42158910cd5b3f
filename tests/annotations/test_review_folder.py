from __future__ import annotations

import csv
import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from rayvos.annotations.formats.review import apply_fixes, read_review
from rayvos.annotations.importing import detect_format, import_clips
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.annotations.review_folder import (
    Fix,
    ReviewItem,
    ReviewSet,
    mask_digest,
    read_fixes,
    read_review_set,
    write_review_set,
)
from rayvos.errors import FormatError, FrameSizeError, IdError, UsageError
from rayvos.masks.rle import mask_to_rle

HEIGHT, WIDTH = 20, 30
SHOWN = np.zeros((HEIGHT, WIDTH), bool)
SHOWN[4:10, 5:12] = True
DRAWN = np.roll(SHOWN, 3, axis=1)


def clip(clip_id, **options):
    boxes = tuple(Box(1, frame, 5, 4, 12, 10) for frame in range(3))
    return Clip(clip_id, ClipSource("images", clip_id, ("0.png", "1.png", "2.png")), HEIGHT, WIDTH, 3,
                objects=(ObjectInfo(1),), boxes=boxes, **options)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A review of two clips, one item each; a third clip is not shown."""
    manifest = str(tmp_path / "my clips.parquet")
    write_manifest([clip("a"), clip("b"), clip("c")], manifest)
    items = tuple(
        ReviewItem(name=name, clip_id=name, frame=1, object_id=1, score=0.25, round=0, height=HEIGHT, width=WIDTH,
                   mask_digest=mask_digest(mask_to_rle(SHOWN)))
        for name in ("a", "b")
    )  # fmt: skip
    path = tmp_path / "my fixes"
    (path / "labels").mkdir(parents=True)
    for item in items:
        draw(path, item.name, SHOWN)
    write_review_set(str(path), ReviewSet(run="out", manifest=manifest, engine="cut", weights="", items=items))
    return path


def draw(folder, name, mask, value=1):
    Image.fromarray(mask.astype(np.uint8) * value).save(folder / "labels" / f"{name}.png")


def answer(folder, **answers):
    rows = list(csv.DictReader(io.StringIO((folder / "answers.csv").read_text())))
    for row in rows:
        row["answer"] = answers.get(row["name"], row["answer"])
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    (folder / "answers.csv").write_text("\ufeff" + text.getvalue())  # as spreadsheets save it


def fixes(folder):
    return {fix.item.name: fix for fix in read_fixes(str(folder), read_review_set(str(folder)))}


def test_a_review_reads_back_and_unanswered_items_change_nothing(folder):
    shown = read_review_set(str(folder))

    assert [item.clip_id for item in shown.items] == ["a", "b"]
    assert {fix.kind for fix in fixes(folder).values()} == {"unanswered"}
    assert list(read_review(str(folder))) == list(ManifestFile(shown.manifest))
    assert detect_format(str(folder)) == "review"


@pytest.mark.parametrize("value", [1, 7, 255])
def test_a_changed_png_is_a_persons_mask_whatever_value_was_drawn(folder, value):
    draw(folder, "b", DRAWN, value)

    found = fixes(folder)
    clips = list(import_clips("review", str(folder)))

    assert (found["a"].kind, found["b"].kind) == ("unanswered", "redrawn")
    assert clips[0] == clip("a")
    assert clips[1] == dataclasses.replace(clip("b"), masks=(MaskPrompt(1, 1, mask_to_rle(DRAWN)),))
    assert clips[2] == clip("c")


def test_accepted_masks_become_a_persons_and_unseen_objects_absent(folder):
    answer(folder, a="accept", b="Not-Visible ")

    a, b, _ = import_clips("review", str(folder))

    assert a.masks == (MaskPrompt(1, 1, mask_to_rle(SHOWN)),)
    assert b.masks == (MaskPrompt(1, 1, None),)
    assert [box.visible for box in b.boxes] == [True, False, True]


def test_a_wrong_box_goes_or_becomes_that_of_the_redrawn_mask(folder):
    answer(folder, a="box-wrong", b="box-wrong")
    draw(folder, "b", DRAWN)

    a, b, _ = import_clips("review", str(folder))

    assert [box.frame for box in a.boxes] == [0, 2]
    assert a.masks == ()
    assert b.boxes[1] == Box(1, 1, 8, 4, 15, 10)
    assert b.masks[0].rle == mask_to_rle(DRAWN)


def test_the_same_fixes_twice_change_nothing_more_but_a_persons_mask_stays(folder, tmp_path):
    draw(folder, "a", DRAWN)
    once = list(read_review(str(folder)))
    again = str(tmp_path / "again.parquet")
    write_manifest(once, again)

    assert list(read_review(str(folder), manifest=again)) == once
    draw(folder, "a", np.roll(DRAWN, 1, axis=0))
    with pytest.raises(IdError, match="has a person's mask already"):
        list(read_review(str(folder), manifest=again))


def test_a_programs_mask_is_replaced(folder):
    shown = read_review_set(str(folder))
    made = clip("a", masks=(MaskPrompt(1, 1, mask_to_rle(SHOWN), machine_made=True),))

    found = apply_fixes(made, [Fix(shown.items[0], "redrawn", mask_to_rle(DRAWN))], "m")

    assert found.masks == (MaskPrompt(1, 1, mask_to_rle(DRAWN)),)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: answer(f, a="yes"), FormatError, r"answers\.csv line 2: unknown answer 'yes'"),
        (lambda f: draw(f, "a", SHOWN & False), FormatError, r"a\.png: shows nothing"),
        (lambda f: draw(f, "a", SHOWN[:9]), FrameSizeError, r"a\.png"),
        (lambda f: (f / "labels/a.png").unlink(), FormatError, r"a\.png: is gone"),
        (lambda f: (f / "labels/a.png").write_bytes(b"no"), FormatError, r"a\.png"),
        (lambda f: (draw(f, "a", DRAWN), answer(f, a="not-visible")), FormatError, "was redrawn, but the answer is"),
        (lambda f: (f / "review.json").write_text("{}"), FormatError, r"review\.json: expected a review"),
        (lambda f: (f / "answers.csv").write_text("name,answer\nz,accept\n"), FormatError, "'z': no such item"),
    ],
)
def test_what_cannot_be_meant_is_named(folder, change, error, message):
    change(folder)

    with pytest.raises(error, match=message):
        list(read_review(str(folder)))


def test_another_manifest_is_refused(folder, tmp_path):
    draw(folder, "a", DRAWN)
    other, smaller = str(tmp_path / "other.parquet"), str(tmp_path / "smaller.parquet")
    write_manifest([clip("z")], other)
    write_manifest([dataclasses.replace(clip("a"), width=WIDTH + 2)], smaller)

    with pytest.raises(FormatError, match=r"other\.parquet: has no clip 'a'"):
        list(read_review(str(folder), manifest=other))
    with pytest.raises(FormatError, match="name the manifest that was reviewed"):
        list(read_review(str(folder), manifest=smaller))
    with pytest.raises(UsageError, match="its clips stay as they are"):
        list(import_clips("review", str(folder), drop_masks=True))
