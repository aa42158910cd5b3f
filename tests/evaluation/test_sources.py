from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayvos.annotations.formats.label_maps import write_label_map
from rayvos.annotations.label_frames import frames_of, to_label_map
from rayvos.annotations.run_folder import iter_labels
from rayvos.errors import FormatError, InputError, MissingPathError
from rayvos.evaluation.opening import listed_clips, open_masks
from rayvos.evaluation.protocols import Davis2017, SparseFrames
from rayvos.evaluation.scoring import evaluate
from rayvos.masks.rle import mask_to_rle
from tests.evaluation.drawings import HEIGHT, WIDTH, draw, make_clip, write_labels, write_pngs, write_truth_manifest
from tests.review.runs import make_clip as make_frames
from tests.review.runs import make_run
from tests.s3 import s3_bucket as s3_bucket
from tests.s3 import s3_server as s3_server

TRUTH = {"a": draw(6), "b": draw(5, 1)}
RESULT = {"a": draw(6, shift=2), "b": draw(5, 1, shift=1)}


def zip_folder(folder: str, path: Path, top: str = "") -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(Path(folder).rglob("*.png")):
            archive.write(file, top + file.relative_to(folder).as_posix())
        archive.writestr("__MACOSX/._a/00000.png", b"junk of an archiver")
    return str(path)


def youtube_vis(path: Path, clips) -> str:
    videos, annotations = [], []
    for number, (clip_id, frames) in enumerate(clips.items(), start=1):
        names = [f"{clip_id}/{frame:05d}.jpg" for frame in range(len(frames))]
        videos.append({"id": number, "height": HEIGHT, "width": WIDTH, "file_names": names})
        for object_id in range(1, int(np.max(frames)) + 1):
            masks = [{"size": [HEIGHT, WIDTH], "counts": mask_to_rle(ids == object_id).decode()} for ids in frames]
            annotations.append({"id": len(annotations) + 1, "video_id": number, "segmentations": masks})
    path.write_text(json.dumps({"videos": videos, "annotations": annotations, "categories": []}))
    return str(path)


def coco(path: Path, clips, key: str = "object_id") -> str:
    images, annotations = [], []
    for clip_id, frames in clips.items():
        for frame, ids in enumerate(frames):
            image = {"id": len(images), "file_name": f"{clip_id}/{frame:05d}.jpg", "height": HEIGHT, "width": WIDTH}
            images.append(image)
            for object_id in range(1, int(ids.max()) + 1):
                counts = mask_to_rle(ids == object_id).decode()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        key: object_id,
                        "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts},
                    }
                )
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


FORMS = {
    "folder": lambda tmp, clips, name: write_pngs(tmp / name, clips),
    "root": lambda tmp, clips, name: str(Path(write_pngs(tmp / name / "Annotations" / "480p", clips)).parents[1]),
    "zip": lambda tmp, clips, name: zip_folder(write_pngs(tmp / name, clips), tmp / f"{name}.zip"),
    "zip of a folder": lambda tmp, clips, name: zip_folder(
        write_pngs(tmp / name, clips), tmp / f"{name}.zip", top="my results/masks/"
    ),
    "labels": lambda tmp, clips, name: write_labels(tmp / f"{name}.parquet", clips),
    "folder of tables": lambda tmp, clips, name: str(Path(write_labels(tmp / name / "x.parquet", clips)).parent),
    "manifest": lambda tmp, clips, name: write_truth_manifest(tmp / f"{name}.parquet", clips),
    "youtube-vis": lambda tmp, clips, name: youtube_vis(tmp / f"{name}.json", clips),
    "coco": lambda tmp, clips, name: coco(tmp / f"{name}.json", clips),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    return evaluate(
        open_masks(write_pngs(folder / "gt", TRUTH)), open_masks(write_pngs(folder / "pred", RESULT)), Davis2017()
    )


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_prediction_gives_the_same_numbers(form, expected, tmp_path):
    truth = open_masks(write_pngs(tmp_path / "truth", TRUTH))

    prediction = open_masks(FORMS[form](tmp_path, RESULT, "my results"), like=list(TRUTH))

    found = evaluate(truth, pickle.loads(pickle.dumps(prediction)), Davis2017(), clip_ids=list(TRUTH))
    assert found.summary == expected.summary
    assert [scores.frames for scores in found.objects] == [scores.frames for scores in expected.objects]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "zip of a folder"])
def test_every_form_of_truth_gives_the_same_numbers(form, expected, tmp_path):
    prediction = open_masks(write_labels(tmp_path / "result.parquet", RESULT))

    found = evaluate(open_masks(FORMS[form](tmp_path, TRUTH, "truth")), prediction, Davis2017())

    assert found.summary == expected.summary


def test_masks_on_object_storage_are_scored_as_local_ones(s3_bucket, expected, tmp_path):
    import fsspec

    for name, clips in (("gt", TRUTH), ("pred", RESULT)):
        folder = write_pngs(tmp_path / name, clips)
        filesystem, inner = fsspec.url_to_fs(f"{s3_bucket}/{name}")
        filesystem.put(folder, inner, recursive=True)
    archive = zip_folder(str(tmp_path / "pred"), tmp_path / "pred.zip")
    filesystem.put_file(archive, fsspec.url_to_fs(f"{s3_bucket}/pred.zip")[1])

    truth = open_masks(f"{s3_bucket}/gt")
    for prediction in (f"{s3_bucket}/pred", f"{s3_bucket}/pred.zip"):
        assert evaluate(truth, open_masks(prediction), Davis2017(), clip_ids=["a", "b"]).summary == expected.summary


