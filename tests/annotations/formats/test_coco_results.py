import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from rayvos.annotations.formats.coco_results import write_coco
from rayvos.annotations.formats.json_stream import JsonStream
from rayvos.masks.rle import rle_to_mask
from tests.review.runs import label_rows, make_clip


@pytest.fixture
def clips(tmp_path):
    found = [make_clip(tmp_path, "a"), make_clip(tmp_path, "set/ü 'b\"", num_frames=3)]
    return [(clip, label_rows(clip, range(clip.num_frames))) for clip in found]


def load(path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_pycocotools_reads_every_mask_as_it_was(clips, tmp_path):
    path = tmp_path / "instances.json"
    counts = write_coco(str(path), clips, category_names=["dog", None])

    truth = load(path)
    rows = {
        (row["clip_id"], row["frame"], row["object_id"]): row
        for _, table in clips
        for row in table.to_pylist()
        if row["present"]
    }
    assert counts == (9, len(rows)) == (len(truth.imgs), len(truth.anns))
    for annotation in truth.anns.values():
        image = truth.imgs[annotation["image_id"]]
        row = rows.pop((image["clip_id"], image["frame"], annotation["object_id"]))
        mask = truth.annToMask(annotation).astype(np.bool_)
        assert (mask == rle_to_mask(row["rle"], row["height"], row["width"])).all()
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
        assert annotation["score"] == pytest.approx(row["score"], abs=1e-6)
    assert rows == {}


def test_images_are_named_by_clip_and_file(clips, tmp_path):
    path = tmp_path / "instances.json"
    write_coco(str(path), clips, category_names=["dog", None])

    images = json.loads(path.read_text())["images"]

    assert images[0]["file_name"] == "a/00000.png"
    assert images[-1]["file_name"] == "set/ü 'b\"/00002.png"
    assert [image["id"] for image in images] == list(range(1, 10))


def test_objects_without_a_category_share_one(clips, tmp_path):
    path = tmp_path / "instances.json"
    write_coco(str(path), clips, category_names=["dog", None, "dog"])

    truth = load(path)

    assert {kind["name"]: kind["id"] for kind in truth.cats.values()} == {"dog": 1, "object": 2}
    assert {a["object_id"]: a["category_id"] for a in truth.anns.values()} == {1: 1, 2: 2}


def test_a_low_score_is_left_out_and_its_image_stays(clips, tmp_path):
    path = tmp_path / "instances.json"
    write_coco(str(path), clips, category_names=["dog", None], min_score=0.5)

    truth = load(path)

    assert len(truth.imgs) == 9
    assert 0 < len(truth.anns) < 16
    assert all(annotation["score"] >= 0.5 for annotation in truth.anns.values())


def test_nothing_to_write_is_an_empty_file_that_loads(tmp_path):
    path = tmp_path / "instances.json"
    write_coco(str(path), [], category_names=[])

    assert load(path).imgs == {}


def test_a_stream_that_fails_leaves_no_file(tmp_path):
    path = tmp_path / "x.json"

    def fail() -> None:
        with JsonStream(str(path), {}, ("images",)) as stream:
            stream.add("images", {"value": float("nan")})

    with pytest.raises(ValueError, match="not JSON compliant"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_bare_list_is_a_list(tmp_path):
    path = tmp_path / "x.json"
    with JsonStream(str(path), {}, ("",)) as stream:
        for number in range(3):
            stream.add("", {"n": number})

    assert json.loads(path.read_text()) == [{"n": 0}, {"n": 1}, {"n": 2}]
