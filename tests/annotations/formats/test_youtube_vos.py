from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rayvos.annotations.formats import davis
from rayvos.annotations.formats.youtube_vos import detect, read_requested_frames, read_youtube_vos
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, FrameSizeError, InputError, MissingPathError
from rayvos.masks.rle import rle_area
from tests.annotations.formats.mask_data import jpeg, squares, write_frames, write_masks

REAL_CLIPS = Path(os.environ.get("RAYVOS_REAL_CLIPS", Path(__file__).parents[3] / "../shared/data/real_clips"))
NAMES = ["00005", "00010", "00020"]
ONE, BOTH, OTHER = squares({2: (0, 0)}), squares({2: (0, 0), 7: (20, 20)}), squares({7: (20, 20)})


def write_video(split: Path, maps, objects=None, *, video="aa", grey=False) -> None:
    write_frames(split / "JPEGImages" / video, [f"{name}.jpg" for name in NAMES])
    write_masks(split / "Annotations" / video, maps, grey=grey)
    if objects is not None:
        path = split / "meta.json"
        meta = json.loads(path.read_text()) if path.exists() else {"videos": {}}
        meta["videos"][video] = {
            "objects": {key: {"category": f"kind {key}", "frames": frames} for key, frames in objects.items()}
        }
        path.write_text(json.dumps(meta))


def read_one(source: Path, **options):
    (clip,) = read_youtube_vos(str(source), **options)
    return check_clip(clip)


def rows(clip) -> dict[tuple[str, int], int | None]:
    """Return the area of each mask by source id and frame; None: absent."""
    source_ids = {known.object_id: known.source_id for known in clip.objects}
    return {
        (source_ids[mask.object_id], mask.frame): mask.rle and rle_area(mask.rle, clip.height, clip.width)
        for mask in clip.masks
    }


def test_training_masks_are_all_read_and_unlisted_frames_are_absent(tmp_path):
    write_video(tmp_path, dict(zip(NAMES, [ONE, BOTH, ONE], strict=True)), {"2": NAMES, "7": NAMES[1:]})
    clip = read_one(tmp_path)
    assert clip.source.frame_names == ("00005.jpg", "00010.jpg", "00020.jpg")
    assert [(known.object_id, known.source_id, known.category) for known in clip.objects] == [
        (1, "2", "kind 2"),
        (2, "7", "kind 7"),
    ]
    assert rows(clip) == {("2", 0): 36, ("2", 1): 36, ("2", 2): 36, ("7", 0): None, ("7", 1): 36, ("7", 2): 0}
    assert clip.annotated_frames is None


def test_a_validation_video_gives_each_objects_first_mask_only(tmp_path):
    write_video(tmp_path / "valid", {"00005": ONE, "00010": BOTH}, {"2": NAMES, "7": NAMES[1:]})
    clip = read_one(tmp_path / "valid")
    assert rows(clip) == {("2", 0): 36, ("7", 1): 36}
    assert clip.num_frames == 3
    assert read_requested_frames(str(tmp_path), split="valid") == {"aa": {"2": tuple(NAMES), "7": tuple(NAMES[1:])}}


def test_a_wrong_start_is_replaced_by_the_first_frame_that_shows_the_object(tmp_path):
    write_video(tmp_path, {"00005": ONE, "00020": OTHER}, {"2": NAMES, "7": NAMES})
    assert rows(read_one(tmp_path)) == {("2", 0): 36, ("7", 2): 36}


def test_an_object_that_no_mask_shows_is_an_error(tmp_path):
    write_video(tmp_path, {"00005": ONE}, {"2": NAMES, "7": NAMES})
    with pytest.raises(FormatError, match="object 7"):
        list(read_youtube_vos(str(tmp_path)))


def test_a_training_mask_that_is_not_there_is_named(tmp_path):
    write_video(tmp_path / "train", {"00005": ONE, "00020": ONE}, {"2": NAMES})
    with pytest.raises(FormatError, match=r"Annotations/aa/00010\.png"):
        list(read_youtube_vos(str(tmp_path), split="train"))


def test_without_meta_every_annotated_frame_counts_if_all_are(tmp_path):
    write_video(tmp_path, dict(zip(NAMES, [ONE, BOTH, ONE], strict=True)))
    assert rows(read_one(tmp_path))["7", 0] == 0
    assert read_one(tmp_path).objects[0].category is None


def test_without_meta_sparse_masks_are_first_appearances_unless_for_training(tmp_path):
    for split in ("valid", "train"):
        write_video(tmp_path / split, {"00005": ONE, "00020": BOTH})
    assert rows(read_one(tmp_path, split="valid")) == {("2", 0): 36, ("7", 2): 36}
    train = read_one(tmp_path, split="train")
    assert rows(train) == {("2", 0): 36, ("2", 2): 36, ("7", 0): 0, ("7", 2): 36}
    assert train.annotated_frames == (0, 2)


def test_black_and_white_masks_without_meta_are_one_object(tmp_path):
    write_video(tmp_path, {name: squares({255: (3, 3)}) for name in NAMES}, grey=True)
    assert [known.source_id for known in read_one(tmp_path).objects] == ["1"]


