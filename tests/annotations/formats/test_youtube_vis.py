from __future__ import annotations

import json

import numpy as np
import pytest

from rayvos.annotations.formats.youtube_vis import detect, read_youtube_vis
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, FrameMissingError, InputError
from rayvos.masks.rle import mask_to_rle, rle_area
from tests.annotations.formats.mask_data import squares, write_frames

NAMES = ["v/00000.jpg", "v/00005.jpg"]
RLE = {"size": [48, 64], "counts": mask_to_rle(squares({1: (4, 5)}) == 1).decode()}


def content(*annotations, **video) -> dict:
    defaults = {"video_id": 3, "category_id": 7, "iscrowd": 0, "segmentations": [RLE, None], "areas": [36, None]}
    return {
        "videos": [{"id": 3, "width": 64, "height": 48, "length": 2, "file_names": NAMES, **video}],
        "categories": [{"id": 7, "name": "duck"}],
        "annotations": [
            {"id": number, "bboxes": [[4, 5, 6, 6], None], **defaults, **annotation}
            for number, annotation in enumerate(annotations, 1)
        ],
    }


def write(folder, found) -> str:
    (folder / "train.json").write_text(json.dumps(found))
    return str(folder / "train.json")


def read_one(folder, found, **options):
    (clip,) = read_youtube_vis(write(folder, found), **options)
    return check_clip(clip)


def test_null_is_absent_and_frames_count_by_position(tmp_path):
    write_frames(tmp_path / "train/JPEGImages/v", ["00000.jpg", "00005.jpg"])
    clip = read_one(tmp_path, content({}))
    assert (clip.clip_id, clip.num_frames, clip.source.frame_names) == ("v", 2, ("00000.jpg", "00005.jpg"))
    assert clip.source.uri == str(tmp_path / "train/JPEGImages/v")
    assert [(mask.frame, mask.rle and rle_area(mask.rle, 48, 64)) for mask in clip.masks] == [(0, 36), (1, None)]
    assert [(box.frame, box.visible) for box in clip.boxes] == [(0, True), (1, False)]
    assert [(known.category, known.source_id) for known in clip.objects] == [("duck", "1")]


def test_an_rle_without_pixels_is_empty_and_not_absent(tmp_path):
    empty = {"size": [48, 64], "counts": [48 * 64]}
    clip = read_one(tmp_path, content({"segmentations": [RLE, empty], "bboxes": None}))
    assert rle_area(clip.masks[1].rle, 48, 64) == 0
    assert clip.boxes == ()


def test_polygons_are_filled_and_crowds_left_out(tmp_path):
    polygon = [[4, 5, 10, 5, 10, 11, 4, 11]]
    clip = read_one(tmp_path, content({"segmentations": [polygon, None]}, {"iscrowd": 1}))
    assert len(clip.objects) == 1
    assert rle_area(clip.masks[0].rle, 48, 64) == 36


def test_a_test_file_has_clips_without_objects_but_null_is_an_error(tmp_path):
    found = content()
    del found["annotations"]
    assert read_one(tmp_path, found).objects == ()
    with pytest.raises(FormatError, match="annotations: expected a list, found null"):
        list(read_youtube_vis(write(tmp_path, {**found, "annotations": None})))


def test_clips_are_named_by_id_where_the_folder_does_not_tell_them_apart(tmp_path):
    found = content()
    found["videos"].append({**found["videos"][0], "id": 4})
    assert [clip.clip_id for clip in read_youtube_vis(write(tmp_path, found))] == ["3", "4"]
    found = content(file_names=["a.jpg", "b.jpg"])
    assert read_one(tmp_path, found).clip_id == "3"


@pytest.mark.parametrize(
    "annotation",
    [
        {"segmentations": [RLE]},
        {"segmentations": [RLE, None, None]},
        {"segmentations": "x"},
        {"segmentations": [{"size": [64, 48], "counts": "x"}, None]},
        {"segmentations": [5, None]},
        {"bboxes": [[1, 2, 3], None]},
        {"bboxes": [[1, 2, 3, "4"], None]},
        {"category_id": 8},
        {"id": "x"},
    ],
)
def test_a_bad_annotation_takes_its_video_out_and_no_other(tmp_path, annotation):
    found = content(annotation)
    found["videos"].append({**found["videos"][0], "id": 4, "file_names": ["w/0.jpg", "w/1.jpg"]})
    told = []

    clips = list(read_youtube_vis(write(tmp_path, found), on_error=lambda name, error: told.append((name, str(error)))))

    assert [clip.clip_id for clip in clips] == ["w"]
    assert told[0][0] == "v"
    assert "annotations[0]" in told[0][1]


@pytest.mark.parametrize(
    "video", [{"file_names": []}, {"file_names": [1, 2]}, {"length": 3}, {"height": 0}, {"id": None}]
)
def test_a_bad_video_is_reported_by_its_place(tmp_path, video):
    with pytest.raises(FormatError, match=r"train\.json: videos\[0\]"):
        list(read_youtube_vis(write(tmp_path, content({}, **video))))


@pytest.mark.parametrize("name", ["../../x.jpg", "/x/y.jpg"])
def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="frame name"):
        list(read_youtube_vis(write(tmp_path, content(file_names=[name, name]))))


def test_a_frame_that_is_not_there_takes_its_video_out(tmp_path):
    write_frames(tmp_path / "JPEGImages/v", ["00000.jpg"])
    with pytest.raises(FrameMissingError, match=r"v/00005\.jpg"):
        list(read_youtube_vis(write(tmp_path, content({}))))


def test_only_files_with_videos_of_file_names_are_recognised(tmp_path):
    assert detect(write(tmp_path, content({})))
    assert not detect(write(tmp_path, {"images": [{"file_name": "a"}], "annotations": []}))
    assert not detect(str(tmp_path))


def test_areas_agree_with_the_masks_of_the_file(tmp_path):
    masks = [np.random.default_rng(seed).random((48, 64)) < 0.3 for seed in range(2)]
    segmentations = [{"size": [48, 64], "counts": mask_to_rle(mask).decode()} for mask in masks]
    clip = read_one(tmp_path, content({"segmentations": segmentations}))
    assert [rle_area(mask.rle, 48, 64) for mask in clip.masks] == [int(mask.sum()) for mask in masks]
