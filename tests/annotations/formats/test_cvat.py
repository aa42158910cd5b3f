"""CVAT for video: frame numbers, interpolation, outside, other shapes, hostile XML."""

from types import SimpleNamespace

import numpy as np
import pytest

from rayvos.annotations.formats.cvat import detect, read_cvat
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, FrameSizeError, MissingPathError
from rayvos.masks.rle import rle_area, rle_box, rle_to_mask
from tests.annotations.formats.expectations import absent_frames, assert_boxes, boxes_by_frame, golden, write_frames

META = """<meta><task><name>walk</name><size>5</size><start_frame>0</start_frame><stop_frame>4</stop_frame>
<frame_filter></frame_filter><labels><label><name>not this</name></label></labels>
<original_size><width>64</width><height>48</height></original_size></task><source>v.mp4</source></meta>"""


def box(frame, edges="10,10,20,20", outside=0, more=""):
    x0, y0, x1, y1 = edges.split(",")
    return f'<box frame="{frame}" outside="{outside}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}" {more}/>'


def document(*tracks, meta=META):
    bodies = "".join(f'<track id="{number}" label="dog">{shapes}</track>' for number, shapes in enumerate(tracks))
    return f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}{bodies}</annotations>'


def read(folder, *tracks, meta=META, **options):
    (folder / "a.xml").write_text(document(*tracks, meta=meta))
    (clip,) = read_cvat(str(folder / "a.xml"), **options)
    return clip


def probe(num_frames=5, height=48, width=64, fps=30.0):
    return lambda path: SimpleNamespace(num_frames=num_frames, height=height, width=width, fps=fps)


def test_the_golden_task_is_read():
    folder, expected = golden("cvat")
    (video,) = expected["videos"]

    (clip,) = read_cvat(str(folder))

    numbers = video["source_frames"]
    assert [clip.width, clip.height] == video["size"]
    assert clip.source.uri.endswith("/" + video["video"])
    assert list(clip.source.video_frames) == numbers
    for known in video["objects"]:
        object_id = known["internal_id"]
        assert clip.objects[object_id - 1].source_id == str(known["id"])
        assert clip.objects[object_id - 1].category == known["label"]
        found = {str(numbers[int(frame)]): value for frame, value in boxes_by_frame(clip, object_id).items()}
        assert_boxes(found, known.get("boxes", {}))
        assert [numbers[frame] for frame in absent_frames(clip, object_id)] == known["absent"]
        points = {str(numbers[point.frame]): [] for point in clip.points if point.object_id == object_id}
        for point in clip.points:
            if point.object_id == object_id:
                points[str(numbers[point.frame])].append([point.x, point.y])
        assert points == known.get("points", {})
    check_clip(clip)


def test_detection_takes_a_file_or_a_folder_of_exports(tmp_path):
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "annotations.xml").write_text(document(box(0)))
    (tmp_path / "other.xml.txt").write_text("no")

    assert detect(str(tmp_path))
    assert detect(str(tmp_path / "task" / "annotations.xml"))
    assert not detect(str(tmp_path / "nothing"))


def test_boxes_move_linearly_between_key_frames_and_stay_to_the_end(tmp_path):
    clip = read(tmp_path, box(0, "0,0,10,10") + box(2, "4,8,14,18"))

    found = boxes_by_frame(clip, 1)
    assert found["1"] == [2, 4, 12, 14]
    assert found["3"] == found["4"] == [4, 8, 14, 18]


def test_an_outside_box_hides_the_object_up_to_the_next_one(tmp_path):
    clip = read(tmp_path, box(1) + box(2, outside=1) + box(4, "1,1,9,9"))

    assert sorted(boxes_by_frame(clip, 1)) == ["1", "4"]
    assert absent_frames(clip, 1) == [2, 3]


def test_a_closing_box_behind_the_task_or_off_its_steps_is_ignored(tmp_path):
    meta = META.replace("<frame_filter></frame_filter>", "<frame_filter>step=2</frame_filter>")

    clip = read(tmp_path, box(0) + box(1, outside=1), box(4) + box(5, outside=1), meta=meta)

    assert clip.source.video_frames == (0, 2, 4)
    assert absent_frames(clip, 1) == [1, 2]
    assert sorted(boxes_by_frame(clip, 2)) == ["2"]


