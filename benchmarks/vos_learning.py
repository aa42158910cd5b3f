"""Does STCN learn on generated clips? Loss and held-out J&F before and after, and J&F from 1, 2, 5 and 10 points.

A small network starts from random weights and learns from still pictures, warped three times, as the papers begin;
Point-STCN then goes on from there with points alone: 10 positives an object and 10 negatives a frame. Held-out clips
are of another seed; the first frame's true masks, or points on them, are given.

    python -m benchmarks.vos_learning
    python -m benchmarks.vos_learning --quick
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from benchmarks.reporting import arguments, finish
from rayvos.training.loading import BatchLoader
from rayvos.training.sharing import Share
from rayvos.training.stcn_task import StcnTask, StcnTraining
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation

__all__ = ["BASE", "QUICK_BASE", "learn", "new_trainer"]

BASE = StcnTraining(loss="ce", width=8, size=96, clips=64, validated_clips=16, static=True)
QUICK_BASE = replace(BASE, clips=4, validated_clips=2)
BASE_RATE, POINT_RATE = 1.5e-3, 5e-4
POINTS = (1, 2, 5, 10)
AVERAGED = 20  # steps at the start and at the end whose losses are averaged


def new_trainer(
    config: StcnTraining, *, steps: int, learning_rate: float, seed: int, weights: str | None = None
) -> Trainer:
    """Return a trainer of four samples a step."""
    optimisation = Optimisation(
        steps=steps, batch_size=4, learning_rate=learning_rate, warmup_steps=20, ema_decay=0.98, clip_norm=1.0
    )
    task = StcnTask(config=config, steps=steps, batch_size=4, seed=seed, weights=weights)
    return Trainer(task, optimisation, device="cpu")


def learn(trainer: Trainer) -> tuple[float, float]:
    """Do all steps; return the mean loss of the first and of the last ones."""
    losses = []
    with BatchLoader(trainer.task, trainer.optimisation, Share()) as loader:
        while trainer.step < trainer.optimisation.steps:
            losses.append(trainer.advance(loader.next_step()).loss)
    return float(np.mean(losses[:AVERAGED])), float(np.mean(losses[-AVERAGED:]))


def quality_by_points(config: StcnTraining, weights: str, seed: int, counts: Sequence[int]) -> dict[int, float]:
    """Return held-out J&F by the number of points that are given."""
    found = {}
    for count in counts:
        trainer = new_trainer(
            replace(config, validated_points=count), steps=1, learning_rate=1e-3, seed=seed, weights=weights
        )
        found[count] = trainer.validate()["j_and_f"]
    return found


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    base_steps, point_steps, seeds = (8, 4, (0,)) if options.quick else (800, 200, (0, 1, 2))
    start = QUICK_BASE if options.quick else BASE
    base = new_trainer(start, steps=base_steps, learning_rate=BASE_RATE, seed=0)
    untrained = base.validate()["j_and_f"]
    first, last = learn(base)
    trained = base.validate()["j_and_f"]
    print(f"masks, {base_steps} steps: loss {first:.3f} -> {last:.3f}, held-out J&F {untrained:.3f} -> {trained:.3f}")
    by_seed: dict[int, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        base.export(f"{folder}/base.safetensors")
        config = replace(start, static=False, supervision="points", radius_px=2)
        for seed in seeds:
            trainer = new_trainer(
                config, steps=point_steps, learning_rate=POINT_RATE, seed=seed, weights=f"{folder}/base.safetensors"
            )
            learn(trainer)
            trainer.export(f"{folder}/points-{seed}.safetensors")
            by_seed[seed] = quality_by_points(config, f"{folder}/points-{seed}.safetensors", seed, POINTS)
            told = ", ".join(f"{count}: {value:.3f}" for count, value in by_seed[seed].items())
            print(f"points, {point_steps} steps, seed {seed}: J&F from {told}", flush=True)
    means = {count: float(np.mean([found[count] for found in by_seed.values()])) for count in POINTS}
    print("points, mean: " + ", ".join(f"{count}: {value:.3f}" for count, value in means.items()))
    ratios = {"loss_fall": last / first, "ten_points_over_one": means[10] / max(means[1], 1e-9)}
    finish(options, ratios, {"untrained": untrained, "trained": trained, "by_points": by_seed})


if __name__ == "__main__":
    main()
