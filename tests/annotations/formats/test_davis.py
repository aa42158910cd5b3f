from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rayvos import storage
from rayvos.annotations.formats.davis import detect, read_davis
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, FrameSizeError, InputError, MissingPathError, UsageError
from rayvos.masks.rle import rle_area, rle_to_mask
from tests.annotations.formats.mask_data import SIZE, jpeg, squares, write_frames, write_masks

REAL_CLIPS = Path(os.environ.get("RAYVOS_REAL_CLIPS", Path(__file__).parents[3] / "../shared/data/real_clips"))
NAMES = ["00000", "00001", "00002"]
TWO_OBJECTS = {name: squares({1: (2, 3), 2: (20, 30), 255: (40, 0)}) for name in NAMES}


def write_sequence(root: Path, name: str, maps, *, grey=False, data=None, masks="Annotations") -> None:
    write_frames(root / "JPEGImages/480p" / name, [f"{frame}.jpg" for frame in NAMES], data)
    write_masks(root / masks / "480p" / name, maps, grey=grey)


def write_list(root: Path, path: str, text: str) -> None:
    (root / "ImageSets" / path).parent.mkdir(parents=True, exist_ok=True)
    (root / "ImageSets" / path).write_text(text)


def read_one(root: Path, **options):
    (clip,) = read_davis(str(root), **options)
    return check_clip(clip)


def areas(clip) -> dict[tuple[int, int], int | None]:
    return {(m.object_id, m.frame): m.rle and rle_area(m.rle, clip.height, clip.width) for m in clip.masks}


def test_pixels_are_ids_and_void_is_nobody(tmp_path):
    write_sequence(tmp_path, "dogs", TWO_OBJECTS)
    clip = read_one(tmp_path)
    assert clip.clip_id == "dogs"
    assert (clip.height, clip.width, clip.num_frames) == (*SIZE, 3)
    assert clip.source.frame_names == ("00000.jpg", "00001.jpg", "00002.jpg")
    assert [(known.object_id, known.source_id) for known in clip.objects] == [(1, "1"), (2, "2")]
    assert set(areas(clip).values()) == {36}
    assert clip.annotated_frames is None
    assert np.array_equal(rle_to_mask(clip.masks[0].rle, *SIZE), TWO_OBJECTS["00000"] == 1)


def test_black_and_white_masks_are_one_object_and_empty_ones_are_annotated(tmp_path):
    maps = {"00000": squares({255: (2, 3)}), "00001": squares({}), "00002": squares({255: (4, 3)})}
    write_sequence(tmp_path, "surf", maps, grey=True)
    clip = read_one(tmp_path)
    assert [known.source_id for known in clip.objects] == ["1"]
    assert areas(clip) == {(1, 0): 36, (1, 1): 0, (1, 2): 36}


def test_a_frame_that_shows_only_void_does_not_turn_void_into_an_object(tmp_path):
    maps = {**TWO_OBJECTS, "00001": squares({255: (2, 3)})}
    write_sequence(tmp_path, "dogs", maps)
    assert areas(read_one(tmp_path))[1, 1] == 0
    write_sequence(tmp_path, "dogs", maps, grey=True)
    assert [known.source_id for known in read_one(tmp_path).objects] == ["1", "2"]


def test_the_year_overrides_what_the_files_look_like(tmp_path):
    write_sequence(tmp_path, "dogs", TWO_OBJECTS)
    assert areas(read_one(tmp_path, year="2016")) == {(1, frame): 108 for frame in range(3)}

    write_sequence(tmp_path, "dogs", {"00000": squares({255: (2, 3)})}, grey=True)
    assert len(read_one(tmp_path, year="2017").objects) == 2


def test_frames_without_a_file_are_not_annotated(tmp_path):
    write_sequence(tmp_path, "dogs", {"00000": TWO_OBJECTS["00000"]})
    clip = read_one(tmp_path)
    assert clip.annotated_frames == (0,)
    assert sorted(areas(clip)) == [(1, 0), (2, 0)]


def test_object_ids_with_gaps_become_dense(tmp_path):
    write_sequence(tmp_path, "dogs", {"00000": squares({3: (0, 0), 9: (20, 20)})})
    assert [(known.object_id, known.source_id) for known in read_one(tmp_path).objects] == [(1, "3"), (2, "9")]


def test_lists_of_both_forms_name_the_sequences(tmp_path):
    for name in ("b", "a", "c"):
        write_sequence(tmp_path, name, TWO_OBJECTS)
    write_list(tmp_path, "2017/val.txt", "b\r\na")
    write_list(tmp_path, "480p/train.txt", "/JPEGImages/480p/c/00000.jpg /Annotations/480p/c/00000.png\n")
    write_list(tmp_path, "2016/empty.txt", "\n")

    assert [clip.clip_id for clip in read_davis(str(tmp_path), split="val")] == ["b", "a"]
    assert [clip.clip_id for clip in read_davis(str(tmp_path), split="train")] == ["c"]
    assert list(read_davis(str(tmp_path), split="empty")) == []
    assert [clip.clip_id for clip in read_davis(str(tmp_path))] == ["a", "b", "c"]
    with pytest.raises(MissingPathError, match="test-dev"):
        read_davis(str(tmp_path), split="test-dev")


@pytest.mark.parametrize("line", ["../../etc", "/etc/passwd", "a b c", "a.jpg b.png", "/x/../y/0.jpg /x/0.png"])
def test_lists_that_lead_elsewhere_are_refused_by_line(tmp_path, line):
    write_sequence(tmp_path, "a", TWO_OBJECTS)
    write_list(tmp_path, "2017/val.txt", f"a\n{line}\n")
    with pytest.raises(InputError, match=r"val\.txt line 2"):
        read_davis(str(tmp_path), split="val")