def test_frames_off_the_step_make_every_frame_count(tmp_path, caplog):
    meta = META.replace("<frame_filter></frame_filter>", "<frame_filter>step=2</frame_filter>")

    clip = read(tmp_path, box(1) + box(3), meta=meta)

    assert clip.source.video_frames == (0, 1, 2, 3, 4)
    assert "step_ignored" in caplog.text


def test_a_turned_box_becomes_the_upright_box_around_it(tmp_path, caplog):
    clip = read(tmp_path, box(0, "20,10,40,20", more='rotation="90"'))

    assert boxes_by_frame(clip, 1)["0"] == pytest.approx([25, 5, 35, 25])
    assert "rotation" in caplog.text


def test_boxes_without_area_or_outside_the_frame_are_absent(tmp_path):
    clip = read(tmp_path, box(0, "5,5,5,9") + box(1, "-30,5,-2,9") + box(2, "-3,5,8,9"))

    assert absent_frames(clip, 1) == [0, 1]
    assert sorted(boxes_by_frame(clip, 1)) == ["2", "3", "4"]
    check_clip(clip)


def test_masks_and_polygons_become_masks_and_outside_becomes_absent(tmp_path):
    mask = '<mask frame="0" outside="0" rle="1,2,1,2" left="30" top="20" width="3" height="2"/>'
    gone = '<mask frame="3" outside="1" rle="6" left="30" top="20" width="3" height="2"/>'
    polygon = '<polygon frame="1" outside="0" points="10,10;20,10;20,20;10,20"/>'

    clip = read(tmp_path, mask + gone, polygon)

    drawn, *rest = [prompt for prompt in clip.masks if prompt.object_id == 1]
    expected = np.zeros((48, 64), bool)
    expected[20, 31:33] = expected[21, 31:33] = True
    assert drawn.frame == 0
    assert (rle_to_mask(drawn.rle, 48, 64) == expected).all()
    assert [(prompt.frame, prompt.rle) for prompt in rest] == [(3, None), (4, None)]
    (filled,) = [prompt for prompt in clip.masks if prompt.object_id == 2]
    assert filled.frame == 1
    assert rle_area(filled.rle, 48, 64) == 100
    assert rle_box(filled.rle, 48, 64).tolist() == [10, 10, 20, 20]
    assert clip.boxes == ()


def test_skeletons_and_polylines_are_left_out_with_a_warning(tmp_path, caplog):
    line = '<polyline frame="0" outside="0" points="1,1;2,2"/>'
    skeleton = '<skeleton frame="0" outside="0"><points label="x" points="1,1" outside="0"/></skeleton>'

    clip = read(tmp_path, line + skeleton, box(0))

    assert clip.points == ()
    assert [known.source_id for known in clip.objects] == ["1"]
    assert boxes_by_frame(clip, 1)
    assert "polyline" in caplog.text
    assert "skeleton" in caplog.text


def test_the_video_beside_the_file_gives_size_rate_and_identity(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"video")

    clip = read(tmp_path, box(0), probe=probe(fps=30.0))
    part = read(tmp_path, box(0), probe=probe(num_frames=9))

    assert (clip.source.kind, clip.source.uri) == ("video", str(tmp_path / "v.mp4"))
    assert (clip.num_frames, clip.fps, clip.source.video_frames) == (5, 30, ())
    assert clip.source.identity
    assert part.source.video_frames == (0, 1, 2, 3, 4)


def test_a_step_lowers_the_frame_rate(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"video")
    meta = META.replace("<frame_filter></frame_filter>", "<frame_filter>step=2</frame_filter>")

    assert read(tmp_path, box(0), meta=meta, probe=probe(fps=30.0)).fps == 15


@pytest.mark.parametrize(
    ("video", "error", "message"),
    [
        (probe(num_frames=4), FormatError, "uses frame 4, but .* has 4 frames"),
        (probe(width=640), FrameSizeError, "frames of 48x64, but .* has 48x640"),
    ],
)
def test_a_video_that_does_not_fit_is_an_error(tmp_path, video, error, message):
    (tmp_path / "v.mp4").write_bytes(b"video")

    with pytest.raises(error, match=message):
        read(tmp_path, box(0), probe=video)


