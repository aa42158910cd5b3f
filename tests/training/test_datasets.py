from __future__ import annotations

import dataclasses
import json

import cv2
import numpy as np
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Box, MaskPrompt
from rayvos.errors import FrameSizeError, InputError, MissingPathError, UsageError
from rayvos.masks.ignore import IGNORE
from rayvos.masks.rle import mask_to_rle
from rayvos.training.datasets import ObjectFrames, prepare_data
from tests.review.runs import HEIGHT, WIDTH, ellipse, make_clip, make_run, score_of


def with_masks(clip, *, leave_out=()):
    """Return the clip with ellipses as masks, but for the named (object, frame), which keep their box."""
    masks = [
        MaskPrompt(box.object_id, box.frame, mask_to_rle(ellipse(box)) if box.visible else None)
        for box in clip.boxes
        if (box.object_id, box.frame) not in leave_out
    ]
    return dataclasses.replace(clip, masks=tuple(masks))


def open_clips(tmp_path, clips, **options):
    path = str(tmp_path / "clips.parquet")
    write_manifest(clips, path)
    return ObjectFrames(prepare_data([path], folder=None), **{"min_area": 1, **options})


def find(objects, object_id, frame):
    return next(found for found in objects.objects if (found.object_id, found.frame) == (object_id, frame))


def test_a_manifests_masks_are_learnt_from_and_overlaps_stay(tmp_path):
    clip = with_masks(make_clip(tmp_path, "a"))
    objects = open_clips(tmp_path, [clip])

    picture = objects.picture(find(objects, 1, 2))

    box = clip.boxes_of(1)[2]
    assert np.array_equal(picture.labels, ellipse(box).astype(np.uint8))
    assert picture.box.tolist() == pytest.approx([box.x0, box.y0, box.x1, box.y1], abs=1)
    assert picture.image.shape == (HEIGHT, WIDTH, 3)
    assert len(objects.objects) == 11  # two objects on six frames; the second is absent on the last


def test_a_box_without_a_mask_is_ignored_but_where_an_object_with_a_mask_is(tmp_path):
    clip = with_masks(make_clip(tmp_path, "a"), leave_out={(2, 1)})
    objects = open_clips(tmp_path, [clip])

    labels = objects.picture(find(objects, 1, 1)).labels

    own, box = ellipse(clip.boxes_of(1)[1]), clip.boxes_of(2)[1]
    inside = np.zeros_like(own)
    inside[round(box.y0) : round(box.y1), round(box.x0) : round(box.x1)] = True
    assert np.array_equal(labels == 1, own)
    assert np.array_equal(labels == IGNORE, inside & ~own)
    assert (2, 1) not in {(found.object_id, found.frame) for found in objects.objects}


def test_labels_of_a_run_below_the_score_are_ignored(tmp_path):
    clip = make_clip(tmp_path / "frames", "a")
    run = make_run(tmp_path / "run", [clip])
    low = {(i, f) for i in (1, 2) for f in range(6) if clip.boxes_of(i)[f].visible and score_of("a", f, i) < 0.5}
    assert 0 < len(low) < 11

    objects = ObjectFrames(prepare_data([run], folder=str(tmp_path / "out"), min_score=0.5), min_area=1)

    assert {(found.object_id, found.frame) for found in objects.objects} == {
        (i, f) for i in (1, 2) for f in range(6) if clip.boxes_of(i)[f].visible
    } - low
    kept = next(found for found in objects.objects if (3 - found.object_id, found.frame) in low)
    labels = objects.picture(kept).labels
    box = clip.boxes_of(3 - kept.object_id)[kept.frame]
    own = ellipse(clip.boxes_of(kept.object_id)[kept.frame])
    assert np.array_equal(labels == 1, own)
    assert (labels == IGNORE).sum() == 20 * 18 - own[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].sum()


