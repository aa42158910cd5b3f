"""Candidates and answers written as Point-VOS files, and read back."""

from __future__ import annotations

import dataclasses
import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayvos.annotations.formats.point_vos import read_point_vos
from rayvos.annotations.formats.point_vos_results import answer_records, candidate_records, write_point_vos
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Box, Clip, ClipSource, ObjectInfo, Point
from rayvos.annotations.tables import CANDIDATES
from rayvos.errors import FormatError
from tests.annotations.formats.expectations import golden, write_frames

SOURCES = [
    ClipSource("images", "frames/a", tuple(f"{number:06d}.jpg" for number in (12, 42, 107, 108))),
    ClipSource("images", "frames/a", tuple("wxyz")),
    ClipSource("video", "a.mp4"),
    ClipSource("video", "a.mp4", video_frames=(3, 5, 8, 13)),
]
OBJECTS = (ObjectInfo(1, "dog"), ObjectInfo(4))
POINTS = st.builds(
    Point,
    st.sampled_from([1, 4]),
    st.integers(0, 3),
    st.integers(0, 63).map(float),
    st.integers(0, 47).map(float),
    st.sampled_from(["positive", "negative", "ambiguous"]),
    st.sampled_from([None, "ann", "bob"]),
    st.none() | st.floats(0.1, 60),
)


def make_clip(source: ClipSource = SOURCES[0], **more) -> Clip:
    return Clip("some/clip", source, 48, 64, 4, objects=OBJECTS, **more)


def rows(*places: tuple[int, int, int, int, str]) -> pa.Table:
    names = ("object_id", "frame", "x", "y", "kind")
    found = [dict(zip(names, place, strict=True)) for place in places]
    return pa.Table.from_pylist([{"clip_id": "some/clip", "rank": 0, **row} for row in found], schema=CANDIDATES)


def by_place(points: tuple[Point, ...]) -> list[Point]:
    return sorted(points, key=lambda point: (point.object_id, point.frame, point.x, point.y))


@pytest.mark.parametrize("source", SOURCES, ids=["numbered", "named", "video", "part of a video"])
@given(points=st.lists(POINTS, unique_by=lambda p: (p.object_id, p.frame, p.x, p.y)))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_answers_come_back_into_their_manifest_as_they_were(tmp_path, source, points):
    clip = make_clip(source, boxes=(Box(1, 0, 1, 1, 5, 5),))
    write_manifest([clip], str(tmp_path / "clips.parquet"))
    write_point_vos(str(tmp_path / "p.json"), answer_records(dataclasses.replace(clip, points=tuple(points))))

    (found,) = read_point_vos(str(tmp_path / "p.json"), manifest=str(tmp_path / "clips.parquet"))

    assert by_place(found.points) == by_place(tuple(points))
    assert dataclasses.replace(found, points=()) == clip


@pytest.mark.parametrize("part", ["Oops", "Kinetics"])
def test_the_golden_files_written_again_read_the_same(tmp_path, part):
    folder, expected = golden("pointvos")
    for video in expected["videos"]:
        for item in video["objects"]:
            write_frames(tmp_path / "JPEGImages" / item["id"], [f"{number:06d}.jpg" for number in (12, 42, 107)])
    clips = list(read_point_vos(str(folder / part), frames=str(tmp_path), on_error=lambda *_: None))

    write_point_vos(str(tmp_path / "again.json"), (record for clip in clips for record in answer_records(clip)))

    again = list(read_point_vos(str(tmp_path / "again.json"), frames=str(tmp_path)))
    assert again == clips


def test_a_manifest_keeps_who_answered_and_how_long_it_took(tmp_path):
    point = Point(1, 2, 3.0, 4.0, "ambiguous", "ann", 0.95)

    write_manifest([make_clip(points=(point,))], str(tmp_path / "m.parquet"))

    assert next(iter(ManifestFile(str(tmp_path / "m.parquet")))).points == (point,)


def test_candidates_are_no_answers_until_somebody_answers(tmp_path):
    clip = make_clip(points=(Point(1, 1, 8.0, 9.0, "negative"),))
    write_manifest([clip], str(tmp_path / "clips.parquet"))
    path = tmp_path / "p.json"
    table = rows((1, 0, 5, 6, "foreground"), (1, 1, 8, 9, "ambiguous"), (4, 3, 1, 2, "background"))
    counts = write_point_vos(str(path), candidate_records(clip, table))

    (unanswered,) = read_point_vos(str(path), manifest=str(tmp_path / "clips.parquet"))
    records = json.loads(path.read_text())
    for record in records.values():
        for item in record["annotated_points"]:
            item |= {"status": "ACCEPTED" if item["is_fg_candidate"] else "REJECTED", "annotator": "ann", "seconds": 1}
    records[next(iter(records))]["annotated_points"][1]["status"] = "AMBIGUOUS"
    path.write_text(json.dumps(records))
    (answered,) = read_point_vos(str(path), manifest=str(tmp_path / "clips.parquet"))

    assert counts == {"objects": 2, "points": 3}
    assert unanswered == clip
    assert by_place(answered.points) == [
        Point(1, 0, 5.0, 6.0, "positive", "ann", 1.0),
        Point(1, 1, 8.0, 9.0, "ambiguous", "ann", 1.0),
        Point(4, 3, 1.0, 2.0, "negative", "ann", 1.0),
    ]


def test_records_have_the_published_fields():
    (record,) = candidate_records(make_clip(), rows((1, 1, 5, 6, "foreground")))

    assert (record["object_name"], record["video_name"]) == ("dog", "some/clip")
    assert len(record["question_hash"]) == 32
    (point,) = record["annotated_points"]
    assert (point["x"], point["y"], point["frame_id"], point["is_fg_candidate"]) == (5, 6, "000042", True)


def test_answers_of_another_manifest_are_named(tmp_path):
    write_manifest([make_clip()], str(tmp_path / "clips.parquet"))
    other = dataclasses.replace(make_clip(points=(Point(1, 0, 1, 1),)), clip_id="other")
    strange = dataclasses.replace(make_clip(), objects=(ObjectInfo(9),), points=(Point(9, 0, 1, 1),))
    write_point_vos(str(tmp_path / "a.json"), answer_records(other))
    write_point_vos(str(tmp_path / "b.json"), answer_records(strange))

    with pytest.raises(FormatError, match="clip 'other' is not in"):
        list(read_point_vos(str(tmp_path / "a.json"), manifest=str(tmp_path / "clips.parquet")))
    with pytest.raises(FormatError, match=r"object_id 9: clip 'some/clip' has the objects \(1, 4\)"):
        list(read_point_vos(str(tmp_path / "b.json"), manifest=str(tmp_path / "clips.parquet")))
