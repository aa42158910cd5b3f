"""Readers against the format goldens: bit-exact masks, boxes within the decimals of the text files."""

from __future__ import annotations

import numpy as np
import pytest

from rayvos.annotations.derive import boxes_from_masks
from rayvos.annotations.formats.burst import read_burst
from rayvos.annotations.formats.label_maps import read_label_map
from rayvos.annotations.formats.youtube_vos import read_requested_frames
from rayvos.annotations.frame_listing import list_frames
from rayvos.annotations.importing import FORMATS, detect_format
from rayvos.annotations.manifest import check_clip
from rayvos.annotations.records import Clip
from tests.goldens.formats_expectations import (
    GOLDENS,
    boxes_of,
    clips_of,
    expected_of,
    folders,
    frame_names,
    masks_of,
    object_of,
)

ATOL = 1e-4  # the text files have four decimals

SOURCES = {
    "burst": ("val", "burst"),
    "coco": ("instances_train2017.json", "coco"),
    "cvat": ("annotations.xml", "cvat"),
    "davis2016": ("", "davis"),
    "davis2017": ("", "davis"),
    "got10k": ("", "got10k"),
    "lasot": ("", "lasot"),
    "mot17": ("", "mot"),
    "pointvos": ("Oops/train.json", "point-vos"),
    "sav": ("", "sav"),
    "tao": ("train.json", "tao"),
    "trackingnet": ("", "trackingnet"),
    "vidln": ("OVIS_train.jsonl", "vidln"),
    "youtubevis": ("train.json", "youtube-vis"),
    "youtubevos": ("", "youtube-vos"),
}


@pytest.mark.parametrize("name", folders())
def test_every_golden_source_is_recognised_as_its_format_and_no_other(name):
    place, format_name = SOURCES[name]
    assert detect_format(f"{GOLDENS / name}/{place}".rstrip("/")) == format_name
    assert format_name in FORMATS


def assert_frames(clip: Clip, video: dict) -> None:
    check_clip(clip)
    assert [clip.width, clip.height] == video["size"]
    assert frame_names(clip, video["frames"]) == video["frames"]
    assert clip.num_frames == len(video["frames"])
    expected = tuple(video["annotated"]) if "annotated" in video else None
    assert clip.annotated_frames == expected


def assert_objects(clip: Clip, video: dict) -> None:
    """Check ids, categories, masks and absence of every object."""
    assert clip.object_ids() == tuple(range(1, len(video["objects"]) + 1))
    for known in video["objects"]:
        found = object_of(clip, known["id"])
        assert found.object_id == known.get("internal_id", found.object_id)
        assert found.category == known.get("category")
        assert masks_of(clip, found.object_id) == known["masks"]
        absent = [mask.frame for mask in clip.masks if mask.object_id == found.object_id and mask.rle is None]
        if "absent" in known:
            assert absent == known["absent"]


@pytest.mark.parametrize("name", ["davis2016", "davis2017"])
def test_davis(name):
    expected = expected_of(name)
    clips = clips_of(name)
    assert list(clips) == [video["video"] for video in expected["videos"]]
    for video in expected["videos"]:
        assert_frames(clips[video["video"]], video)
        assert_objects(clips[video["video"]], video)


def test_davis_void_belongs_to_no_object():
    video = expected_of("davis2017")["videos"][0]
    folder = GOLDENS / "davis2017/Annotations/480p" / video["video"]
    maps = [read_label_map(str(path)) for path in sorted(folder.iterdir())]
    assert [int((found.ids == found.void).sum()) for found in maps] == video["void_pixels"]


def test_youtube_vos():
    expected = expected_of("youtubevos")
    clips = clips_of("youtubevos")
    assert len(clips) == len(expected["videos"])
    for video in expected["videos"]:
        clip = clips[f"{video['split']}/{video['video']}"]
        assert_frames(clip, video)
        assert_objects(clip, video)
        for known in video["objects"]:
            masks = [mask for mask in clip.masks if mask.object_id == object_of(clip, known["id"]).object_id]
            if "start" in known:
                assert [mask.frame for mask in masks] == [known["start"]]
                assert clip.source.frame_names[known["start"]] == f"{known['start_name']}.jpg"


def test_youtube_vos_lists_the_frames_that_results_are_wanted_for():
    video = next(video for video in expected_of("youtubevos")["videos"] if video["split"] == "valid")
    wanted = read_requested_frames(str(GOLDENS / "youtubevos"), split="valid")
    assert wanted == {
        video["video"]: {str(known["id"]): tuple(known["requested"]) for known in video["objects"]},
    }
    every = list_frames(str(GOLDENS / "youtubevos/valid_all_frames/JPEGImages" / video["video"])).names
    assert [name.rpartition(".")[0] for name in every] == video["all_frames"]


