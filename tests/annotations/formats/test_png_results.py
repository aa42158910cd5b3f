import dataclasses

import numpy as np
import pytest
from PIL import Image

from rayvos.annotations.formats.label_maps import davis_palette
from rayvos.annotations.formats.png_results import (
    sav_names,
    write_davis_clip,
    write_sav_clip,
    write_youtube_vos_clip,
    youtube_vos_values,
)
from rayvos.annotations.records import ObjectInfo
from rayvos.masks.rle import rle_to_mask
from tests.review.runs import label_rows, make_clip


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "frames", "a", num_frames=5)


def with_source_ids(clip, *source_ids):
    objects = tuple(ObjectInfo(number, "dog", source_id) for number, source_id in enumerate(source_ids, start=1))
    return dataclasses.replace(clip, objects=objects)


def masks_of(table, frame):
    rows = [row for row in table.to_pylist() if row["frame"] == frame and row["present"]]
    return {row["object_id"]: rle_to_mask(row["rle"], row["height"], row["width"]) for row in rows}


def test_davis_files_hold_ids_in_the_pascal_palette(clip, tmp_path):
    table = label_rows(clip, range(5))

    assert write_davis_clip(clip, table, str(tmp_path / "out")) == 5

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{frame:05d}.png" for frame in range(5)]
    with Image.open(tmp_path / "out/00001.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == davis_palette().reshape(-1).tolist()
        ids = np.asarray(image)
    masks = masks_of(table, 1)
    assert ((ids > 0) == (masks[1] | masks[2])).all()
    assert (ids[masks[1] & ~masks[2]] == 1).all()


def test_absent_objects_leave_background_and_a_file(clip, tmp_path):
    alone = make_clip(tmp_path / "frames", "b", num_frames=3, num_objects=1)

    write_davis_clip(alone, label_rows(alone, range(3)), str(tmp_path / "out"))

    assert not np.asarray(Image.open(tmp_path / "out/00002.png")).any()


def test_more_than_254_objects_are_written_as_16_bit_for_all_frames(clip, tmp_path):
    objects = (ObjectInfo(1), ObjectInfo(300))
    boxes = tuple(dataclasses.replace(box, object_id=300 if box.object_id == 2 else 1) for box in clip.boxes)
    many = dataclasses.replace(clip, objects=objects, boxes=boxes)
    table = label_rows(many, range(5))

    write_davis_clip(many, table, str(tmp_path / "out"), min_score=0.4)

    values = set()
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as image:
            assert image.mode == "I;16"
            values |= set(np.unique(np.asarray(image)).tolist())
    assert 300 in values
    assert 65535 in values
    assert 255 not in values


def test_youtube_vos_files_keep_the_sources_ids_and_name_the_frames(clip, tmp_path):
    table = label_rows(clip, range(5))

    num_files, objects = write_youtube_vos_clip(clip, table, str(tmp_path / "out"))

    assert num_files == 5
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out/00000.png")))) == {0, 3, 4}
    assert objects == {
        "3": {"category": "dog", "frames": ["00000", "00001", "00002", "00003", "00004"]},
        "4": {"category": "object", "frames": ["00000", "00001", "00002", "00003"]},
    }


@pytest.mark.parametrize("ids", [("7", "horse"), ("7", "7"), ("7", "0"), ("7", None), ("7", "-1"), ("7", "²")])
def test_source_ids_that_are_no_pixel_values_are_replaced_by_our_own(clip, ids):
    assert youtube_vos_values(with_source_ids(clip, *ids)) == {1: 1, 2: 2}
    assert youtube_vos_values(with_source_ids(clip, "7", "5")) == {1: 7, 2: 5}


def test_sav_files_keep_overlaps_and_are_one_bit(clip, tmp_path):
    table = label_rows(clip, range(5))

    assert write_sav_clip(clip, table, str(tmp_path / "out")) == 10

    masks = masks_of(table, 2)
    for object_id, folder in ((1, "003"), (2, "004")):
        with Image.open(tmp_path / "out" / folder / "00002.png") as image:
            assert image.mode == "1"
            assert (np.asarray(image) == masks[object_id]).all()
    assert (masks[1] & masks[2]).any()
    assert not np.asarray(Image.open(tmp_path / "out/004/00004.png")).any()


def test_sav_objects_count_from_zero_unless_the_source_numbered_them(clip):
    assert sav_names(with_source_ids(clip, "0", "12")) == {1: "000", 2: "012"}
    assert sav_names(with_source_ids(clip, None, None)) == {1: "000", 2: "001"}
    assert sav_names(with_source_ids(clip, "x", "../1")) == {1: "000", 2: "001"}
    assert sav_names(with_source_ids(clip, "1", "001")) == {1: "000", 2: "001"}


def test_a_low_score_is_no_file_for_sav_and_ignored_for_davis(clip, tmp_path):
    table = label_rows(clip, range(5))
    low = [row for row in table.to_pylist() if row["present"] and row["score"] < 0.5]
    assert 0 < len(low) < 9

    num_files = write_sav_clip(clip, table, str(tmp_path / "sav"), min_score=0.5)
    write_davis_clip(clip, table, str(tmp_path / "davis"), min_score=0.5)

    assert num_files == 10 - len(low)
    ids = np.asarray(Image.open(tmp_path / "davis" / f"{low[0]['frame']:05d}.png"))
    assert (ids == 255).any()
    assert low[0]["object_id"] not in ids
