"""LaSOT folders: flags, layouts, odd text files."""

import pytest

from rayvos.annotations.formats.lasot import detect, read_lasot
from rayvos.errors import FormatError, MissingPathError
from tests.annotations.formats.expectations import assert_clip, golden, write_frames

NAMES = ["00000001.jpg", "00000002.jpg", "00000003.jpg"]


def sequence(folder, truth="1,2,10,10\n2,2,10,10\n3,2,10,10\n", full="0,0,0", out="0,0,0", names=NAMES):
    write_frames(folder / "img", names)
    (folder / "groundtruth.txt").write_bytes(truth if isinstance(truth, bytes) else truth.encode())
    (folder / "full_occlusion.txt").write_text(full)
    (folder / "out_of_view.txt").write_text(out)
    return folder


def test_the_golden_sequence_is_read():
    folder, expected = golden("lasot")

    clips = list(read_lasot(str(folder)))

    assert [clip.clip_id for clip in clips] == [video["video"] for video in expected["videos"]]
    for clip, video in zip(clips, expected["videos"], strict=True):
        assert_clip(clip, video)
        assert clip.objects[0].category == video["category"]
        assert clip.source.identity


@pytest.mark.parametrize("depth", ["root", "class", "sequence"])
def test_root_class_folder_and_single_sequence_give_the_same_clip(tmp_path, depth):
    folder = sequence(tmp_path / "polar bear" / "polar bear-3")
    source = {"root": tmp_path, "class": folder.parent, "sequence": folder}[depth]

    (clip,) = read_lasot(str(source))

    assert detect(str(source))
    assert (clip.clip_id, clip.objects[0].category) == ("polar bear-3", "polar bear")


@pytest.mark.parametrize(
    "truth",
    [
        b"1,2,10,10\r\n2,2,10,10\r\n3,2,10,10\r\n",
        b"\xef\xbb\xbf1,2,10,10\n2,2,10,10\n3,2,10,10",
        b"1\t2\t10\t10\n2\t2\t10\t10\n3\t2\t10\t10\n\n",
        b"1 2 10 10\n 2  2 10 10\n3 2 10 10 \n",
    ],
    ids=["crlf", "bom and no last newline", "tabs and a blank end", "spaces"],
)
def test_separators_and_line_ends_do_not_matter(tmp_path, truth):
    (clip,) = read_lasot(str(sequence(tmp_path / "cat-1", truth)))

    assert [(box.x0, box.y0, box.x1, box.y1) for box in clip.boxes] == [(1, 2, 11, 12), (2, 2, 12, 12), (3, 2, 13, 12)]


def test_nan_empty_and_outside_boxes_are_absent(tmp_path):
    (clip,) = read_lasot(str(sequence(tmp_path / "cat-1", "NaN,NaN,NaN,NaN\n5,5,0,9\n900,5,10,10\n")))

    assert [box.visible for box in clip.boxes] == [False, False, False]
    assert clip.boxes[2].x0 == 900


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ("", "found an empty file"),
        ("1,2,3,4\n1,2,3\n1,2,3,4\n", "line 2: expected four numbers"),
        ("1,2,3,4\n1,NaN,3,4\n1,2,3,4\n", "line 2: expected four numbers"),
        ("1,2,3,4\n\n1,2,3,4\n", "line 2: expected four numbers"),
        ("1,2,3,4\n1,2,3,inf\n1,2,3,4\n", "line 2: expected four numbers"),
    ],
)
def test_a_bad_line_is_named(tmp_path, truth, message):
    folder = sequence(tmp_path / "cat-1", truth)

    with pytest.raises(FormatError, match=message):
        list(read_lasot(str(folder)))


def test_more_images_than_boxes_is_an_error_unless_truncated(tmp_path, caplog):
    folder = sequence(tmp_path / "cat-1", names=[*NAMES, "00000004.jpg"])

    with pytest.raises(FormatError, match="annotations of 3 frames but 4 images"):
        list(read_lasot(str(folder)))
    (clip,) = read_lasot(str(folder), truncate=True)

    assert clip.num_frames == len(clip.boxes) == len(clip.source.frame_names) == 3
    assert "truncated" in caplog.text


def test_a_flag_file_of_another_length_is_an_error(tmp_path):
    folder = sequence(tmp_path / "cat-1", full="0,1")

    with pytest.raises(FormatError, match="expected 3 flags, one per frame, found 2"):
        list(read_lasot(str(folder)))


def test_a_bad_sequence_is_reported_and_its_neighbours_are_read(tmp_path):
    sequence(tmp_path / "cat-1")
    sequence(tmp_path / "cat-2", "oops")
    (tmp_path / "cat-3").mkdir()
    sequence(tmp_path / "cat-4")
    errors = {}

    clips = list(read_lasot(str(tmp_path), on_error=errors.__setitem__))

    assert [clip.clip_id for clip in clips] == ["cat-1", "cat-4"]
    assert {name: type(error) for name, error in errors.items()} == {"cat-2": FormatError, "cat-3": MissingPathError}


def test_a_split_reads_the_listed_sequences_only(tmp_path):
    for name in ("cat-1", "cat-2", "dog-1"):
        sequence(tmp_path / name.partition("-")[0] / name)
    (tmp_path / "testing_set.txt").write_text("cat-2\ndog-1\n")

    assert [clip.clip_id for clip in read_lasot(str(tmp_path), split="test")] == ["cat-2", "dog-1"]
