from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from rayvos.annotations.formats.coco import detect, read_coco, segmentation_to_rle
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, InputError
from rayvos.masks.rle import mask_to_rle, rle_area, rle_to_mask
from tests.annotations.formats.mask_data import write_frames

SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]


def content(*annotations, **image) -> dict:
    defaults = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10, 10, 10, 10], "area": 100.0, "iscrowd": 0}
    return {
        "images": [{"id": 5, "file_name": "a.jpg", "width": 64, "height": 48, **image}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [{**defaults, "segmentation": SQUARE, **annotation} for annotation in annotations],
    }


def write(folder, found) -> str:
    path = folder / "instances.json"
    path.write_text(json.dumps(found))
    return str(path)


def read_one(folder, found, **options):
    (clip,) = read_coco(write(folder, found), **options)
    return check_clip(clip)


def test_an_image_is_a_clip_of_one_frame(tmp_path):
    write_frames(tmp_path / "images", ["a.jpg"])
    clip = read_one(tmp_path, content({"id": 77}))
    assert (clip.clip_id, clip.height, clip.width, clip.num_frames) == ("5", 48, 64, 1)
    assert (clip.source.uri, clip.source.frame_names) == (str(tmp_path / "images"), ("a.jpg",))
    assert [(known.object_id, known.category, known.source_id) for known in clip.objects] == [(1, "dog", "77")]
    assert [(box.x0, box.y0, box.x1, box.y1) for box in clip.boxes] == [(10, 10, 20, 20)]
    assert np.argwhere(rle_to_mask(clip.masks[0].rle, 48, 64)).min() == 10
    assert rle_area(clip.masks[0].rle, 48, 64) == 100


def test_boxes_are_clipped_to_the_image(tmp_path):
    clip = read_one(tmp_path, content({"bbox": [-3.5, 40, 100, 20]}))
    assert [(box.x0, box.y0, box.x1, box.y1) for box in clip.boxes] == [(0, 40, 64, 48)]


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": [5, 5, 0, 7]},
        {"bbox": [5, 5, 7, -1]},
        {"bbox": [70, 5, 7, 7]},
        {"area": 0},
        {"segmentation": [[1, 2, 3, 4]]},
        {"iscrowd": 1},
        {"bbox": None, "segmentation": []},
    ],
)
def test_what_shows_no_object_is_left_out_and_counted(tmp_path, annotation, caplog):
    with caplog.at_level(logging.WARNING):
        clip = read_one(tmp_path, content({"id": 1}, {"id": 2, **annotation}))
    assert [known.source_id for known in clip.objects] == ["1"]
    assert "left_out" in caplog.text


def test_crowds_are_kept_on_demand_with_their_uncompressed_rle(tmp_path):
    crowd = {"iscrowd": 1, "segmentation": {"size": [48, 64], "counts": [10, 5, 48 * 64 - 15]}}
    clip = read_one(tmp_path, content(crowd), crowds=True)
    assert rle_area(clip.masks[0].rle, 48, 64) == 5


def test_a_file_may_have_boxes_without_masks_and_no_categories(tmp_path):
    found = content({})
    del found["categories"], found["annotations"][0]["segmentation"]
    clip = read_one(tmp_path, found)
    assert (len(clip.boxes), clip.masks, clip.objects[0].category) == (1, (), None)


def test_an_image_without_annotations_is_a_clip_without_objects(tmp_path):
    assert read_one(tmp_path, content()).objects == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "images: expected a list, found null"),
        ({"annotations": None}, "annotations: expected a list, found null"),
        ({"annotations": [{"id": 1}]}, r"annotations\[0\]: no field 'image_id'"),
        ({"images": [{"id": 5, "width": 64, "height": 48}]}, r"images\[0\]: no field 'file_name'"),
        ({"categories": [{"id": 3}]}, r"categories\[0\]: no field 'name'"),
        ({"images": [None]}, r"images\[0\]: expected an object, found null"),
    ],
)
def test_a_file_of_another_form_is_an_error_that_names_the_field(tmp_path, change, message):
    path = write(tmp_path, {**content({}), **change})
    with pytest.raises(FormatError, match=rf"instances\.json.*{message}"):
        list(read_coco(path))


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, float("nan")]},
        {"category_id": 4},
        {"category_id": None},
        {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
        {"segmentation": ["x"]},
        {"segmentation": {"size": [9, 9], "counts": [81]}},
        {"segmentation": {"size": [48, 64], "counts": [5]}},
        {"segmentation": {"size": [48, 64], "counts": "damaged!"}},
        {"segmentation": {"size": [48, 64], "counts": None}},
        {"id": None},
    ],
)
def test_a_bad_annotation_takes_its_image_out_and_no_other(tmp_path, annotation):
    found = content({"id": 1, **annotation}, {"id": 2, "image_id": 6})
    found["images"].append({"id": 6, "file_name": "b.jpg", "width": 64, "height": 48})
    told = []

    clips = list(read_coco(write(tmp_path, found), on_error=lambda name, error: told.append((name, str(error)))))

    assert [clip.clip_id for clip in clips] == ["6"]
    assert told[0][0] == "5"
    assert "annotations[0]" in told[0][1]
    with pytest.raises(FormatError, match=r"annotations\[0\]"):
        list(read_coco(write(tmp_path, found)))


@pytest.mark.parametrize("image", [{"width": 0}, {"height": "48"}, {"id": "x"}, {"width": None}])
def test_a_bad_image_is_reported(tmp_path, image):
    with pytest.raises(FormatError, match=r"images\[0\]"):
        list(read_coco(write(tmp_path, content(**image))))


def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.\./\.\./etc/passwd"):
        list(read_coco(write(tmp_path, content(file_name="../../etc/passwd"))))


def test_compressed_and_uncompressed_rle_and_polygons_mean_the_same():
    mask = np.zeros((48, 64), np.bool_)
    mask[10:20, 10:20] = True
    rle = mask_to_rle(mask)
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [0]])))
    counts = np.diff(np.concatenate([[0], runs, [mask.size]])).tolist()

    for found in (SQUARE, {"size": [48, 64], "counts": rle.decode()}, {"size": [48, 64], "counts": counts}):
        assert segmentation_to_rle(found, 48, 64, "x") == rle


def test_images_alone_are_recognised_and_videos_are_not(tmp_path):
    assert detect(write(tmp_path, content({})))
    assert not detect(str(tmp_path))
    assert not detect(write(tmp_path, {**content({}), "videos": [{"file_names": []}]}))


def test_clips_are_made_as_they_are_asked_for(tmp_path):
    found = content({})
    found["images"] += [{"id": 9, "file_name": "b.jpg", "width": 64, "height": 0}]
    clips = read_coco(write(tmp_path, found))
    assert next(clips).clip_id == "5"
    with pytest.raises(FormatError, match=r"images\[1\]"):
        next(clips)
