"""A network that learnt for a minute beats one that did not, on clips that neither has seen."""

from __future__ import annotations

import numpy as np
import pytest

from rayvos.training.loading import BatchLoader
from rayvos.training.sharing import Share
from rayvos.training.stcn_task import StcnTask, StcnTraining
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation

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
