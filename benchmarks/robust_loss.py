"""Learning from wrong labels: plain cross entropy against the Huberised one, at 0, 20 and 40 % corrupted labels.

As in the papers, a network is first trained on still pictures whose masks are right, here a small one on generated
clips. It then goes on with video of which a share of the labels lies somewhere else, and carries true first masks
through clips that it never saw. Both losses see the same clips, the same wrong labels, the same first weights and the
same order of samples; three seeds. A wrong label also misleads where it is the reference of a sample: at 40 % most
pairs of frames contradict each other. Prints mean J&F and the mean difference of the pairs at each share.

    python -m benchmarks.robust_loss
    python -m benchmarks.robust_loss --quick
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import torch

from benchmarks.reporting import arguments, finish
from benchmarks.vos_learning import BASE, BASE_RATE, QUICK_BASE, learn, new_trainer

SHARES = (0.0, 0.2, 0.4)
LOSSES: tuple[Literal["ce", "huberised"], ...] = ("ce", "huberised")
TAU = 3.0  # Box2Seg
RATE = 5e-4


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    base_steps, steps, seeds = (8, 4, (0,)) if options.quick else (800, 150, (0, 1, 2))
    start = QUICK_BASE if options.quick else BASE
    means: dict[str, dict[str, list[float]]] = {}
    gains: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        base = new_trainer(start, steps=base_steps, learning_rate=BASE_RATE, seed=0)
        learn(base)
        print(f"before, {base_steps} steps on still pictures: J&F {base.validate()['j_and_f']:.3f}", flush=True)
        weights = f"{folder}/base.safetensors"
        base.export(weights)
        for share in SHARES:
            found: dict[str, list[float]] = {loss: [] for loss in LOSSES}
            for seed in seeds:
                for loss in LOSSES:
                    # The network has begun well: no warm-up by cross entropy.
                    config = replace(start, static=False, loss=loss, tau=TAU, tau_warmup=0.0, corrupted=share)
                    trainer = new_trainer(config, steps=steps, learning_rate=RATE, seed=seed, weights=weights)
                    learn(trainer)
                    found[loss].append(trainer.validate()["j_and_f"])
            means[f"{share:g}"] = found
            gains[f"{share:g}"] = float(np.mean(found["huberised"]) - np.mean(found["ce"]))
            told = "  ".join(
                f"{loss} {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"
                for loss, values in found.items()
            )
            print(f"{share:.0%} wrong labels: {told}  difference {gains[f'{share:g}']:+.3f}", flush=True)
    finish(options, {f"robust_gain_{share}": gain for share, gain in gains.items()}, {"j_and_f": means})


if __name__ == "__main__":
    main()
