from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rayvos.annotations.formats.sav import detect, read_sav
from rayvos.annotations.manifest import check_clip
from rayvos.errors import FormatError, FrameSizeError, InputError, MissingPathError
from rayvos.masks.rle import mask_to_rle, rle_area
from tests.annotations.formats.mask_data import squares, write_frames

MASK = squares({1: (4, 5)}) == 1
RLE = {"size": [48, 64], "counts": mask_to_rle(MASK).decode()}
EMPTY = {"size": [48, 64], "counts": mask_to_rle(np.zeros((48, 64), np.bool_)).decode()}


def write_json(folder, name="sav_000001", kind="manual", **changes) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "video_id": name,
        "video_height": 48.0,
        "video_width": 64.0,
        "video_frame_count": 9.0,
        "masklet_id": [0, 5],
        "masklet": [[RLE, EMPTY], [RLE, None], [EMPTY, RLE]],
        **changes,
    }
    path = folder / f"{name}_{kind}.json"
    path.write_text(json.dumps(found))
    return str(path)


def write_pictures(folder, name="sav_000002") -> None:
    write_frames(folder / "JPEGImages_24fps" / name, [f"{frame:05d}.jpg" for frame in range(9)])
    for object_name, frame, value in (("000", 0, 255), ("000", 4, 1), ("011", 4, 255)):
        path = folder / "Annotations_6fps" / name / object_name / f"{frame:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((MASK * value).astype(np.uint8)).save(path)


def read_one(source, **options):
    (clip,) = read_sav(str(source), **options)
    return check_clip(clip)


def rows(clip) -> list[tuple[int, int, int | None]]:
    return [(mask.object_id, mask.frame, mask.rle and rle_area(mask.rle, 48, 64)) for mask in clip.masks]


def info(num_frames=9, height=48, width=64, fps=23.976):
    return lambda path: SimpleNamespace(num_frames=num_frames, height=height, width=width, fps=fps)


def test_masklets_count_every_fourth_video_frame(tmp_path):
    clip = read_one(write_json(tmp_path))
    assert (clip.clip_id, clip.source.kind, clip.num_frames, clip.fps) == ("sav_000001", "video", 9, 24)
    assert clip.source.uri == str(tmp_path / "sav_000001.mp4")
    assert [(known.object_id, known.source_id) for known in clip.objects] == [(1, "0"), (2, "5")]
    assert rows(clip) == [(1, 0, 36), (1, 4, 36), (1, 8, 0), (2, 0, 0), (2, 4, None), (2, 8, 36)]
    assert clip.annotated_frames == (0, 4, 8)
    assert not any(mask.machine_made for mask in clip.masks)


def test_the_video_says_how_long_it_is_and_a_frame_less_is_clamped(tmp_path):
    path = write_json(tmp_path)
    (tmp_path / "sav_000001.mp4").write_bytes(b"video")
    clip = read_one(path, probe=info(num_frames=8))
    assert (clip.num_frames, clip.fps, clip.annotated_frames) == (8, 23.976, (0, 4, 7))
    assert [row[1] for row in rows(clip)] == [0, 4, 7] * 2
    assert clip.source.identity
    with pytest.raises(FormatError, match="every 4th of 7"):
        read_one(path, probe=info(num_frames=7))
    with pytest.raises(FrameSizeError, match="64x48"):
        read_one(path, probe=info(height=64, width=48))


def test_a_video_that_is_not_there_is_trusted_unless_its_folder_is_named(tmp_path):
    path = write_json(tmp_path)
    assert read_one(path, probe=info()).source.identity == ""
    with pytest.raises(MissingPathError, match=r"videos/sav_000001\.mp4"):
        read_one(path, frames=str(tmp_path / "videos"))


def test_masklets_made_by_a_program_are_read_on_demand_and_marked(tmp_path):
    write_json(tmp_path / "sav_000", kind="manual")
    write_json(tmp_path / "sav_000", kind="auto", masklet_id=[3, 4])
    assert [known.source_id for known in read_one(tmp_path).objects] == ["0", "5"]
    auto = read_one(tmp_path, masklets="auto")
    assert [known.source_id for known in auto.objects] == ["3", "4"]
    assert all(mask.machine_made for mask in auto.masks)


