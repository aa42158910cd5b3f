"""Data of a sweep is prepared once, however many trials there are and however often it is started."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rayvos.annotations.manifest import ManifestFile
from rayvos.errors import UsageError
from rayvos.training.registry import TrainingRequest
from rayvos.tuning.spaces import space_of
from rayvos.tuning.sweep_data import with_prepared_data
from rayvos.tuning.trials import Trial
from tests.conftest import moving_square, write_image_folder


@pytest.fixture
def data_set(tmp_path):
    """A data set in DAVIS' form with one clip."""
    import cv2

    write_image_folder(tmp_path / "DAVIS" / "JPEGImages" / "480p" / "a", moving_square(3), ".jpg")
    masks = tmp_path / "DAVIS" / "Annotations" / "480p" / "a"
    masks.mkdir(parents=True)
    for frame in range(3):
        assert cv2.imwrite(str(masks / f"{frame:05d}.png"), np.eye(48, 66, dtype=np.uint8))
    return tmp_path / "DAVIS"


def trials_of(space, **request):
    return [
        Trial(
            folder="t", task="stcn", request=TrainingRequest(options=setting.options, **request), setting=setting,
            seed=0, validations=1,
        )
        for setting in space.settings
    ]  # fmt: skip


def test_all_trials_and_all_starts_learn_from_the_same_manifest(data_set, tmp_path):
    trials = trials_of(space_of("frames", values=(2, 3)), data=(str(data_set),), validation=(str(data_set),))

    first = with_prepared_data(trials, str(tmp_path / "out"), {})
    (data_set / "Annotations" / "480p" / "a" / "00001.png").write_bytes(b"damaged since")
    again = with_prepared_data(trials, str(tmp_path / "out"), {})

    assert [trial.request for trial in first] == [trial.request for trial in again]
    (manifest,) = {path for trial in first for path in (*trial.request.data, *trial.request.validation)}
    assert [clip.clip_id for clip in ManifestFile(manifest)] == ["a"]


def test_each_least_score_has_data_of_its_own_and_validation_has_none(data_set, tmp_path):
    space = space_of("tau", values=(2, 3), series=(0.0, 0.5))
    trials = trials_of(space, data=(str(data_set),), validation=(str(data_set),))

    found = with_prepared_data(trials, str(tmp_path / "out"), {})

    assert len({trial.request.data for trial in found}) == 2
    assert len({trial.request.validation for trial in found}) == 1


def test_manifests_are_taken_as_they_are_and_generated_clips_need_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    trials = trials_of(space_of("frames", values=(2,)), data=("clips.parquet",), weights="w.safetensors")

    (found,) = with_prepared_data(trials, str(tmp_path / "out"), {})

    assert found.request.data == (str(tmp_path / "clips.parquet"),)
    assert found.request.weights == str(tmp_path / "w.safetensors")
    assert found.request.validation == ()
    assert not (tmp_path / "out").exists()


def test_a_least_score_that_is_no_number_is_refused(data_set, tmp_path):
    trial = trials_of(space_of("frames", values=(2,)), data=(str(data_set),))[0]
    request = dataclasses.replace(trial.request, options={"min_score": "high"})

    with pytest.raises(UsageError, match="min_score: expected a number from 0 to 1, found 'high'"):
        with_prepared_data([dataclasses.replace(trial, request=request)], str(tmp_path), {})
