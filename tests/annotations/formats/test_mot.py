"""MOT Challenge folders: 1-based everything, unsorted rows, detector variants."""

import pytest

from rayvos.annotations.formats.mot import detect, read_mot
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, IdError, UsageError
from tests.annotations.formats.expectations import assert_clip, golden, write_frames

INFO = "[Sequence]\nname=s\nimDir=img1\nframeRate=25\nseqLength=3\nimWidth=64\nimHeight=48\nimExt=.jpg\n"


def sequence(folder, rows, info=INFO):
    write_frames(folder / "img1", ["000001.jpg", "000002.jpg", "000003.jpg"])
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text(rows)
    if info is not None:
        (folder / "seqinfo.ini").write_text(info)
    return folder


def test_the_golden_sequence_is_read():
    folder, expected = golden("mot17")

    clips = list(read_mot(str(folder)))

    assert detect(str(folder))
    for clip, video in zip(clips, expected["videos"], strict=True):
        assert clip.clip_id == video["video"]
        assert_clip(clip, video)
        assert clip.fps == 30
        assert [known.category for known in clip.objects] == ["pedestrian", "pedestrian", "car"]


def test_one_of_the_detector_variants_is_read(tmp_path):
    for name in ("MOT17-02-DPM", "MOT17-02-FRCNN", "MOT17-02-SDP", "MOT17-04-SDP"):
        sequence(tmp_path / "train" / name, "1,1,5,5,10,10,1,1,1\n")

    assert [clip.clip_id for clip in read_mot(str(tmp_path))] == ["MOT17-02-FRCNN", "MOT17-04-SDP"]
    assert [clip.clip_id for clip in read_mot(str(tmp_path / "train" / "MOT17-02-DPM"))] == ["MOT17-02-DPM"]


def test_rows_of_mot15_have_no_class(tmp_path):
    (clip,) = read_mot(str(sequence(tmp_path / "s", "1,4,5,5,10,10,1,3,2,1\r\n2 4 6 5 10 10 1 -1 -1 -1\r\n", None)))

    assert clip.objects[0].category is None
    assert clip.objects[0].source_id == "4"
    assert [(box.frame, box.x0, box.y0, box.x1) for box in clip.boxes] == [(0, 4, 4, 14), (1, 5, 4, 15)]


def test_a_box_wholly_outside_the_image_is_absent_but_keeps_its_place(tmp_path):
    (clip,) = read_mot(str(sequence(tmp_path / "s", "1,1,-20,5,10,10,1,1,1\n2,1,-4,5,10,10,1,1,1\n")))

    assert [(box.visible, box.x0) for box in clip.boxes] == [(False, -21), (True, -5)]
    check_clip(clip)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ("", FormatError, "expected a line per box, found none"),
        ("1,1,5,5,10\n", FormatError, "line 1: expected 'frame,id"),
        ("1,1,5,5,10,10,1,1,1\n0,1,5,5,10,10,1,1,1\n", FormatError, "line 2: expected 'frame,id"),
        ("1,1,NaN,5,10,10,1,1,1\n", FormatError, "line 1: expected 'frame,id"),
        ("4,1,5,5,10,10,1,1,1\n", FormatError, "a box on frame 4, but 3 frames in"),
        ("1,1,5,5,10,10,1,1,1\n1,1,6,5,10,10,1,1,1\n", IdError, "line 2: object 1 has two boxes on frame 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, error, message):
    with pytest.raises(error, match=message):
        list(read_mot(str(sequence(tmp_path / "s", rows))))


def test_missing_images_are_an_error_unless_truncated(tmp_path):
    folder = sequence(tmp_path / "s", "1,1,5,5,10,10,1,1,1\n5,1,5,5,10,10,1,1,1\n", INFO.replace("=3", "=5"))

    with pytest.raises(FormatError, match="annotations of 5 frames but 3 images"):
        list(read_mot(str(folder)))
    (clip,) = read_mot(str(folder), truncate=True)

    assert clip.num_frames == 3
    assert [box.frame for box in clip.boxes] == [0]


def test_sequences_without_truth_are_left_out_unless_asked_for(tmp_path):
    sequence(tmp_path / "train" / "a", "1,1,5,5,10,10,1,1,1\n")
    write_frames(tmp_path / "test" / "b" / "img1", ["000001.jpg"])
    errors = {}

    assert [clip.clip_id for clip in read_mot(str(tmp_path))] == ["a"]
    assert list(read_mot(str(tmp_path), split="test", on_error=errors.__setitem__)) == []
    assert list(errors) == ["b"]
    with pytest.raises(UsageError, match="no folder 'val'"):
        list(read_mot(str(tmp_path), split="val"))


def test_a_text_file_of_boxes_is_one_clip_over_the_named_frames(tmp_path):
    write_frames(tmp_path / "walk", ["1.png", "2.png", "3.png"])
    (tmp_path / "tracks.txt").write_text("2,9,5,5,10,10,0.9,-1,-1,-1\n1,9,4,5,10,10,0.8,-1,-1,-1\n")

    (clip,) = read_mot(str(tmp_path / "tracks.txt"), frames=str(tmp_path / "walk"))

    assert detect(str(tmp_path / "tracks.txt"))
    assert clip.clip_id == "walk"
    assert [(box.frame, box.x0, box.x1) for box in clip.boxes] == [(0, 3, 13), (1, 4, 14)]
    assert clip.objects[0].source_id == "9"


def test_a_text_file_needs_frames_and_a_folder_has_its_own(tmp_path):
    folder = sequence(tmp_path / "s", "1,1,5,5,10,10,1,1,1\n")

    with pytest.raises(UsageError, match="need --frames"):
        read_mot(str(folder / "gt" / "gt.txt"))
    with pytest.raises(UsageError, match="leave out --frames"):
        read_mot(str(folder), frames=str(folder / "img1"))


def test_text_files_of_other_kinds_are_not_taken_for_boxes(tmp_path):
    for text in ("", "1,2,3,4\n", "cat\n", "-1,2,3,4,5,6\n"):
        (tmp_path / "a.txt").write_text(text)
        assert not detect(str(tmp_path / "a.txt"))
