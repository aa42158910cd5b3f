from __future__ import annotations

import logging

import pytest

from rayvos.annotations.listed_frames import ListedFrames, guesses_beside
from rayvos.errors import FrameMissingError, InputError, MissingPathError
from tests.annotations.formats.mask_data import write_frames

GUESSES = ["JPEGImages", "../frames"]


@pytest.mark.parametrize("place", ["a/JPEGImages", "frames"])
def test_frames_are_found_in_the_usual_places(tmp_path, place):
    write_frames(tmp_path / place / "v", ["0.jpg", "1.jpg"])
    listed = ListedFrames(str(tmp_path / "a/train.json"), None, GUESSES, "v/0.jpg")
    source = listed.source(["v/0.jpg", "v/1.jpg"], "videos[0]")
    assert (source.uri, source.frame_names) == (str(tmp_path / place / "v"), ("0.jpg", "1.jpg"))
    assert source.identity


@pytest.mark.parametrize(
    ("annotation_file", "guess", "place"),
    [
        ("train.json", "JPEGImages", "./JPEGImages"),
        ("train.json", "../frames", "../frames"),
        ("../x/train.json", "../../frames", "../../frames"),
        ("x/train.json", "../frames", "./frames"),
        ("/a/b/train.json", "../frames", "/a/frames"),
        ("s3://bucket/a/train.json", "../frames", "s3://bucket/frames"),
    ],
)
def test_places_are_relative_to_the_folder_of_the_file(annotation_file, guess, place):
    assert ListedFrames(annotation_file, None, [guess], None).root == place


def test_no_place_is_looked_for_outside_the_bucket():
    listed = ListedFrames("s3://bucket/train.json", None, ["../frames", "../../frames", "."], None)
    assert listed.root == "s3://bucket"


def test_a_folder_that_the_user_names_comes_first_and_must_hold_the_frames(tmp_path):
    write_frames(tmp_path / "JPEGImages/v", ["0.jpg"])
    write_frames(tmp_path / "mine/v", ["0.jpg"])
    mine = str(tmp_path / "mine")
    assert ListedFrames(str(tmp_path / "a.json"), mine, GUESSES, "v/0.jpg").root == mine
    with pytest.raises(MissingPathError, match=r"elsewhere.*v/0\.jpg"):
        ListedFrames(str(tmp_path / "a.json"), str(tmp_path / "elsewhere"), GUESSES, "v/0.jpg")


def test_frames_that_are_nowhere_are_named_with_one_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        listed = ListedFrames(str(tmp_path / "a.json"), None, GUESSES, "v/0.jpg")
    source = listed.source(["v/0.jpg"], "videos[0]")
    assert (source.frame_names, source.identity) == (("0.jpg",), "")
    assert len(caplog.records) == 1


def test_a_frame_that_is_missing_among_others_is_an_error(tmp_path):
    write_frames(tmp_path / "JPEGImages/v", ["0.jpg"])
    listed = ListedFrames(str(tmp_path / "a.json"), None, GUESSES, "v/0.jpg")
    with pytest.raises(FrameMissingError, match=r"v/1\.jpg"):
        listed.source(["v/0.jpg", "v/1.jpg"], "videos[0]")


def test_frames_of_several_folders_keep_their_folders(tmp_path):
    write_frames(tmp_path / "JPEGImages/v", ["0.jpg"])
    write_frames(tmp_path / "JPEGImages/w", ["0.jpg"])
    listed = ListedFrames(str(tmp_path / "a.json"), None, GUESSES, "v/0.jpg")
    source = listed.source(["v/0.jpg", "w/0.jpg"], "videos[0]")
    assert (source.uri, source.frame_names) == (str(tmp_path / "JPEGImages"), ("v/0.jpg", "w/0.jpg"))
    assert source.identity != listed.source(["w/0.jpg", "v/0.jpg"], "videos[0]").identity


@pytest.mark.parametrize("name", ["../0.jpg", "/etc/0.jpg", "v/../../0.jpg", "v\\0.jpg", ""])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    write_frames(tmp_path / "JPEGImages/v", ["0.jpg"])
    listed = ListedFrames(str(tmp_path / "a.json"), None, GUESSES, "v/0.jpg")
    with pytest.raises(InputError, match=r"videos\[0\]"):
        listed.source([name], "videos[0]")


def test_pictures_of_a_named_split_are_looked_for_under_its_name():
    assert "../train2017" in guesses_beside("annotations/instances_train2017.json")
    assert "train/JPEGImages" in guesses_beside("train.json")
