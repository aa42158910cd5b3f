"""Does the trainer wait for its samples? Share of waiting time with 0, 1, 2… processes or Ray actors that make them.

The task is `stcn` at the size of its recipe for laptops, on generated clips that a process keeps in memory and on the
same kind of clips as JPEG files, which are decoded for every sample. The claim is 5 % or less once there are enough of
them; the number that is enough is printed, beside the CPU seconds that a step and its samples take, which say the same
on a machine that does other work. Batches are the same whoever makes them.

    python -m benchmarks.loader
    python -m benchmarks.loader --steps 32
    python -m benchmarks.loader --quick
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial

import cv2
import torch

from benchmarks.reporting import arguments, finish
from rayvos.pipelines.cluster import connected
from rayvos.training.loading import BatchLoader
from rayvos.training.registry import TrainingPlan, TrainingRequest, plan_training
from rayvos.training.sample_actors import pieces_from_actors
from rayvos.training.steps import Trainer
from rayvos.video.synthetic import SynthConfig
from rayvos.video.synthetic_set import SetSettings, write_set

ALLOWED = 0.05
CLIPS = 8


@dataclass(frozen=True)
class Costs:
    """CPU seconds of one step in one process."""

    samples_s: float
    network_s: float


def plan_of(data: str | None, steps: int) -> TrainingPlan:
    """Return the training: `loss` is one whose cost is the same in all steps."""
    request = TrainingRequest(
        recipe="quick", steps=steps, data=() if data is None else (data,), options={"loss": "ce", "clips": CLIPS}
    )
    return plan_training("stcn", request)


def costs_of(plan: TrainingPlan, steps: int) -> Costs:
    """Return what a step costs, its samples apart; clips have been drawn and read once before."""
    trainer = Trainer(plan.task, plan.optimisation, device="cpu")
    samples_s = network_s = 0.0
    with BatchLoader(plan.task, plan.optimisation, trainer.share) as loader:
        for step in range(2 * steps):
            began = time.process_time()
            batches = loader.next_step()
            made = time.process_time()
            trainer.advance(batches)
            if step >= steps:
                samples_s += (made - began) / steps
                network_s += (time.process_time() - made) / steps
    return Costs(samples_s, network_s)


def waiting_share(plan: TrainingPlan, *, processes: int = 0, actors: int = 0) -> float:
    """Return the share of a run's time, its first quarter left out, that the trainer waited for samples."""
    trainer, steps = Trainer(plan.task, plan.optimisation, device="cpu"), plan.optimisation.steps
    source = partial(pieces_from_actors, num_actors=actors) if actors else None
    with BatchLoader(plan.task, plan.optimisation, trainer.share, processes=processes, source=source) as loader:
        for _ in range(steps // 4):  # whoever makes samples starts, clips are drawn for the first time
            trainer.advance(loader.next_step())
        began, waited = time.monotonic(), loader.waiting_s
        while trainer.step < steps:
            trainer.advance(loader.next_step())
        return (loader.waiting_s - waited) / (time.monotonic() - began)


def shares_until_enough(plan: TrainingPlan, makers: str, most: int) -> dict[int, float]:
    """Return the share for 1, 2… of `makers`, up to the first number that is enough; print it."""
    shares: dict[int, float] = {}
    for number in range(1, most + 1):
        shares[number] = waiting_share(plan, **{makers: number})
        print(f"  {number} {makers}: {shares[number]:6.1%} of the time waiting for samples", flush=True)
        if shares[number] <= ALLOWED:
            print(f"  enough: {number} {makers}")
            return shares
    print(f"  not enough: {most} {makers}, with {os.cpu_count()} cores")
    return shares


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, help="of each measured run; default 80, with --quick 16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    steps, most = (16, 1) if options.quick else (80, max(2, os.cpu_count() or 1))
    steps = options.steps or steps
    found: dict[str, dict[str, object]] = {}
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, connected("local", least_cpus=most):
        settings = SetSettings(config=SynthConfig(num_frames=8, num_objects=2), mask_prompts="all")
        write_set(f"{folder}/clips", settings, CLIPS)
        for name, data in (("generated", None), ("decoded", f"{folder}/clips/manifest.parquet")):
            plan = plan_of(data, steps)
            costs = costs_of(plan, steps // 8)
            print(f"{name}: a step takes {costs.network_s:.3f} s of CPU time, its samples {costs.samples_s:.3f} s")
            alone = waiting_share(plan)
            print(f"  nobody: {alone:6.1%} of the time waiting for samples", flush=True)
            found[name] = {"samples_s": costs.samples_s, "network_s": costs.network_s, "alone": alone}
            for makers in ("processes", "actors"):
                shares = shares_until_enough(plan, makers, most)
                found[name][makers] = shares
                best[f"waiting_share_{name}_{makers}"] = min(shares.values())
    finish(options, best, {"loading": found})


if __name__ == "__main__":
    main()
