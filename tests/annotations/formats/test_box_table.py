"""Tables of boxes: columns, lines named in errors, clips anywhere in the file, one clip without clip_id."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvos.annotations.formats.box_table import detect, read_box_table
from rayvos.annotations.manifest import check_clip
from rayvos.errors import BoxError, FormatError, IdError, MissingPathError
from tests.annotations.formats.expectations import write_frames

HEADER = "clip_id,object_id,frame,x0,y0,x1,y1\n"
ROW = {"clip_id": "a", "object_id": 1, "frame": 0, "x0": 1, "y0": 2, "x1": 10.5, "y1": 12}


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "wéird clip"):
        write_frames(tmp_path / name, [f"{frame}.jpg" for frame in range(12)])
    return tmp_path


def table(folder, text, name="boxes.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def sides(clip):
    return [(box.object_id, box.frame, box.x0, box.y0, box.x1, box.y1) for box in clip.boxes]


def test_rows_of_clips_may_be_mixed_and_objects_get_dense_ids(folder):
    rows = "b,7,1,0,0,5,5\na,3,2,1,1,4.25,4\nb,2,0,0,0,6,6\na,3,0,1,1,4,4\nb,7,0,1,0,5,5\n"

    clips = {clip.clip_id: clip for clip in read_box_table(table(folder, HEADER + rows))}

    assert list(clips) == ["b", "a"]
    assert sides(clips["a"]) == [(1, 0, 1, 1, 4, 4), (1, 2, 1, 1, 4.25, 4)]
    assert sides(clips["b"]) == [(1, 0, 0, 0, 6, 6), (2, 0, 1, 0, 5, 5), (2, 1, 0, 0, 5, 5)]
    assert [known.source_id for known in clips["b"].objects] == ["2", "7"]
    assert clips["a"].source.frame_names[2:11:8] == ("2.jpg", "10.jpg")
    assert (clips["a"].height, clips["a"].width, clips["a"].num_frames) == (48, 64, 12)


@pytest.mark.parametrize(
    "text",
    [
        "clip_id,object_id,frame,x0,y0,x1,y1\r\na,1,0,1,2,10.5,12\r\n",
        "clip_id;object_id;frame;x0;y0;x1;y1\na;1;0;1;2;10.5;12",
        "clip_id\tobject_id\tframe\tx0\ty0\tx1\ty1\na\t1\t0\t1\t2\t10.5\t12\n",
        b"\xef\xbb\xbfclip_id,object_id,frame,x0,y0,x1,y1\na,1,0,1,2,10.5,12\n",
        '"clip_id", "Object_ID", frame, x0, y0, x1, y1\n"a", 1.0, 0.0, 1, 2, 10.5, 12\n\n',
        "y1,x1,y0,x0,frame,note,object_id,clip_id\n12,10.5,2,1,0,hello,1,a\n",
        json.dumps(ROW) + "\n",
        "\ufeff" + json.dumps(ROW | {"category": None, "extra": [1]}) + "\r\n\r\n",
        json.dumps([ROW], indent=2),
    ],
    ids=["crlf", "semicolons", "tabs", "bom", "quotes and blanks", "other order", "json", "json with bom", "json list"],
)
def test_spellings_of_one_table_give_one_clip(folder, text):
    path = table(folder, text)

    (clip,) = read_box_table(path)

    assert detect(path)
    assert clip.clip_id == "a"
    assert sides(clip) == [(1, 0, 1, 2, 10.5, 12)]


def test_category_and_absence_are_optional_columns(folder):
    rows = "a,1,0,1,1,4,4,dog,1\na,1,1,,,,,dog,0\na,2,0,1,1,4,4,,true\n"

    (clip,) = read_box_table(table(folder, HEADER.strip() + ",category,visible\n" + rows))

    assert [known.category for known in clip.objects] == ["dog", None]
    assert [(box.object_id, box.frame, box.visible) for box in clip.boxes] == [
        (1, 0, True),
        (1, 1, False),
        (2, 0, True),
    ]


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ("a,dog,0,1,1,4,4", FormatError, "object_id 'dog': .* from 1; did you mean the category column"),
        ("a,0,0,1,1,4,4", FormatError, "object_id '0': expected a whole number from 1$"),
        ("a,1.5,0,1,1,4,4", FormatError, "object_id '1.5'"),
        ("a,1,-1,1,1,4,4", FormatError, "frame '-1': expected a whole number from 0"),
        ("a,1,99999999999,1,1,4,4", FormatError, "frame '99999999999'"),
        ("a,1,0,1,,4,4", FormatError, "y0 '': expected a finite number"),
        ("a,1,0,1,nan,4,4", FormatError, "y0 'nan'"),
        ("a,1,0,1,1,inf,4", FormatError, "x1 'inf'"),
        ("a,1,0,9,1,4,4", FormatError, r"box \[9.0, 1.0, 4.0, 4.0\]: expected x0 < x1 .*; is it x, y, width"),
        ("a,1,0,4,1,4,4", FormatError, "expected x0 < x1"),
        ("a,1,12,1,1,4,4", FormatError, "frame 12: clip 'a' has frames 0…11; frames count from 0"),
        ("a,1,0,70,1,80,4", BoxError, "lies outside the 64x48 frame"),
        ("a,5,3,1,1,4,4", IdError, r"line 6: object 5 has a box on frame 3 already, in .*boxes\.csv line 2"),
    ],
)
def test_a_bad_row_is_named_by_line_and_spoils_its_clip_only(folder, row, error, message):
    path = table(folder, f"{HEADER}a,5,3,1,1,4,4\n\nb,1,0,1,1,4,4\n\n{row}\n")
    errors = {}

    clips = list(read_box_table(path, on_error=errors.__setitem__))

    assert [clip.clip_id for clip in clips] == ["b"]
    assert list(errors) == ["a"]
    assert str(errors["a"]).startswith(f"{path} line 6: ")
    with pytest.raises(error, match=message):
        list(read_box_table(path))


def test_two_categories_of_one_object_are_an_error(folder):
    path = table(folder, HEADER.strip() + ",category\na,1,0,1,1,4,4,dog\na,1,1,1,1,4,4,cat\n")

    with pytest.raises(IdError, match=r"line 3: object 1 is 'cat', but 'dog' in .*boxes\.csv line 2; give each"):
        list(read_box_table(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"),
        (HEADER, "expected a row per box below the header, found none"),
        (HEADER.strip(), "expected a row per box below the header, found none"),
        ("clip_id,object_id,frame,x,y,w,h\na,1,0,1,2,3,4\n", r"without x0, y0, x1, y1; boxes are edges"),
        ("a,1,0,1,2,3,4\n", "line 1: expected the columns"),
        ("clip_id,clip_id,object_id,frame,x0,y0,x1,y1\n", "column clip_id is there twice"),
        (HEADER + "a,1,0,1,2,3,4\na,1,0,1,2,3\n", "line 3: expected 7 columns as in the header, found 6"),
        (HEADER + "a,1,0,1,2,3,4\n\na,1,0,1,2,3,4,5\n", "line 4: expected 7 columns as in the header, found 8"),
        (HEADER.encode() + b"a\xff,1,0,1,2,3,4\n", "expected .*UTF-?8"),
        (json.dumps(ROW) + "\n{oops\n", "line 2: expected one JSON object per line"),
        (json.dumps(ROW) + "\n[1]\n", "line 2: expected an object with the keys"),
        (HEADER + ",1,0,1,2,3,4\n", "line 2: no clip_id; add the column"),
        ("[{}]", "entry 1: expected an object with the keys"),
        (json.dumps([{**ROW, "clip_id": None}]), "entry 1: no clip_id"),
        ("[1", "expected a JSON list of objects"),
    ],
)
def test_a_table_that_cannot_be_used_at_all_is_an_error_even_when_bad_clips_are_skipped(folder, text, message):
    with pytest.raises(FormatError, match=message):
        list(read_box_table(table(folder, text), on_error=lambda name, error: None))


def test_one_clip_needs_no_clip_id(folder):
    path = table(folder, "object_id,frame,x0,y0,x1,y1\n1,3,1,1,4,4\n")

    (clip,) = read_box_table(path, frames=str(folder / "wéird clip"))

    assert clip.clip_id == "wéird clip"
    assert sides(clip) == [(1, 3, 1, 1, 4, 4)]


def test_a_video_file_is_one_clip_or_one_of_a_folder(folder):
    (folder / "v.x.mp4").write_bytes(b"video")
    info = SimpleNamespace(num_frames=4, height=48, width=64, fps=24.0)
    rows = "object_id,frame,x0,y0,x1,y1\n1,3,1,1,4,4\n"

    (alone,) = read_box_table(table(folder, rows), frames=str(folder / "v.x.mp4"), probe=lambda path: info)
    (found,) = read_box_table(table(folder, HEADER + "v.x,1,3,1,1,4,4\n"), probe=lambda path: info)

    assert alone == found
    assert (alone.clip_id, alone.source.kind, alone.fps) == ("v.x", "video", 24)


def test_several_clips_in_one_folder_of_images_are_an_error(folder):
    path = table(folder, HEADER + "a,1,0,1,1,4,4\nb,1,0,1,1,4,4\n")

    with pytest.raises(FormatError, match=r"2 clips \('a', 'b', …\), but .* is one clip"):
        list(read_box_table(path, frames=str(folder / "a")))


def test_a_clip_without_frames_is_reported_by_its_id(folder):
    path = table(folder, HEADER + "gone,1,0,1,1,4,4\na,1,0,1,1,4,4\n")
    errors = {}

    assert [clip.clip_id for clip in read_box_table(path, on_error=errors.__setitem__)] == ["a"]
    assert isinstance(errors["gone"], MissingPathError)
    assert "--frames" in str(errors["gone"])


def test_a_table_is_told_from_other_files(folder):
    assert not detect(table(folder, "a,b\n1,2\n"))
    assert not detect(table(folder, "", "empty.csv"))
    assert not detect(table(folder, '{"keyframe_names": []}\n', "x.jsonl"))
    assert not detect(str(folder))
    assert not detect(str(folder / "missing.csv"))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.dictionaries(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(1, 9), st.integers(0, 11)),
        st.tuples(st.floats(0, 60), st.floats(0, 40), st.floats(0.1, 500), st.floats(0.1, 500)),
        min_size=1,
    ),
    seed=st.randoms(use_true_random=False),
)
def test_every_row_comes_back_as_it_was_written_whatever_the_order(tmp_path_factory, rows, seed):
    folder = tmp_path_factory.mktemp("rows")
    for name in ("a", "b"):
        write_frames(folder / name, [f"{frame}.jpg" for frame in range(12)])
    items = [(*key, x, y, x + w, y + h) for key, (x, y, w, h) in rows.items()]
    seed.shuffle(items)
    as_csv = table(folder, HEADER + "".join(",".join(map(str, item)) + "\n" for item in items))
    as_json = table(folder, "\n".join(json.dumps(dict(zip(ROW, item, strict=True))) for item in items), "boxes.jsonl")

    clips = list(read_box_table(as_csv))

    found = {
        (clip.clip_id, int(clip.objects[box.object_id - 1].source_id), box.frame, box.x0, box.y0, box.x1, box.y1)
        for clip in clips
        for box in check_clip(clip).boxes
    }
    assert found == set(items)
    assert list(read_box_table(as_json)) == clips
