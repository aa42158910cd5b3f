"""What labels cost an annotator: counted from what people gave, and stated only where it is known."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt
from rayvos.errors import FormatError
from rayvos.masks.rle import mask_to_rle
from rayvos.training.registry import TrainingRequest
from rayvos.tuning.effort import Effort, effort_of, with_label_times
from rayvos.tuning.spaces import Costs, space_of
from rayvos.tuning.sweep_data import with_prepared_data
from rayvos.tuning.trials import Trial
from tests.review.runs import HEIGHT, WIDTH, make_clip, make_run

MASK = mask_to_rle(np.eye(HEIGHT, WIDTH, dtype=np.bool_))
PRICES = Costs(box_s=10, mask_s=100, point_s=1)


def test_boxes_masks_and_points_are_added_up_per_object():
    assert Effort(num_objects=2, num_boxes=6, num_masks=1, num_points=4).seconds(PRICES) == 82
    assert Effort(num_objects=2, num_masks=3, known=False).seconds(PRICES) is None
    assert Effort(num_objects=2).seconds(PRICES) is None


def test_generated_labels_cost_a_box_on_each_frame():
    assert effort_of((), ()).seconds(Costs()) == pytest.approx(8 * 7)


def test_masks_of_a_program_hide_what_was_paid_for(tmp_path):
    clip = make_clip(tmp_path, "a")
    path = str(tmp_path / "clips.parquet")
    found = []
    for machine_made in (False, True):
        mask = MaskPrompt(1, 2, MASK, machine_made=machine_made)
        write_manifest([dataclasses.replace(clip, masks=(mask,))], path)
        found.append(effort_of((path,), (path,)).seconds(PRICES))

    assert found == [(11 * 10 + 100) / 2, None]  # two objects on six frames, one of them absent once


def test_labels_of_a_run_cost_what_its_manifest_held_and_fine_tuned_ones_their_masks(tmp_path):
    clip = make_clip(tmp_path, "a")
    runs = {}
    for name, masks in (("plain", ()), ("finetuned", (MaskPrompt(1, 3, MASK), MaskPrompt(2, 3, MASK)))):
        make_run(tmp_path / name, [dataclasses.replace(clip, masks=masks)])
        runs[name] = (str(tmp_path / name),)
    space = space_of("tau", values=(2, 3), finetuned=True, costs=PRICES)
    trials = [
        Trial(
            folder="t", task="stcn", setting=setting, seed=0, validations=1,
            request=TrainingRequest(data=runs["finetuned" if setting.finetuned else "plain"]),
        )
        for setting in space.settings
    ]  # fmt: skip
    trials = with_prepared_data(trials, str(tmp_path / "out"), {})

    timed, told = with_label_times(space, trials, runs["plain"], runs["finetuned"], PRICES)

    assert [setting.seconds for setting in timed.settings] == [55, 55, 155, 155]
    assert [trial.setting for trial in told] == list(timed.settings)


def test_what_was_counted_is_kept_and_damage_is_named(tmp_path):
    make_run(tmp_path / "run", [make_clip(tmp_path, "a")])
    source, manifest = str(tmp_path / "run"), str(tmp_path / "data.parquet")

    first = effort_of((source,), (manifest,))
    (tmp_path / "run").rename(tmp_path / "gone")
    assert effort_of((source,), (manifest,)) == first
    (tmp_path / "data-effort.json").write_text(json.dumps({"num_cats": 1}))

    with pytest.raises(FormatError, match=r"data-effort\.json: expected counts.*num_cats.*run the sweep again"):
        effort_of((source,), (manifest,))
