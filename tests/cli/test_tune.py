"""Bad input of `rayvos tune` and of training STCN: named before Ray starts, whichever of the trials would meet it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt, ObjectInfo, Point
from rayvos.cli.main import main
from rayvos.masks.rle import mask_to_rle

SMALL = ["--recipe", "quick", "--steps", "1", "--option", "size=32", "--option", "validated_clips=1"]


@pytest.fixture
def manifests(image_clip, tmp_path, monkeypatch):
    """A folder with manifests of one clip each, in which the tests work."""
    monkeypatch.chdir(tmp_path)
    square = np.zeros((image_clip.height, image_clip.width), np.bool_)
    square[10:30, 10:30] = True
    good = tuple(MaskPrompt(1, frame, mask_to_rle(square)) for frame in range(3))
    clip = dataclasses.replace(image_clip, objects=(ObjectInfo(1),), masks=good)
    for name, change in {
        "good": {},
        "no-masks": {"masks": ()},
        "one-class": {"points": tuple(Point(1, frame, 12, 12) for frame in range(3))},
        "other-size": {"masks": tuple(MaskPrompt(1, frame, mask_to_rle(square.repeat(2, 0))) for frame in range(3))},
    }.items():
        write_manifest([dataclasses.replace(clip, **change)], f"{name}.parquet")
    write_manifest([], "empty.parquet")


@pytest.mark.parametrize(("words", "message"), [
    ("tau --data empty.parquet", "found none in 0 clips"),
    ("tau --data good.parquet --finetuned no-masks.parquet", "no-masks.parquet: expected clips with masks on two"),
    ("tau --data good.parquet --validation empty.parquet", "empty.parquet: expected clips with masks"),
    ("tau --data other-size.parquet", "a mask cannot be used: rle: expected runs of"),
    ("points --data good.parquet", "expected clips with points on two frames or more, found none in 1 clips"),
    ("points --data one-class.parquet", "expected points of two classes"),
    ("tau --weights guided", "found 'guided'"),
    ("tau --box-seconds 0", "box_s: expected a number above 0"),
    ("tau --option colour=1", "unknown option of task 'stcn': 'colour'"),
])  # fmt: skip
def test_a_sweep_that_cannot_work_ends_before_its_first_trial(manifests, capsys, tmp_path, words, message):
    code = main(["tune", *words.split(), *SMALL, "-o", "out"])

    said = capsys.readouterr().err
    assert code in (1, 2)
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "trials").exists()
