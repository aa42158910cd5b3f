"""Point-VOS files: status, null videos and frames, frames as images or videos."""

import json
from types import SimpleNamespace

import pytest

from rayvos.annotations.formats.point_vos import detect, read_point_vos
from rayvos.errors import FormatError, FrameMissingError, MissingPathError
from tests.annotations.formats.expectations import golden, write_frames

LABEL = {"positive": 1, "negative": 0}


def point(x=1, y=2, frame="000001", status="ACCEPTED"):
    return {"x": x, "y": y, "frame_id": frame, "status": status, "is_fg_candidate": False}


def record(points, video="train/Some video", **more):
    return {"question": "Who?", "object_name": "girl", "video_name": video, "annotated_points": points} | more


def write(folder, records, name="train.json"):
    (folder / name).write_text(json.dumps(records))
    return str(folder / name)


@pytest.mark.parametrize("part", ["Oops", "Kinetics"])
def test_the_golden_records_are_read(tmp_path, part):
    folder, expected = golden("pointvos")
    known = {item["id"]: (video, item) for video in expected["videos"] for item in video["objects"]}
    for question in known:
        write_frames(tmp_path / "JPEGImages" / question, [f"{number:06d}.jpg" for number in (12, 42, 107)])
    skipped = {}

    clips = list(read_point_vos(str(folder / part), frames=str(tmp_path), on_error=skipped.__setitem__))

    assert detect(str(folder / part))
    assert set(skipped) == (set(expected["skipped_records"]) if part == "Oops" else set())
    assert len(clips) == (2 if part == "Oops" else 1)
    for clip in clips:
        _, item = known[clip.clip_id]
        numbers = [int(name[:-4]) for name in clip.source.frame_names]
        assert [numbers[frame] for frame in clip.annotated_frames] == item["annotated"]
        found = {str(numbers[frame]): [] for frame in clip.annotated_frames}
        for dot in clip.points:
            if dot.label != "ambiguous":
                found[str(numbers[dot.frame])].append([dot.x, dot.y, LABEL[dot.label]])
        assert {frame: dots for frame, dots in found.items() if dots} == item["points"]
        assert sum(dot.label == "ambiguous" for dot in clip.points) == item["dropped_ambiguous"]
        assert clip.objects[0].category == item["name"]
        assert clip.objects[0].source_id == item["id"]


def test_a_null_video_is_left_out_and_a_null_frame_dropped(tmp_path, caplog):
    write_frames(tmp_path / "a", ["000000.jpg", "000001.jpg"])
    path = write(tmp_path, {"a": record([point(), point(frame=None)]), "b": record([point()], video=None)})

    (clip,) = read_point_vos(path)

    assert len(clip.points) == 1
    assert "no_video" in caplog.text


def test_frames_may_be_a_video_file_named_like_the_video(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "Some video.mp4").write_bytes(b"video")
    info = SimpleNamespace(num_frames=9, height=48, width=64, fps=25.0)

    (clip,) = read_point_vos(write(tmp_path, {"q": record([point(frame="000008")])}), probe=lambda path: info)

    assert (clip.clip_id, clip.source.kind, clip.points[0].frame, clip.fps) == ("q", "video", 8, 25)


def test_image_names_that_are_no_numbers_count_by_position(tmp_path):
    write_frames(tmp_path / "q", ["f-a.jpg", "f-b.jpg", "f-c.jpg"])

    (clip,) = read_point_vos(write(tmp_path, {"q": record([point(frame="2")])}))

    assert clip.points[0].frame == 2


def test_json_lines_with_crlf_and_no_last_newline_are_read(tmp_path):
    write_frames(tmp_path / "a", ["000001.jpg"])
    write_frames(tmp_path / "b", ["000001.jpg"])
    lines = [json.dumps({name: record([point()])}) for name in "ab"]
    (tmp_path / "k.jsonl").write_bytes("\r\n".join(lines).encode("utf-8-sig"))

    assert [clip.clip_id for clip in read_point_vos(str(tmp_path / "k.jsonl"))] == ["a", "b"]


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        ([point(frame="000009")], FrameMissingError, "frame 000009 is not among the 2 frames"),
        ([point(x=64)], FormatError, "point 64, 2 lies outside the 64x48 frame"),
        ([point(status="MAYBE")], FormatError, "status 'MAYBE'"),
        ([{"x": 1}], FormatError, "no 'frame_id'"),
        (None, FormatError, "expected a Point-VOS record"),
    ],
)
def test_a_bad_record_is_named_and_the_others_are_read(tmp_path, points, error, message):
    write_frames(tmp_path / "a", ["000000.jpg", "000001.jpg"])
    write_frames(tmp_path / "b", ["000000.jpg", "000001.jpg"])
    path = write(tmp_path, {"a": record(points), "b": record([point()])})
    errors = {}

    clips = list(read_point_vos(path, on_error=errors.__setitem__))

    assert [clip.clip_id for clip in clips] == ["b"]
    assert list(errors) == ["a"]
    with pytest.raises(error, match=message):
        list(read_point_vos(path))


def test_missing_frames_name_what_was_looked_for(tmp_path):
    with pytest.raises(MissingPathError, match="'q', 'JPEGImages/q', 'train/Some video', 'Some video'"):
        list(read_point_vos(write(tmp_path, {"q": record([point()])})))


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 3}', "{"])
def test_a_file_that_is_no_table_of_records_is_an_error(tmp_path, text):
    (tmp_path / "t.json").write_text(text)

    with pytest.raises(FormatError, match="expected"):
        list(read_point_vos(str(tmp_path / "t.json")))