def test_several_splits_put_their_name_in_front(tmp_path):
    for split in ("train", "valid"):
        write_video(tmp_path / split, dict.fromkeys(NAMES, ONE), {"2": NAMES})
    write_frames(tmp_path / "valid_all_frames/JPEGImages/aa", ["00005.jpg"])
    assert [clip.clip_id for clip in read_youtube_vos(str(tmp_path))] == ["train/aa", "valid/aa"]
    assert [clip.clip_id for clip in read_youtube_vos(str(tmp_path), split="valid")] == ["aa"]
    with pytest.raises(MissingPathError, match="test"):
        read_youtube_vos(str(tmp_path), split="test")


def test_all_frames_of_the_video_can_take_the_place_of_the_annotated_ones(tmp_path):
    write_video(tmp_path / "valid", {"00005": ONE, "00010": BOTH}, {"2": NAMES, "7": NAMES[1:]})
    every = [f"{number:05d}.jpg" for number in range(3, 22)]
    write_frames(tmp_path / "valid_all_frames/JPEGImages/aa", every)
    clip = read_one(tmp_path / "valid", frames=str(tmp_path / "valid_all_frames"))
    assert clip.source.frame_names == tuple(every)
    assert rows(clip) == {("2", 2): 36, ("7", 7): 36}


def test_frames_of_another_size_are_refused(tmp_path):
    write_video(tmp_path, {"00005": ONE}, {"2": NAMES})
    write_frames(tmp_path / "small/aa", [f"{name}.jpg" for name in NAMES], jpeg(24, 32))
    with pytest.raises(FrameSizeError, match=r"00005\.png"):
        list(read_youtube_vos(str(tmp_path), frames=str(tmp_path / "small")))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("", "empty"),
        ("[]", "object"),
        ("{", "JSON"),
        ("{}", "'videos'"),
        ('{"videos": null}', "videos: expected an object, found null"),
    ],
)
def test_a_meta_file_that_says_nothing_is_an_error_that_names_it(tmp_path, meta, message):
    write_video(tmp_path, {"00005": ONE})
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(FormatError, match=f"meta.json.*{message}"):
        list(read_youtube_vos(str(tmp_path)))


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"objects": None},
        {"objects": {"x": {"frames": NAMES}}},
        {"objects": {"0": {"frames": NAMES}}},
        {"objects": {"2": None}},
        {"objects": {"2": {"frames": []}}},
        {"objects": {"2": {"frames": [5]}}},
        {"objects": {"2": {"frames": ["00006"]}}},
        {"objects": {"2": {"frames": ["../00005"]}}},
        {"objects": {"2": {"frames": NAMES, "category": 3}}},
    ],
)
def test_a_bad_entry_is_reported_with_its_video_and_the_others_are_read(tmp_path, entry):
    write_video(tmp_path, dict.fromkeys(NAMES, ONE), {"2": NAMES}, video="good")
    write_video(tmp_path, dict.fromkeys(NAMES, ONE), {"2": NAMES}, video="bad")
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"bad": entry, "good": meta["videos"]["good"]}}))
    told = []

    clips = list(read_youtube_vos(str(tmp_path), on_error=lambda name, error: told.append((name, str(error)))))

    assert [clip.clip_id for clip in clips] == ["good"]
    assert [name for name, _ in told] == ["bad"]
    assert "bad" in told[0][1]


def test_a_video_name_that_leads_elsewhere_is_refused(tmp_path):
    write_video(tmp_path, {"00005": ONE})
    (tmp_path / "meta.json").write_text('{"videos": {"../../x": {"objects": {"1": {"frames": ["00005"]}}}}}')
    with pytest.raises(InputError, match=r"\.\./\.\./x"):
        list(read_youtube_vos(str(tmp_path)))


def test_the_two_layouts_of_masks_are_told_apart(tmp_path):
    assert not detect(str(tmp_path))
    write_video(tmp_path / "train", {"00005": ONE})
    write_frames(tmp_path / "davis/JPEGImages/480p/a", ["00000.jpg"])
    write_masks(tmp_path / "davis/Annotations/480p/a", {"00000": ONE})
    assert detect(str(tmp_path))
    assert detect(str(tmp_path / "train"))
    assert not davis.detect(str(tmp_path / "train"))
    assert davis.detect(str(tmp_path / "davis"))
    assert not detect(str(tmp_path / "davis"))


@pytest.mark.skipif(not (REAL_CLIPS / "multi").is_dir(), reason=f"no real clips in {REAL_CLIPS}")
def test_real_masks_that_start_at_different_frames_and_one_too_narrow_are_read():
    clips = {clip.clip_id: check_clip(clip) for clip in read_youtube_vos(str(REAL_CLIPS / "multi"))}
    assert {key for key, area in rows(clips["judo"]).items() if area} == {("1", 0), ("2", 5), ("3", 8), ("4", 13)}
    assert (clips["judo"].height, clips["judo"].width) == (480, 854)
    assert (clips["12_1mWNahzcsAc"].height, clips["12_1mWNahzcsAc"].width) == (720, 1280)