def test_youtube_vis():
    (video,) = expected_of("youtubevis")["videos"]
    clip = clips_of("youtubevis")[video["video"]]
    assert_frames(clip, video)
    assert_objects(clip, video)
    boxes = {(box.object_id, box.frame): box for box in boxes_from_masks(clip).boxes}
    for box in clip.boxes:
        assert box == boxes[box.object_id, box.frame]


def test_coco():
    expected = expected_of("coco")
    clips = clips_of("coco")
    assert list(clips) == [str(image["image"]) for image in expected["videos"]]
    for image in expected["videos"]:
        clip = check_clip(clips[str(image["image"])])
        assert [clip.width, clip.height] == image["size"]
        assert frame_names(clip, [image["file"]]) == [image["file"]]
        kept = [known for known in image["objects"] if "skip" not in known]
        assert [known.source_id for known in clip.objects] == [str(known["id"]) for known in kept]
        for known in kept:
            found = object_of(clip, known["id"])
            assert found.category == known["category"]
            assert masks_of(clip, found.object_id) == {"0": known["mask"]}
            if "box" in known:
                box = known.get("box_clipped", known["box"])
                assert boxes_of(clip, found.object_id)["0"] == pytest.approx(box, abs=ATOL)


def test_burst():
    (video,) = expected_of("burst")["videos"]
    clip = clips_of("burst")[video["video"]]
    assert_frames(clip, video)
    assert_objects(clip, video)
    for known in video["objects"]:
        object_id = object_of(clip, known["id"]).object_id
        made = [mask.frame for mask in clip.masks if mask.object_id == object_id and mask.machine_made]
        assert made == known["machine_made"]


def test_burst_first_frames_carry_box_point_and_mask():
    (video,) = expected_of("burst")["videos"]
    (clip,) = read_burst(str(GOLDENS / "burst/val/first_frame_annotations.json"))
    check_clip(clip)
    for known in video["objects"]:
        object_id, prompt = object_of(clip, known["id"]).object_id, known["prompt"]
        frame = str(prompt["frame"])
        assert boxes_of(clip, object_id) == {frame: prompt["box_xyxy"]}
        points = [(point.frame, [point.x, point.y]) for point in clip.points if point.object_id == object_id]
        assert points == [(prompt["frame"], prompt["point"])]
        assert masks_of(clip, object_id) == {frame: known["masks"][frame]}


def test_sav():
    expected = expected_of("sav")
    clips = clips_of("sav")
    train, val = expected["videos"]
    assert_frames(clips[val["video"]], val)
    assert_objects(clips[val["video"]], val)

    clip = check_clip(clips[train["video"]])
    assert [clip.width, clip.height] == train["size"]
    assert list(clip.annotated_frames or ()) == train["annotated_video_frames"]
    for known in train["objects"]:
        found = object_of(clip, known["id"])
        assert found.object_id == known["internal_id"]
        masks = masks_of(clip, found.object_id)
        assert {str(train["annotated_video_frames"].index(int(frame))): mask for frame, mask in masks.items()} == (
            known["masks"]
        )


@pytest.mark.parametrize("name", ["got10k", "lasot", "mot17", "tao", "trackingnet"])
def test_tracks_of_boxes(name):
    expected = expected_of(name)
    clips = {clip_id.rpartition("/")[2]: clip for clip_id, clip in clips_of(name).items()}
    assert sorted(clips) == sorted(video["video"].rpartition("/")[2] for video in expected["videos"])
    for video in expected["videos"]:
        clip = clips[video["video"].rpartition("/")[2]]
        assert_frames(clip, video)
        assert clip.object_ids() == tuple(range(1, len(video["objects"]) + 1))
        for object_id, known in enumerate(video["objects"], 1):
            boxes = boxes_of(clip, object_id)
            wanted = known.get("boxes", known.get("boxes_unclipped"))
            assert boxes.keys() == wanted.keys()
            for frame, box in wanted.items():
                assert np.allclose(boxes[frame], box, atol=ATOL)
            absent = [frame for frame, box in clip.boxes_of(object_id).items() if not box.visible]
            assert sorted(absent) == known.get("absent", [])


def test_tao_names_its_tracks_and_videos():
    (video,) = expected_of("tao")["videos"]
    clip = clips_of("tao")[video["video"]]
    for known in video["objects"]:
        assert object_of(clip, known["id"]).category == known["category"]
    assert clip.masks == ()
