from __future__ import annotations

import json

import pytest

from rayvos.annotations.formats.burst import detect, read_burst
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, InputError, MissingPathError
from rayvos.masks.rle import mask_to_rle, rle_area
from tests.annotations.formats.mask_data import squares, write_frames

RLE = mask_to_rle(squares({1: (4, 5)}) == 1).decode()
ALL = [f"f{number:03d}.jpg" for number in range(5)]


def mask(**fields) -> dict:
    return {"rle": RLE, "is_gt": True, "score": 1.0, **fields}


def sequence(*segmentations, **fields) -> dict:
    return {
        "id": 1,
        "seq_name": "v",
        "dataset": "YFCC",
        "width": 64,
        "height": 48,
        "fps": 30,
        "all_image_paths": ALL,
        "annotated_image_paths": ["f001.jpg", "f003.jpg"],
        "track_category_ids": {"10": 8, "2": 9},
        "segmentations": list(segmentations) or [{"10": mask()}, {"2": mask(is_gt=False, score=0.5), "10": mask()}],
        **fields,
    }


def write(folder, *sequences, name="all_classes.json", **changes) -> str:
    categories = [{"id": 8, "name": "person"}, {"id": 9, "name": "bicycle"}]
    found = {"sequences": list(sequences), "categories": categories, "split": "val", **changes}
    (folder / name).write_text(json.dumps(found))
    return str(folder / name)


def rows(clip) -> list[tuple[int, int, int | None, bool]]:
    return [
        (found.object_id, found.frame, found.rle and rle_area(found.rle, 48, 64), found.machine_made)
        for found in clip.masks
    ]


def test_frames_are_the_annotated_images_and_a_missing_entry_is_absence(tmp_path):
    write_frames(tmp_path / "frames/YFCC/v", ALL)
    (clip,) = read_burst(write(tmp_path, sequence()))
    check_clip(clip)
    assert (clip.clip_id, clip.num_frames, clip.fps) == ("YFCC/v", 2, None)
    assert clip.source.uri == str(tmp_path / "frames/YFCC/v")
    assert clip.source.frame_names == ("f001.jpg", "f003.jpg")
    assert [(known.object_id, known.source_id, known.category) for known in clip.objects] == [
        (1, "2", "bicycle"),
        (2, "10", "person"),
    ]
    assert rows(clip) == [(1, 0, None, False), (1, 1, 36, True), (2, 0, 36, False), (2, 1, 36, False)]


def test_all_images_can_be_frames(tmp_path):
    (clip,) = read_burst(write(tmp_path, sequence()), all_frames=True)
    assert (clip.num_frames, clip.fps, clip.annotated_frames) == (5, 30, (1, 3))
    assert [row[:2] for row in rows(clip)] == [(1, 1), (1, 3), (2, 1), (2, 3)]


def test_first_frame_prompts_say_nothing_of_other_frames(tmp_path):
    first = sequence({"10": mask(bbox=[4, 5, 6, 6], point=[6, 7])}, {"2": mask(bbox=[4, 5, 6, 6], point=[5, 6])})
    (clip,) = read_burst(write(tmp_path, first, name="first_frame_annotations.json"))
    assert [row[:2] for row in rows(clip)] == [(1, 1), (2, 0)]
    assert [(box.object_id, box.frame, box.x0, box.y0, box.x1, box.y1) for box in clip.boxes] == [
        (2, 0, 4, 5, 10, 11),
        (1, 1, 4, 5, 10, 11),
    ]
    assert [(point.object_id, point.frame, point.x, point.y) for point in clip.points] == [(2, 0, 6, 7), (1, 1, 5, 6)]


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentations": None},
        {"segmentations": [{}]},
        {"segmentations": [{}, None]},
        {"segmentations": [{}, {"3": mask()}]},
        {"segmentations": [{}, {"2": None}]},
        {"segmentations": [{}, {"2": mask(rle=None)}]},
        {"segmentations": [{}, {"2": mask(rle="damaged!")}]},
        {"segmentations": [{}, {"2": mask(bbox=[1, 2, 3])}]},
        {"segmentations": [{}, {"2": mask(point=[1])}]},
        {"track_category_ids": {"x": 8}},
        {"track_category_ids": {"2": 1}},
        {"annotated_image_paths": ["f001.jpg", "f001.jpg"]},
        {"annotated_image_paths": []},
        {"width": 63},
    ],
)
def test_a_bad_sequence_is_reported_and_the_others_are_read(tmp_path, fields):
    path = write(tmp_path, sequence(seq_name="good"), sequence(seq_name="bad", **fields))
    told = []

    clips = list(read_burst(path, on_error=lambda name, error: told.append((name, str(error)))))

    assert [clip.clip_id for clip in clips] == ["YFCC/good"]
    assert told[0][0] == "YFCC/bad"
    assert "all_classes.json: sequences[1]" in told[0][1]


def test_annotated_images_are_among_all_images(tmp_path):
    path = write(tmp_path, sequence(all_image_paths=["f001.jpg"]))
    with pytest.raises(FormatError, match="all_image_paths lacks"):
        list(read_burst(path, all_frames=True))


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.\."):
        list(read_burst(write(tmp_path, sequence(dataset=".."))))


def test_a_folder_is_read_by_its_file_of_all_classes(tmp_path):
    write(tmp_path, sequence())
    assert len(list(read_burst(str(tmp_path)))) == 1
    assert detect(str(tmp_path))
    assert detect(str(tmp_path / "all_classes.json"))
    (tmp_path / "all_classes.json").unlink()
    assert not detect(str(tmp_path))
    with pytest.raises(MissingPathError, match=r"all_classes\.json"):
        list(read_burst(str(tmp_path)))
    with pytest.raises(FormatError, match="sequences"):
        list(read_burst(write(tmp_path, sequences=None)))
