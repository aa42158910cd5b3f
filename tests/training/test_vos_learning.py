"""A network that learnt for a minute beats one that did not, and ten points beat one, on clips never seen."""

from __future__ import annotations

import numpy as np
import pytest

from rayvos.models.stcn_checkpoint import load_stcn
from rayvos.training.loading import BatchLoader
from rayvos.training.sharing import Share
from rayvos.training.stcn_task import StcnTask, StcnTraining
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation
from rayvos.training.vos_clips import GeneratedClips, GeneratedSettings
from rayvos.training.vos_validation import validate_propagation

STEPS = 160


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_still_pictures_teach_to_carry_masks_through_clips_never_seen():
    config = StcnTraining(loss="ce", width=8, size=96, clips=48, validated_clips=6, static=True)
    optimisation = Optimisation(
        steps=STEPS, batch_size=4, learning_rate=1.5e-3, warmup_steps=20, ema_decay=0.98, clip_norm=1.0
    )
    task = StcnTask(config=config, steps=STEPS, batch_size=4)
    trainer, losses = Trainer(task, optimisation, device="cpu"), []

    before = trainer.validate()["j_and_f"]
    with BatchLoader(task, optimisation, Share()) as loader:
        while trainer.step < STEPS:
            losses.append(trainer.advance(loader.next_step()).loss)
    after = trainer.validate()["j_and_f"]

    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    assert after > before + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6])
def test_ten_points_of_an_object_carry_its_mask_farther_than_one(seed):
    network = load_stcn("stcn_compact")[0].eval()
    clips = GeneratedClips(settings=GeneratedSettings(seed=seed, num_clips=4))

    one, ten = (
        validate_propagation(network, clips, num_clips=4, num_points=count, radius_px=4)["j_and_f"] for count in (1, 10)
    )

    assert ten > one + 0.15