def test_the_labels_of_a_run_are_found_by_the_names_of_its_manifest(tmp_path):
    clips = [make_frames(tmp_path / "frames", name) for name in ("a", "b")]
    run = make_run(tmp_path / "run", clips)
    for clip_id, table in iter_labels(run):
        for frame, labels in frames_of(table):
            values = {label.object_id: label.object_id for label in labels}
            ids = to_label_map(labels, clips[0].height, clips[0].width, values=values, ignore=255)
            write_label_map(str(tmp_path / "gt" / clip_id / f"{frame:05d}.png"), ids)

    truth, prediction = open_masks(str(tmp_path / "gt")), open_masks(run)
    (clip,) = prediction.open_clips(["a"])
    found = evaluate(truth, pickle.loads(pickle.dumps(prediction)), SparseFrames())

    assert clip.names == tuple(f"{frame:05d}" for frame in range(clips[0].num_frames))
    assert {scores.clip_id for scores in found.objects} == {"a", "b"}
    assert 0.5 < found.summary["J-Mean"] < 1  # the truth drawn here has no overlaps


def test_labels_without_frame_names_are_not_guessed_onto_sparse_files(tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", TRUTH, step=5))
    labels = write_labels(tmp_path / "labels.parquet", RESULT)

    with pytest.raises(InputError, match="--manifest"):
        evaluate(truth, open_masks(labels), Davis2017())


def test_a_manifest_names_the_frames_of_labels(expected, tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", TRUTH, step=5))
    labels = write_labels(tmp_path / "labels.parquet", RESULT)
    manifest = write_truth_manifest(tmp_path / "clips.parquet", TRUTH, step=5)

    assert evaluate(truth, open_masks(labels, manifest=manifest), Davis2017()).summary == expected.summary


def test_a_black_and_white_picture_is_not_taken_for_ids(tmp_path):
    folder = tmp_path / "gt"
    write_pngs(folder, {"a": [ids * np.uint8(255) for ids in draw(4, 1)]})

    with pytest.raises(FormatError, match="davis2016"):
        evaluate(open_masks(str(folder)), open_masks(write_pngs(tmp_path / "pred", {"a": draw(4, 1)})), Davis2017())


def test_colours_outside_the_palette_are_refused_with_the_file(tmp_path):
    truth = open_masks(write_pngs(tmp_path / "gt", TRUTH))
    write_pngs(tmp_path / "pred", RESULT)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 77, np.uint8)).save(tmp_path / "pred/a/00002.png")

    with pytest.raises(FormatError, match=r"a/00002\.png"):
        evaluate(truth, open_masks(str(tmp_path / "pred")), Davis2017())


def test_palette_colours_stored_as_rgb_are_mapped_back(expected, tmp_path):
    write_pngs(tmp_path / "pred", RESULT)
    for path in (tmp_path / "pred").rglob("*.png"):
        Image.open(path).convert("RGB").save(path)

    found = evaluate(open_masks(write_pngs(tmp_path / "gt", TRUTH)), open_masks(str(tmp_path / "pred")), Davis2017())
    assert found.summary == expected.summary


def test_a_resolution_is_chosen_by_name(tmp_path):
    write_pngs(tmp_path / "Annotations" / "480p", TRUTH)
    write_pngs(tmp_path / "Annotations" / "1080p", {"a": draw(4)})

    assert list(open_masks(str(tmp_path)).num_frames) == ["a", "b"]
    assert open_masks(str(tmp_path), resolution="1080p").num_frames == {"a": 4}
    with pytest.raises(FormatError, match="Full-Resolution"):
        open_masks(str(tmp_path), resolution="Full-Resolution")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.zip", "nowhere.json", "nowhere.parquet"])
def test_a_path_that_leads_to_nothing_is_named(name, tmp_path):
    with pytest.raises(MissingPathError, match=name):
        open_masks(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.zip", b"no archive"),
        ("x.json", b"{"),
        ("y.json", b"[1]"),
        ("z.json", b'{"images": [{}], "annotations": []}'),
    ],
)
def test_a_damaged_file_is_named(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)

    with pytest.raises(FormatError, match=name):
        open_masks(str(tmp_path / name))


def test_coco_masks_without_an_object_id_are_refused(tmp_path):
    with pytest.raises(FormatError, match="track_id"):
        open_masks(coco(tmp_path / "x.json", TRUTH, key="category_id"))


def test_a_list_of_clips_is_read_in_both_forms(tmp_path):
    for year, lines in (
        ("2017", "b\na\n"),
        ("480p", "/JPEGImages/480p/a/00000.jpg /Annotations/480p/a/00000.png\n" * 2),
    ):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(lines)

    assert listed_clips(str(tmp_path), None, ("2017",)) == ["b", "a"]
    assert listed_clips(str(tmp_path), "val", ("2016", "480p")) == ["a"]
    assert listed_clips(str(tmp_path), None, ("2019",)) is None
    with pytest.raises(MissingPathError, match="test-dev"):
        listed_clips(str(tmp_path), "test-dev", ("2017",))


def test_a_manifest_without_masks_is_no_truth(tmp_path):
    from rayvos.annotations.manifest import write_manifest

    write_manifest([make_clip("a", draw(4), masks=False)], str(tmp_path / "x.parquet"))

    with pytest.raises(InputError, match="no masks"):
        evaluate(
            open_masks(str(tmp_path / "x.parquet")), open_masks(write_pngs(tmp_path / "p", {"a": draw(4)})), Davis2017()
        )