def test_a_folder_of_all_images_is_cut_to_the_task_and_an_exported_one_is_taken_whole(tmp_path):
    meta = META.replace("<start_frame>0", "<start_frame>2")
    write_frames(tmp_path / "all", [f"{number:04d}.jpg" for number in range(6)])
    write_frames(tmp_path / "images", [f"frame_{number:06d}.png" for number in range(3)])

    cut = read(tmp_path, box(2), meta=meta, frames=str(tmp_path / "all"))
    whole = read(tmp_path, box(2), meta=meta)

    assert cut.source.frame_names == ("0002.jpg", "0003.jpg", "0004.jpg")
    assert whole.source.uri == str(tmp_path / "images")
    assert cut.source.identity
    assert boxes_by_frame(cut, 1).keys() == {"0", "1", "2"}


def test_named_frames_that_are_not_there_are_an_error(tmp_path):
    with pytest.raises(MissingPathError, match=r"found neither 'v\.mp4' nor its folder"):
        read(tmp_path, box(0), frames=str(tmp_path / "videos"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (document(box("x")), "line 3: expected a <box> with frame and position"),
        (document('<box frame="0" outside="0" xtl="1" ytl="1" xbr="5"/>'), "no 'ybr'"),
        (document(box(0, "nan,1,5,5")), "not finite"),
        (document(box(0) + box(0)), "track 0 has two shapes at frame 0"),
        (document(box(9)), "frames 0…4, but shapes are at 9…9"),
        (document(box(0)).replace("step", "").replace("<frame_filter></f", "<frame_filter>every 3</f"), "step=N"),
        (document(box(0)).replace("<stop_frame>4", "<stop_frame>99999999999"), "or too many"),
        (document(box(0)).replace("<start_frame>0", "<start_frame>-1"), "<start_frame>: expected a whole number"),
        (document(box(0)).replace("</annotations>", ""), "not well-formed XML"),
        ("<annotations><image id='0'/></annotations>", "this is 'CVAT for images'"),
        ("<annotations></annotations>", "expected <meta> and <track> elements"),
        ("<html></html>", "expected <annotations>, found <html>"),
        ("", "not well-formed XML"),
        (document('<mask frame="0" rle="5" left="0" top="0" width="3" height="2"/>'), "mask runs cover 5 pixels"),
        (document('<mask frame="0" rle="6" left="62" top="0" width="3" height="2"/>'), "track 0: .*rectangle leaves"),
        (document('<polygon frame="0" points="1,1;2,2"/>'), "track 0: polygon"),
        (document('<points frame="0" points="1;2;3"/>'), "not pairs of numbers"),
        (document(box(0), meta=META.replace("</meta>", META[6:])), "more than one task"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)

    with pytest.raises(FormatError, match=message):
        list(read_cvat(str(tmp_path / "a.xml")))


def test_entities_are_refused_before_they_grow(tmp_path):
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "ha">{levels}]>'
    (tmp_path / "a.xml").write_text(
        f'<?xml version="1.0"?>{bomb}<annotations><meta><name>&e9;</name></meta></annotations>'
    )

    with pytest.raises(FormatError, match="entity 'e0' declared"):
        list(read_cvat(str(tmp_path / "a.xml")))


def test_external_entities_are_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a.xml").write_text(
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><annotations><meta><name>&x;</name></meta></annotations>'
    )

    with pytest.raises(FormatError, match="entity 'x' declared"):
        list(read_cvat(str(tmp_path / "a.xml")))


def test_a_bad_file_of_a_folder_is_reported_and_the_others_are_read(tmp_path):
    (tmp_path / "a.xml").write_text(document(box(0)))
    (tmp_path / "b.xml").write_text("<html/>")
    errors = {}

    clips = list(read_cvat(str(tmp_path), on_error=errors.__setitem__))

    assert [clip.clip_id for clip in clips] == ["walk"]
    assert list(errors) == [str(tmp_path / "b.xml")]
