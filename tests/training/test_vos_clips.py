"""Clips to learn propagation from: which frames count, what they show, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Box, MaskPrompt, ObjectInfo, Point
from rayvos.errors import InputError
from rayvos.masks.ignore import IGNORE
from rayvos.masks.rle import mask_to_rle
from rayvos.training.datasets import prepare_data
from rayvos.training.vos_clips import GeneratedClips, GeneratedSettings, ManifestClips, draw_points

SMALL = GeneratedSettings(seed=3, num_clips=4, height=64, width=96, clip_frames=6)


@pytest.fixture
def square_clip(image_clip):
    """The moving square with masks of object 7 on four frames; on frame 6 only its box is known."""
    masks, height, width = [], image_clip.height, image_clip.width
    for frame in (0, 2, 4, 8):
        mask = np.zeros((height, width), np.bool_)
        mask[height // 2 : height // 2 + 12, 2 + frame : 14 + frame] = True
        masks.append(MaskPrompt(7, frame, mask_to_rle(mask)))
    other = MaskPrompt(9, 4, mask_to_rle(np.eye(height, width, dtype=np.bool_)))
    return dataclasses.replace(
        image_clip,
        objects=(ObjectInfo(7), ObjectInfo(9)),
        masks=(*masks, other),
        boxes=(Box(9, 2, 40, 4, 50, 14),),
        points=(Point(7, 0, 5, 30), Point(7, 3, 8, 30), Point(7, 3, 60, 5, "negative"), Point(7, 5, 1, 1, "ambiguous")),
    )


@pytest.fixture
def prepared(square_clip, tmp_path):
    path = str(tmp_path / "clips.parquet")
    write_manifest([square_clip], path)
    return prepare_data([path], folder=None)


def test_frames_with_masks_are_learnt_from_and_object_ids_become_numbers(prepared):
    clips = ManifestClips(prepared)

    views = clips.views(0, [4, 0])

    assert clips.frames(0) == (0, 2, 4, 8)
    assert np.unique(views[0].labels).tolist() == [0, 1, 2]
    assert views[1].labels[30, 5] == 1
    assert views[0].image.shape == (*views[0].labels.shape, 3)


def test_what_is_known_by_its_box_alone_is_ignored_below_objects(prepared):
    (view,) = ManifestClips(prepared).views(0, [2])

    assert (view.labels[4:14, 40:50] == IGNORE).all()
    assert view.labels[30, 8] == 1


def test_frames_are_thinned_evenly(prepared):
    assert ManifestClips(prepared, max_frames=2).frames(0) == (0, 8)


def test_given_points_are_taken_and_ambiguous_ones_are_not(prepared):
    clips = ManifestClips(prepared, supervision="points")

    (view,) = clips.views(0, [3])

    assert clips.frames(0) == (0, 3)
    assert view.points.xy_P2.tolist() == [[8, 30], [60, 5]]
    assert view.points.positive_P.tolist() == [True, False]


def test_points_can_be_drawn_from_masks(prepared):
    (view,) = ManifestClips(prepared, supervision="points", simulate=True).views(0, [4])

    chosen = view.points.positive_P & (view.points.number_P == 1)
    x, y = view.points.xy_P2[chosen].astype(int).T
    assert (view.labels[y, x] == 1).all()
    assert chosen.sum() >= 2


def test_points_are_given_and_masks_learnt_on_frames_that_have_both(square_clip, tmp_path):
    path = str(tmp_path / "both.parquet")
    write_manifest([dataclasses.replace(square_clip, points=(*square_clip.points, Point(7, 4, 8, 30)))], path)

    clips = ManifestClips(prepare_data([path], folder=None), supervision="hybrid")

    assert clips.frames(0) == (0, 4)


@pytest.mark.parametrize(
    ("supervision", "what"), [("masks", "masks"), ("points", "points"), ("hybrid", "points and masks")]
)
def test_data_without_annotations_of_the_kind_is_refused(square_clip, tmp_path, supervision, what):
    path = str(tmp_path / "empty.parquet")
    write_manifest([dataclasses.replace(square_clip, masks=(), points=())], path)

    with pytest.raises(InputError, match=f"expected clips with {what} on two frames or more, found none in 1 clips"):
        ManifestClips(prepare_data([path], folder=None), supervision=supervision)


@pytest.mark.parametrize(("supervision", "change"), [
    ("points", {"points": (Point(7, 0, 5, 30), Point(7, 3, 8, 30))}),
    ("points", {"points": (Point(7, 0, 5, 30, "negative"), Point(7, 3, 8, 30, "negative"))}),
    ("points", {"points": (Point(7, 0, 5, 30), Point(7, 3, 8, 30), Point(7, 3, 99, 30, "negative"))}),
    ("masks", {"masks": tuple(MaskPrompt(7, frame, mask_to_rle(np.ones((48, 66), np.bool_))) for frame in (0, 1))}),
    ("masks", {"masks": tuple(MaskPrompt(7, frame, mask_to_rle(np.zeros((48, 66), np.bool_))) for frame in (0, 1))}),
])  # fmt: skip
def test_data_of_one_class_is_refused(square_clip, tmp_path, supervision, change):
    path = str(tmp_path / "one.parquet")
    write_manifest([dataclasses.replace(square_clip, **change)], path)

    with pytest.raises(InputError, match=f"expected {supervision} of two classes inside the frames, found objects"):
        ManifestClips(prepare_data([path], folder=None), supervision=supervision).check()


def test_frames_of_another_size_than_the_manifest_says_are_named(square_clip, tmp_path):
    path = str(tmp_path / "other.parquet")
    masks = tuple(MaskPrompt(7, frame, mask_to_rle(np.eye(50, 60, dtype=np.bool_))) for frame in (0, 2))
    write_manifest([dataclasses.replace(square_clip, height=50, width=60, masks=masks)], path)

    with pytest.raises(InputError, match=r"clip 'square' frame 0.*48x66"):
        ManifestClips(prepare_data([path], folder=None)).check()


def test_masks_of_another_size_than_their_clip_are_named(square_clip, tmp_path):
    path = str(tmp_path / "other.parquet")
    masks = tuple(MaskPrompt(7, frame, mask_to_rle(np.eye(50, 60, dtype=np.bool_))) for frame in (0, 2))
    write_manifest([dataclasses.replace(square_clip, masks=masks)], path)

    with pytest.raises(InputError, match=r"clip 'square': a mask cannot be used: .*\(48x66\), found 3000"):
        ManifestClips(prepare_data([path], folder=None)).check()


def test_generated_clips_are_the_same_everywhere():
    first, second = GeneratedClips(settings=SMALL), pickle.loads(pickle.dumps(GeneratedClips(settings=SMALL)))

    for one, other in zip(first.views(1, [0, 5]), second.views(1, [0, 5]), strict=True):
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.points.xy_P2, other.points.xy_P2)


def test_corrupted_labels_lie_elsewhere_in_the_stated_share():
    clean = GeneratedClips(settings=SMALL)
    wrong = GeneratedClips(settings=dataclasses.replace(SMALL, corrupted=0.5))

    changed = [
        np.count_nonzero((one.labels == known) & (other.labels == known)) < 0.5 * np.count_nonzero(one.labels == known)
        for number in range(len(clean))
        for one, other in zip(clean.views(number, range(6)), wrong.views(number, range(6)), strict=True)
        for known in set(np.unique(one.labels)) - {0}
    ]

    assert 0.2 < np.mean(changed) < 0.8


def test_positives_lie_on_their_object_and_negatives_on_no_object():
    (view,) = GeneratedClips(settings=SMALL).views(1, [0])

    x, y = view.points.xy_P2.astype(int).T
    at_points = view.labels[y, x]
    assert (at_points[view.points.positive_P] == view.points.number_P[view.points.positive_P]).all()
    assert (at_points[~view.points.positive_P] == 0).all()


def test_fewer_points_are_the_first_of_more():
    labels = GeneratedClips(settings=SMALL).views(0, [0])[0].labels

    few, many = (draw_points(labels, 1, count, ("d", "c", 0)) for count in (3, 10))

    assert few.xy_P2[few.positive_P].tolist() == many.xy_P2[many.positive_P][:3].tolist()