@pytest.mark.parametrize(
    "changes",
    [
        {"masklet": None},
        {"masklet": []},
        {"masklet": [[RLE]] * 4},
        {"masklet": [[RLE, RLE], [RLE]]},
        {"masklet": [[RLE, 5]]},
        {"masklet": [[RLE, {"size": [64, 48], "counts": "x"}]]},
        {"masklet": [[RLE, {"size": [48, 64], "counts": "damaged!"}]]},
        {"masklet_id": [0, 0]},
        {"masklet_id": [0]},
        {"video_height": None},
        {"video_width": 63.0},
        {"video_frame_count": 8.5},
        {"video_id": "../../x"},
    ],
)
def test_a_bad_file_is_reported_and_the_others_are_read(tmp_path, changes):
    write_json(tmp_path, "sav_000001")
    (tmp_path / "sav_000003_manual.json").write_text("")
    bad = json.loads((tmp_path / "sav_000001_manual.json").read_text()) | changes
    (tmp_path / "sav_000002_manual.json").write_text(json.dumps(bad))
    told = []

    clips = list(read_sav(str(tmp_path), on_error=lambda name, error: told.append((name, str(error)))))

    assert [clip.clip_id for clip in clips] == ["sav_000001"]
    assert [name for name, _ in told] == ["sav_000002", "sav_000003"]
    assert "sav_000002_manual.json" in told[0][1]


def test_pictures_are_one_mask_per_object_and_any_value_counts(tmp_path):
    write_pictures(tmp_path)
    clip = read_one(tmp_path)
    assert clip.clip_id == "sav_000002"
    assert [(known.object_id, known.source_id) for known in clip.objects] == [(1, "0"), (2, "11")]
    assert rows(clip) == [(1, 0, 36), (1, 4, 36), (2, 4, 36)]
    assert (clip.num_frames, clip.annotated_frames) == (9, (0, 4))


def test_the_list_of_a_split_names_its_videos(tmp_path):
    for name in ("b", "a"):
        write_pictures(tmp_path / "sav_val", name)
    write_json(tmp_path / "sav_train/sav_000")
    (tmp_path / "sav_val/sav_val.txt").write_text("b\n")
    assert [clip.clip_id for clip in read_sav(str(tmp_path), split="val")] == ["b"]
    assert [clip.clip_id for clip in read_sav(str(tmp_path))] == ["sav_000001", "b"]
    with pytest.raises(MissingPathError, match="test"):
        list(read_sav(str(tmp_path), split="test"))


def test_pictures_that_do_not_fit_are_named(tmp_path):
    write_pictures(tmp_path)
    folder = tmp_path / "Annotations_6fps/sav_000002/011"
    (folder / "00004.png").rename(folder / "00044.png")
    with pytest.raises(FormatError, match=r"011/00044\.png"):
        read_one(tmp_path)
    (folder / "00044.png").unlink()
    Image.fromarray(np.zeros((40, 64), np.uint8)).save(folder / "00004.png")
    with pytest.raises(FrameSizeError, match=r"011/00004\.png"):
        read_one(tmp_path)
    folder.rename(folder.with_name("eleven"))
    with pytest.raises(FormatError, match="eleven"):
        read_one(tmp_path)


def test_a_listed_video_that_leads_elsewhere_is_refused(tmp_path):
    write_pictures(tmp_path)
    (tmp_path / "list.txt").write_text("../x")
    with pytest.raises(InputError, match=r"\.\./x"):
        list(read_sav(str(tmp_path)))


def test_other_folders_are_not_taken_for_sav(tmp_path):
    assert not detect(str(tmp_path))
    with pytest.raises(MissingPathError, match="JPEGImages_24fps"):
        list(read_sav(str(tmp_path)))
    assert detect(write_json(tmp_path))
    assert detect(str(tmp_path))
