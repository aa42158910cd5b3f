"""Video Localized Narratives: traces over key frames, nouns by their spoken time."""

import copy
import json
from types import SimpleNamespace

import pytest

from rayvos.annotations.formats.vidln import detect, read_vidln
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, FrameMissingError, MissingPathError
from tests.annotations.formats.expectations import golden, write_frames

RECORD = {
    "vidln_id": 7,
    "dataset_id": "oops_train",
    "video_id": "Fail [2018] _ Army 31|é",
    "keyframe_names": ["000002", "000004"],
    "actor_narratives": [
        {
            "actor_name": "Man",
            "caption": "A man runs.",
            "recording_start_time_ms_since_epoch": 1000,
            "traces": [
                [
                    {"x": -0.01, "y": 0.5, "time_ms_since_epoch": 1100, "kf_idx": 0},
                    {"x": 1.02, "y": 0.5, "time_ms_since_epoch": 1200, "kf_idx": 0},
                    {"x": 0.5, "y": 0.25, "time_ms_since_epoch": 1300, "kf_idx": 1},
                ]
            ],
            "noun_segments": [[2, 5]],
            "time_alignment": [
                {"start_ms": 150, "referenced_word_start_idx": 2, "referenced_word_end_idx": 5},
            ],
        }
    ],
}


def write(folder, *records):
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(folder / "a.jsonl")


def frames_of(folder, record=RECORD, numbers=range(6)):
    write_frames(folder / "frames" / record["dataset_id"] / record["video_id"], [f"{n:06d}.jpg" for n in numbers])


def test_the_golden_narrative_is_read_with_its_pixels():
    folder, expected = golden("vidln")
    (video,) = expected["videos"]

    (clip,) = read_vidln(str(folder))

    assert detect(str(folder))
    assert clip.clip_id == f"{video['dataset']}/{video['video']}/5"
    assert [clip.width, clip.height] == video["size"]
    assert [name.rpartition(".")[0] for name in clip.source.frame_names] == video["frames"]
    (known,) = video["objects"]
    assert clip.objects[0].category == known["actor"]
    found = [(trace.frame, x, y) for trace in clip.traces for x, y in zip(trace.x, trace.y, strict=True)]
    assert found == [(point["keyframe"], point["x"], point["y"]) for point in known["points"]]
    assert len(clip.traces) == 3
    assert clip.annotated_frames == (1, 2, 3)


def test_the_golden_nouns_get_the_trace_of_their_word():
    folder, expected = golden("vidln")
    nouns = expected["videos"][0]["objects"][0]["noun_points"]

    (clip,) = read_vidln(str(folder), objects="nouns")

    found = {
        known.source_id.partition(":")[2]: [
            [trace.frame, x, y]
            for trace in clip.traces
            if trace.object_id == known.object_id
            for x, y in zip(trace.x, trace.y, strict=True)
        ]
        for known in clip.objects
    }
    assert found == nouns
    assert [known.category for known in clip.objects] == ["duck", "pond"]


def test_key_frames_are_found_among_all_frames_and_positions_clipped(tmp_path):
    frames_of(tmp_path)

    (clip,) = read_vidln(write(tmp_path, RECORD))

    assert clip.clip_id == "oops_train/Fail [2018] _ Army 31|é/7"
    assert [(trace.frame, trace.x, trace.y) for trace in clip.traces] == [(2, (0, 63), (24, 24)), (4, (32,), (12,))]
    check_clip(clip)


@pytest.mark.parametrize(
    ("dataset", "names", "expected"),
    [("oops_train", ["000002", "000004"], [2, 4]), ("OVIS_train", ["img_0000001", "img_0000005"], [0, 4])],
)
def test_key_frames_of_a_video_file_are_frame_numbers(tmp_path, dataset, names, expected):
    record = RECORD | {"dataset_id": dataset, "keyframe_names": names, "video_id": "v"}
    (tmp_path / "v.mp4").write_bytes(b"video")
    info = SimpleNamespace(num_frames=9, height=48, width=64, fps=None)

    (clip,) = read_vidln(write(tmp_path, record), frames=str(tmp_path), probe=lambda path: info)

    assert [trace.frame for trace in clip.traces] == expected


def test_two_narratives_of_one_video_are_two_clips(tmp_path):
    frames_of(tmp_path)

    clips = list(read_vidln(write(tmp_path, RECORD, RECORD | {"vidln_id": 8})))

    assert len({clip.clip_id for clip in clips}) == 2
    assert clips[0].traces == clips[1].traces


def changed(change):
    record = copy.deepcopy(RECORD)
    change(record)
    return record


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (RECORD | {"keyframe_names": ["000002", "000099"]}, FrameMissingError, "'000099' is not among the 6 frames"),
        (RECORD | {"video_id": "gone"}, MissingPathError, "'oops_train/gone'"),
        (changed(lambda r: r["actor_narratives"][0].update(actor_name=" Background")), FormatError, "but the back"),
        (changed(lambda r: r["actor_narratives"][0]["traces"][0][0].update(kf_idx=5)), FormatError, "key frame 5 of 2"),
        (changed(lambda r: r["actor_narratives"][0]["traces"][0][0].update(x=float("nan"))), FormatError, "nan"),
        (changed(lambda r: r.pop("keyframe_names")), FormatError, "no 'keyframe_names'"),
        (changed(lambda r: r.update(actor_narratives=None)), FormatError, "expected a Video Localized Narrative"),
    ],
)
def test_a_bad_narrative_is_named_by_line_and_the_others_are_read(tmp_path, record, error, message):
    frames_of(tmp_path)
    path = write(tmp_path, record, RECORD)
    errors = {}

    clips = list(read_vidln(path, on_error=errors.__setitem__))

    assert len(clips) == 1
    assert list(errors) == [f"{path} line 1"]
    with pytest.raises(error, match=message):
        list(read_vidln(path))


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n{oops\n")

    with pytest.raises(FormatError, match="line 2: expected a Video Localized Narrative"):
        list(read_vidln(str(tmp_path / "a.jsonl")))
