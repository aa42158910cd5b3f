"""GOT-10k folders: splits, labels of absence and cover, first-frame truth."""

import pytest

from rayvos.annotations.formats.got10k import detect, read_got10k
from rayvos.errors import FormatError, UsageError
from tests.annotations.formats.expectations import assert_clip, golden, write_frames

NAMES = ["00000001.jpg", "00000002.jpg", "00000003.jpg"]
TRUTH = "1.5,2,10,10\n2,2,10,10\n3,2,10,10\n"


def sequence(folder, truth=TRUTH, absence=None, cover=None, meta=None):
    write_frames(folder, NAMES)
    for name, text in {
        "groundtruth.txt": truth,
        "absence.label": absence,
        "cover.label": cover,
        "meta_info.ini": meta,
    }.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_the_golden_split_is_read():
    folder, expected = golden("got10k")

    clips = list(read_got10k(str(folder)))

    assert [clip.clip_id for clip in clips] == [video["video"] for video in expected["videos"]]
    for clip, video in zip(clips, expected["videos"], strict=True):
        assert_clip(clip, video)
        assert clip.objects[0].category == video.get("category", "newt")
        assert clip.annotated_frames is None


def test_root_split_and_sequence_are_recognised(tmp_path):
    folder = sequence(tmp_path / "val" / "GOT-10k_Val_000001", absence="0\n0\n0\n")

    for source in (tmp_path, tmp_path / "val", folder):
        assert detect(str(source))
        assert [clip.clip_id for clip in read_got10k(str(source))] == ["GOT-10k_Val_000001"]


def test_zero_cover_means_absent_unless_it_is_zero_throughout(tmp_path):
    sequence(tmp_path / "a", cover="8\n0\n3\n")
    sequence(tmp_path / "b", cover="0\n0\n0\n")

    first, second = read_got10k(str(tmp_path))

    assert [box.visible for box in first.boxes] == [True, False, True]
    assert [box.visible for box in second.boxes] == [True, True, True]


def test_a_single_line_annotates_the_first_frame_only(tmp_path):
    (clip,) = read_got10k(str(sequence(tmp_path / "t", "1,2,3,4", absence="0\n0\n0\n")))

    assert clip.num_frames == 3
    assert clip.annotated_frames == (0,)
    assert [box.frame for box in clip.boxes] == [0]


def test_a_clip_of_one_frame_is_annotated_throughout(tmp_path):
    folder = tmp_path / "one"
    write_frames(folder, ["00000001.jpg"])
    (folder / "groundtruth.txt").write_text("1,2,3,4")

    (clip,) = read_got10k(str(folder))

    assert (clip.num_frames, clip.annotated_frames) == (1, None)


def test_a_split_is_chosen_and_a_missing_one_named(tmp_path):
    sequence(tmp_path / "train" / "a")
    sequence(tmp_path / "val" / "b")
    (tmp_path / "val" / "list.txt").write_text("b\r\n")

    assert [clip.clip_id for clip in read_got10k(str(tmp_path), split="val")] == ["b"]
    assert [clip.clip_id for clip in read_got10k(str(tmp_path))] == ["a", "b"]
    with pytest.raises(UsageError, match="expected a folder 'test', found train, val"):
        list(read_got10k(str(tmp_path), split="test"))


def test_labels_that_are_no_numbers_are_an_error(tmp_path):
    with pytest.raises(FormatError, match=r"absence\.label: expected whole numbers"):
        list(read_got10k(str(sequence(tmp_path / "a", absence="0\nno\n0\n"))))


def test_a_broken_meta_file_is_an_error(tmp_path):
    with pytest.raises(FormatError, match="METAINFO"):
        list(read_got10k(str(sequence(tmp_path / "a", meta="object_class: dog\n"))))
