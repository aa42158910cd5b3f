"""The Point-VOS benchmark as one command: trains, starts from few and many points, scores, prints the paper's table."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import MaskPrompt, ObjectInfo, Point
from rayvos.cli.main import main
from rayvos.masks.rle import mask_to_rle
from rayvos.pipelines.point_benchmark import given_reference_clip, scored_clip

TINY = ("width=8", "size=32", "clips=2", "validated_clips=1", "radius_px=1")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two generated clips with masks on all frames."""
    place = tmp_path_factory.mktemp("benchmark")
    words = ["--clips", "2", "--frames", "4", "--size", "96x160", "--objects", "2", "--mask-prompts", "all"]
    assert main(["synth", str(place / "clips"), *words]) == 0
    return str(place / "clips" / "manifest.parquet")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_benchmark_trains_labels_and_scores_and_does_nothing_twice(manifest, tmp_path, capsys):
    out, result = tmp_path / "out", tmp_path / "result.json"
    words = ["eval", "point-stcn", manifest, "-o", str(out), "--points", "1", "--points", "4", "--scale-distance"]
    words += ["--device", "cpu", "--workers", "1", "--json", str(result)]
    train = ["--recipe", "quick", "--steps", "1"]
    train += [word for option in TINY for word in ("--train-option", option)]
    capsys.readouterr()

    assert main([*words, *train]) == 0
    first = json.loads(result.read_text())
    head, row = capsys.readouterr().out.splitlines()[-2:]
    written = {file: file.stat().st_mtime_ns for file in out.glob("points-*/labels/*.parquet")}
    assert main([*words, "--weights", str(out / "training" / "weights.safetensors")]) == 0

    assert head.split() == ["weights", "Mean", "1-point", "4-point"]
    shares = [100 * first["sets"][count]["J&F-Mean"] for count in ("1", "4")]
    assert [float(value) for value in row.split()[1:]] == pytest.approx([sum(shares) / 2, *shares], abs=0.051)
    assert json.loads(result.read_text()) == first
    assert written == {file: file.stat().st_mtime_ns for file in out.glob("points-*/labels/*.parquet")}
    assert len(written) >= 2


def test_the_points_of_few_are_among_those_of_many(manifest, tmp_path, capsys):
    from rayvos.annotations.simulated_points import PointRule, reference_clip

    for clip in ManifestFile(manifest):
        few, many = (reference_clip(clip, count, PointRule(scale_distance=True)) for count in (2, 10))
        assert set(few.points) < set(many.points)
        assert {point.frame for point in many.points} == {0}
        assert max(sum(p.object_id == i for p in few.points) for i in few.object_ids()) == 2
        assert few.masks == many.masks == ()


def test_given_points_start_where_there_are_enough_and_masks_after_them_are_scored(image_clip):
    points = [Point(1, 0, x, 5) for x in range(6)] + [Point(1, 2, x, 5) for x in range(8)]
    points += [Point(1, 2, 9, 9, "negative"), *(Point(1, 4, x, 5) for x in range(9)), Point(2, 1, 3, 3)]
    mask = mask_to_rle(np.eye(image_clip.height, image_clip.width, dtype=np.bool_))
    masks = tuple(MaskPrompt(object_id, frame, mask) for object_id in (1, 2) for frame in (1, 2, 5))
    clip = dataclasses.replace(image_clip, objects=(ObjectInfo(1), ObjectInfo(2)), points=tuple(points), masks=masks)

    given, scored = given_reference_clip(clip, 5), scored_clip(clip)

    assert [(point.object_id, point.frame, point.x) for point in given.points] == [(1, 2, x) for x in range(5)]
    assert [(found.object_id, found.frame) for found in scored.masks] == [(1, 5)]


@pytest.mark.parametrize("words", [[], ["--weights", "w.safetensors", "--recipe", "quick"]])
def test_weights_are_either_given_or_trained(words, manifest, tmp_path, capsys):
    assert main(["eval", "point-stcn", manifest, "-o", str(tmp_path), *words]) == 2
    assert "give one of them" in capsys.readouterr().err