def test_unsupervised_masks_have_their_own_folder(tmp_path):
    write_sequence(tmp_path, "a", TWO_OBJECTS)
    write_sequence(tmp_path, "a", {"00000": squares({7: (0, 0)})}, masks="Annotations_unsupervised")
    assert [known.source_id for known in read_one(tmp_path, year="unsupervised").objects] == ["7"]
    assert len(read_one(tmp_path).objects) == 2


def test_a_bad_sequence_is_reported_and_the_others_are_read(tmp_path):
    write_sequence(tmp_path, "a", TWO_OBJECTS)
    write_sequence(tmp_path, "b", TWO_OBJECTS)
    write_sequence(tmp_path, "c", TWO_OBJECTS)
    (tmp_path / "Annotations/480p/b/00001.png").write_bytes(b"")
    told = []

    clips = list(read_davis(str(tmp_path), on_error=lambda name, error: told.append((name, error))))

    assert [clip.clip_id for clip in clips] == ["a", "c"]
    assert [name for name, _ in told] == ["b"]
    assert "b/00001.png" in str(told[0][1])
    with pytest.raises(FormatError, match=r"b/00001\.png"):
        list(read_davis(str(tmp_path)))


def test_a_mask_without_a_frame_is_an_error_or_left_out(tmp_path):
    write_sequence(tmp_path, "a", {**TWO_OBJECTS, "00003": TWO_OBJECTS["00000"]})
    with pytest.raises(FormatError, match=r"00003\.png"):
        list(read_davis(str(tmp_path)))
    assert read_one(tmp_path, truncate=True).num_frames == 3


def test_a_sequence_without_any_mask_is_an_error_that_names_the_folder(tmp_path):
    write_sequence(tmp_path, "a", {})
    with pytest.raises(FormatError, match="Annotations/480p/a"):
        list(read_davis(str(tmp_path)))


def test_masks_of_another_size_are_an_error_that_names_the_file(tmp_path):
    write_sequence(tmp_path, "a", {"00001": squares({1: (0, 0)}, (40, 64))})
    with pytest.raises(FrameSizeError, match=r"a/00001\.png"):
        list(read_davis(str(tmp_path)))


def test_a_mask_one_pixel_narrower_is_fitted(tmp_path):
    write_sequence(tmp_path, "a", {"00001": squares({1: (0, 0)}, (48, 63))})
    assert read_one(tmp_path).width == 64


def test_turned_pictures_have_the_size_their_masks_are_drawn_for(tmp_path):
    write_sequence(tmp_path, "a", {"00000": squares({1: (0, 0)}, (64, 48))}, data=jpeg(48, 64, orientation=6))
    write_sequence(tmp_path, "b", {"00000": squares({1: (0, 0)}, (48, 64))}, data=jpeg(48, 64, orientation=6))
    assert [(clip.height, clip.width) for clip in read_davis(str(tmp_path))] == [(64, 48), (48, 64)]


def test_the_larger_resolution_is_read_on_demand(tmp_path):
    write_sequence(tmp_path, "a", TWO_OBJECTS)
    write_frames(tmp_path / "JPEGImages/Full-Resolution/a", ["00000.jpg"], jpeg(96, 128))
    write_masks(tmp_path / "Annotations/Full-Resolution/a", {"00000": squares({1: (0, 0)}, (96, 128))})
    assert read_one(tmp_path, resolution="Full-Resolution").width == 128
    with pytest.raises(UsageError, match="1080p"):
        read_davis(str(tmp_path), resolution="1080p")
    with pytest.raises(UsageError, match="2015"):
        read_davis(str(tmp_path), year="2015")  # type: ignore[arg-type]


def test_another_folder_is_not_taken_for_davis(tmp_path):
    assert not detect(str(tmp_path))
    with pytest.raises(MissingPathError, match="JPEGImages"):
        read_davis(str(tmp_path))
    write_sequence(tmp_path, "a", TWO_OBJECTS)
    assert detect(str(tmp_path))


def test_object_stores_are_read_like_a_disk(tmp_path, s3_bucket):
    write_sequence(tmp_path, "a", TWO_OBJECTS)
    write_sequence(tmp_path, "b", {"00000": TWO_OBJECTS["00000"]})
    for path in tmp_path.rglob("*.*"):
        storage.write_bytes(storage.join(s3_bucket, "d", str(path.relative_to(tmp_path))), path.read_bytes())

    here, there = list(read_davis(str(tmp_path))), list(read_davis(storage.join(s3_bucket, "d")))

    assert [(clip.clip_id, clip.masks) for clip in there] == [(clip.clip_id, clip.masks) for clip in here]
    assert there[0].source.uri == f"{s3_bucket}/d/JPEGImages/480p/a"


@pytest.mark.skipif(not (REAL_CLIPS / "DAVIS").is_dir(), reason=f"no real clips in {REAL_CLIPS}")
def test_real_sequences_of_2016_have_one_object_on_every_frame():
    clips = {clip.clip_id: clip for clip in read_davis(str(REAL_CLIPS / "DAVIS"), split="train")}
    assert list(clips) == ["dog-agility"]
    clip = check_clip(clips["dog-agility"])
    assert (clip.height, clip.width, clip.num_frames) == (480, 854, 25)
    assert [mask.frame for mask in clip.masks] == list(range(25))
    assert min(areas(clip).values()) > 0
