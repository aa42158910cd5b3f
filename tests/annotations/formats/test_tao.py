from __future__ import annotations

import json

import pytest

from rayvos.annotations.formats.tao import detect, read_tao
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, InputError
from tests.annotations.formats.mask_data import write_frames


def image(number: int, index: int, **fields) -> dict:
    name = f"val/YFCC/v/frame{index:04d}.jpg"
    return {"id": number, "video_id": 1, "file_name": name, "frame_index": index, "width": 64, "height": 48, **fields}


def annotation(image_id: int, **fields) -> dict:
    return {"id": 1, "image_id": image_id, "track_id": 70, "category_id": 3, "bbox": [1.5, 2, 10, 20], **fields}


def content(*annotations, **changes) -> dict:
    return {
        "videos": [{"id": 1, "name": "val/YFCC/v", "width": 64, "height": 48, "neg_category_ids": []}],
        "images": [image(12, 61), image(10, 1), image(11, 31)],
        "tracks": [{"id": 70, "category_id": 3, "video_id": 1}],
        "categories": [{"id": 3, "name": "person"}],
        "annotations": list(annotations),
        **changes,
    }


def write(folder, found) -> str:
    (folder / "validation.json").write_text(json.dumps(found))
    return str(folder / "validation.json")


def test_frames_are_the_listed_images_in_the_order_of_their_index(tmp_path):
    write_frames(tmp_path / "frames/val/YFCC/v", [f"frame{index:04d}.jpg" for index in range(1, 70)])
    (clip,) = read_tao(write(tmp_path, content(annotation(12), annotation(10, bbox=[0, 0, 5, 5]))))
    check_clip(clip)
    assert clip.clip_id == "val/YFCC/v"
    assert clip.source.uri == str(tmp_path / "frames/val/YFCC/v")
    assert clip.source.frame_names == ("frame0001.jpg", "frame0031.jpg", "frame0061.jpg")
    assert [(box.frame, box.x0, box.y0, box.x1, box.y1) for box in clip.boxes] == [
        (0, 0, 0, 5, 5),
        (2, 1.5, 2, 11.5, 22),
    ]
    assert [(known.category, known.source_id) for known in clip.objects] == [("person", "70")]
    assert clip.masks == ()
    assert all(box.visible for box in clip.boxes)


def test_boxes_without_area_are_left_out(tmp_path):
    (clip,) = read_tao(write(tmp_path, content(annotation(12, bbox=[1, 1, 0, 5]), annotation(10))))
    assert [box.frame for box in clip.boxes] == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "annotations: expected a list, found null"),
        ({"tracks": None}, "tracks"),
        ({"videos": None}, "videos"),
        ({"images": []}, r"videos\[0\]: expected images"),
        ({"images": [image(10, 1), image(11, 1)]}, "frame_index"),
        ({"images": [image(10, 1, file_name=3)]}, r"images\[0\]: file_name"),
        ({"annotations": [annotation(99)]}, r"annotations\[0\]"),
        ({"annotations": [annotation(10), annotation(10)]}, r"annotations\[1\]: a second box of track 70"),
        ({"annotations": [annotation(10, bbox=[1, 2])]}, r"annotations\[0\]: bbox"),
        ({"annotations": [annotation(10, bbox=None)]}, r"annotations\[0\]: bbox"),
        ({"categories": []}, "category_id 3"),
    ],
)
def test_a_file_of_another_form_is_an_error_that_names_the_field(tmp_path, changes, message):
    with pytest.raises(InputError, match=rf"validation\.json.*{message}"):
        list(read_tao(write(tmp_path, content(**changes))))


def test_a_bad_video_is_reported_and_the_others_are_read(tmp_path):
    found = content(annotation(10))
    found["videos"].insert(0, {"id": 2, "name": "val/YFCC/empty", "width": 64, "height": 48})
    told = []
    clips = list(read_tao(write(tmp_path, found), on_error=lambda name, error: told.append(name)))
    assert [clip.clip_id for clip in clips] == ["val/YFCC/v"]
    assert told == ["val/YFCC/empty"]


def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path):
    found = content(images=[image(10, 1), image(11, 2, file_name="../../../etc/passwd")])
    with pytest.raises(InputError, match="etc/passwd"):
        list(read_tao(write(tmp_path, found)))


def test_files_with_frame_indices_or_tracks_are_recognised(tmp_path):
    assert detect(write(tmp_path, content()))
    assert not detect(write(tmp_path, {"images": [{"file_name": "a.jpg"}]}))
    (tmp_path / "a.json").write_text("")
    with pytest.raises(FormatError, match="empty"):
        list(read_tao(str(tmp_path / "a.json")))
