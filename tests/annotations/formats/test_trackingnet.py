"""TrackingNet folders: unpadded names, chunks, test split with one box."""

import pytest

from rayvos.annotations.formats.trackingnet import detect, read_trackingnet
from rayvos.errors import UsageError
from tests.annotations.formats.expectations import assert_boxes, assert_clip, boxes_by_frame, golden, write_frames


def video(chunk, name, lines):
    write_frames(chunk / "frames" / name, [f"{frame}.jpg" for frame in range(3)])
    (chunk / "anno").mkdir(exist_ok=True)
    (chunk / "anno" / f"{name}.txt").write_text("\n".join(lines))


def test_the_golden_chunks_are_read_in_numeric_frame_order():
    folder, expected = golden("trackingnet")

    clips = {clip.clip_id: clip for clip in read_trackingnet(str(folder))}

    assert len(clips) == len(expected["videos"])
    for known in expected["videos"]:
        clip = clips[f"{known['split']}/{known['video']}"]
        assert_clip(clip, known)
        assert_boxes(boxes_by_frame(clip, 1), known["objects"][0]["boxes"])
        assert clip.annotated_frames == (tuple(known["annotated"]) if "annotated" in known else None)


def test_boxes_that_leave_the_image_are_kept_and_those_outside_are_absent(tmp_path):
    video(tmp_path / "TRAIN_0", "a", ["-5,1,10,10", "5,5,-1,4", "-50,1,10,10"])

    (clip,) = read_trackingnet(str(tmp_path))

    assert [box.visible for box in clip.boxes] == [True, False, False]
    assert (clip.boxes[0].x0, clip.boxes[0].x1) == (-5, 5)


def test_splits_name_all_training_chunks_one_chunk_or_the_test_chunk(tmp_path):
    for chunk in ("TRAIN_0", "TRAIN_2", "TRAIN_10", "TEST"):
        video(tmp_path / chunk, "v", ["1,1,5,5"] * 3)

    def ids(split):
        return [clip.clip_id for clip in read_trackingnet(str(tmp_path), split=split)]

    assert detect(str(tmp_path))
    assert detect(str(tmp_path / "TEST"))
    assert ids(None) == ["TRAIN_0/v", "TRAIN_2/v", "TRAIN_10/v", "TEST/v"]
    assert ids("train") == ["TRAIN_0/v", "TRAIN_2/v", "TRAIN_10/v"]
    assert ids("TRAIN_2") == ["TRAIN_2/v"]
    assert ids("test") == ["TEST/v"]
    with pytest.raises(UsageError, match="there are TRAIN_0, TRAIN_2, TRAIN_10, TEST"):
        ids("val")
