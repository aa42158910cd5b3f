"""Does the trainer wait for its samples? Share of waiting time with 0, 1 and more processes that make them.

The task is `stcn` on generated clips at the size of its recipe for laptops; the claim is 5 % or less once there are
processes enough for the machine. Batches are the same whatever their number.

    python -m benchmarks.loader
    python -m benchmarks.loader --quick
"""

from __future__ import annotations

import os
import time

import cv2
import torch

from benchmarks.reporting import arguments, finish
from rayvos.training.loading import BatchLoader
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.steps import Trainer


def waiting_share(processes: int, steps: int) -> float:
    """Return the share of a run's time, its first steps left out, that the trainer waited for samples."""
    plan = plan_training("stcn", TrainingRequest(recipe="quick", steps=steps, options={"loss": "ce"}))
    trainer = Trainer(plan.task, plan.optimisation, device="cpu")
    with BatchLoader(plan.task, plan.optimisation, trainer.share, processes=processes) as loader:
        for _ in range(steps // 4):  # processes start, clips are drawn for the first time
            trainer.advance(loader.next_step())
        began, waited = time.monotonic(), loader.waiting_s
        while trainer.step < steps:
            trainer.advance(loader.next_step())
        return (loader.waiting_s - waited) / (time.monotonic() - began)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    counts = (0, 1) if options.quick else (0, 1, max(2, (os.cpu_count() or 2) - 1))
    shares = {count: waiting_share(count, 16 if options.quick else 120) for count in dict.fromkeys(counts)}
    for count, share in shares.items():
        print(f"{count} processes: {share:6.1%} of the time waiting for samples")
    finish(options, {"waiting_share": min(shares.values())}, {"shares": shares})


if __name__ == "__main__":
    main()
