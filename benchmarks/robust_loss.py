"""Learning from wrong labels: plain cross entropy against the Huberised one, at 0, 20 and 40 % corrupted labels.

A small STCN learns from generated clips of which a share of the labels lies somewhere else, and carries the true first
masks through clips that it never saw. Both losses see the same clips, the same corruption, the same initial weights and
the same order of samples; three seeds. Prints mean J&F and the difference at each share.

    python -m benchmarks.robust_loss
    python -m benchmarks.robust_loss --quick
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from benchmarks.reporting import arguments, finish
from rayvos.training.loading import BatchLoader
from rayvos.training.sharing import Share
from rayvos.training.stcn_task import StcnTask, StcnTraining
from rayvos.training.steps import Trainer
from rayvos.training.task import Optimisation

SHARES = (0.0, 0.2, 0.4)
LOSSES = ("ce", "huberised")
TAU = 3.0


def quality(loss: str, share: float, seed: int, steps: int) -> float:
    """Return J&F on held-out clips after training."""
    config = StcnTraining(
        loss="ce" if loss == "ce" else "huberised", tau=TAU, width=16, size=96, clips=48, corrupted=share,
    )  # fmt: skip
    optimisation = Optimisation(
        steps=steps, batch_size=4, learning_rate=1e-3, warmup_steps=20, ema_decay=0.98, clip_norm=1.0
    )
    task = StcnTask(config=config, steps=steps, batch_size=optimisation.batch_size, seed=seed)
    trainer = Trainer(task, optimisation, device="cpu")
    with BatchLoader(task, optimisation, Share()) as loader:
        while trainer.step < steps:
            trainer.advance(loader.next_step())
    return trainer.validate()["j_and_f"]


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    steps, seeds = (30, (0,)) if options.quick else (400, (0, 1, 2))
    means: dict[str, dict[str, list[float]]] = {}
    print(f"{'wrong labels':>12s}  {'ce':>22s}  {'huberised':>22s}  difference", flush=True)
    for share in SHARES:
        found = {loss: [quality(loss, share, seed, steps) for seed in seeds] for loss in LOSSES}
        means[f"{share:g}"] = found
        told = "  ".join(
            f"{np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})" for values in found.values()
        )
        print(f"{share:12.0%}  {told}  {np.mean(found['huberised']) - np.mean(found['ce']):+.3f}", flush=True)
    worst = means[f"{SHARES[-1]:g}"]
    finish(options, {"robust_loss": float(np.mean(worst["huberised"]) / np.mean(worst["ce"]))}, {"j_and_f": means})


if __name__ == "__main__":
    main()