def test_coco_is_imported_without_crowds_and_small_masks(tmp_path):
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((60, 80, 3), np.uint8))

    def square(number, side, **more):
        box = [5 + 10 * number, 5, side, side]
        x0, y0, x1, y1 = box[0], box[1], box[0] + side, box[1] + side
        corners = [[x0, y0, x1, y0, x1, y1, x0, y1]]
        found = {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": side * side, "iscrowd": 0}
        return {**found, "segmentation": corners, **more}

    crowd = {"size": [60, 80], "counts": [0, 4800]}
    content = {
        "images": [{"id": 1, "file_name": "picture.png", "height": 60, "width": 80}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [square(1, 20), square(2, 5), square(3, 30, iscrowd=1, segmentation=crowd)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))

    objects = ObjectFrames(prepare_data([str(tmp_path / "coco.json")], folder=str(tmp_path / "out")), min_area=100)

    assert len(objects.objects) == 1
    assert objects.picture(objects.objects[0]).labels.sum() == 400


@pytest.mark.parametrize("layout", ["davis", "youtube-vos"])
def test_folders_of_label_maps_are_imported(tmp_path, layout):
    images, masks = ("JPEGImages/480p", "Annotations/480p") if layout == "davis" else ("JPEGImages", "Annotations")
    for name in (images, masks):
        (tmp_path / name / "clip").mkdir(parents=True)
    for frame in range(3):
        cv2.imwrite(str(tmp_path / images / "clip" / f"{frame:05d}.jpg"), np.full((40, 60, 3), 90, np.uint8))
        label_map = np.zeros((40, 60), np.uint8)
        label_map[10:30, 5 + frame : 25 + frame] = 1
        cv2.imwrite(str(tmp_path / masks / "clip" / f"{frame:05d}.png"), label_map)
    if layout == "davis":
        (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
        (tmp_path / "ImageSets" / "2017" / "train.txt").write_text("clip\n")
    else:
        about = {"videos": {"clip": {"objects": {"1": {"category": "thing", "frames": ["00000", "00001", "00002"]}}}}}
        (tmp_path / "meta.json").write_text(json.dumps(about))

    objects = ObjectFrames(prepare_data([str(tmp_path)], folder=str(tmp_path / "out")), min_area=100)

    assert [(found.frame, found.object_id) for found in objects.objects] == [(0, 1), (1, 1), (2, 1)]
    assert objects.picture(objects.objects[2]).box.tolist() == [7, 10, 27, 30]


def test_the_digest_follows_the_content(tmp_path):
    clip = with_masks(make_clip(tmp_path, "a"))
    write_manifest([clip], str(tmp_path / "one.parquet"))
    write_manifest([clip], str(tmp_path / "same.parquet"))
    write_manifest([dataclasses.replace(clip, masks=clip.masks[1:])], str(tmp_path / "other.parquet"))

    one, same, other = (
        prepare_data([str(tmp_path / f"{name}.parquet")], folder=None).digest for name in ("one", "same", "other")
    )

    assert one == same != other


def test_clips_that_are_held_back_are_not_learnt_from(tmp_path):
    clips = [with_masks(make_clip(tmp_path, f"clip{number}", num_frames=2)) for number in range(6)]

    kept, held_out = open_clips(tmp_path, clips).split()

    assert held_out
    assert {found.clip for found in kept}.isdisjoint({found.clip for found in held_out})
    assert len(kept) + len(held_out) == 6 * 3


def test_a_single_clip_is_not_cut(tmp_path):
    kept, held_out = open_clips(tmp_path, [with_masks(make_clip(tmp_path, "a"))]).split()

    assert len(kept) == 11
    assert held_out == []


def test_data_without_a_usable_mask_is_refused(tmp_path):
    clip = make_clip(tmp_path, "a")
    with pytest.raises(InputError, match=r"masks of at least 1 pixels, found none in 1 clips"):
        open_clips(tmp_path, [clip])
    with pytest.raises(InputError, match="masks of at least 10000 pixels"):
        open_clips(tmp_path, [with_masks(clip)], min_area=10_000)
    with pytest.raises(InputError, match="found none in 0 clips"):
        open_clips(tmp_path, [])


def test_frames_of_another_size_are_met_before_training(tmp_path):
    clip = with_masks(make_clip(tmp_path, "a"))
    for file in (tmp_path / "a").iterdir():
        cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8))

    with pytest.raises(FrameSizeError, match="'a'"):
        open_clips(tmp_path, [clip]).check_frames()


def test_sources_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(MissingPathError, match="nowhere"):
        prepare_data([str(tmp_path / "nowhere")], folder=str(tmp_path))
    with pytest.raises(UsageError, match="expected a manifest"):
        prepare_data([str(tmp_path)], folder=None)


def test_a_box_that_leaves_the_frame_is_ignored_inside_it(tmp_path):
    clip = with_masks(make_clip(tmp_path, "a"))
    outside = Box(2, 5, WIDTH - 5, -10, WIDTH + 30, 10)
    boxes = tuple(box for box in clip.boxes if (box.object_id, box.frame) != (2, 5))
    masks = tuple(mask for mask in clip.masks if (mask.object_id, mask.frame) != (2, 5))
    objects = open_clips(tmp_path, [dataclasses.replace(clip, boxes=(*boxes, outside), masks=masks)])

    labels = objects.picture(find(objects, 1, 5)).labels

    assert (labels == IGNORE).sum() == 5 * 10
    assert (labels[:10, -5:] == IGNORE).all()
