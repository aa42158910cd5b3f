"""Run as a program by `test_loops.py`: two workers train STCN, and they or this process may be killed.

A worker has one CPU, and one actor makes its samples.
Arguments: the cluster's address, the run folder, the steps, the deaths (see `mortal_stcn`). Prints where it began.

`rayvos train` gives workers the CPUs that the cluster has, and sums in another order with more of them.
"""

from __future__ import annotations

import logging
import sys

import ray

from rayvos.training.loops import train_on_ray
from rayvos.training.registry import TrainingRequest
from rayvos.training.runs import RunSettings
from rayvos.training.worker_group import WorkerGroup
from tests.training.mortal_stcn import plan_mortal


def main(address: str, out: str, steps: str, deaths: str) -> None:
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    plan = plan_mortal(TrainingRequest(steps=int(steps), batch_size=4, options={"deaths": deaths}))
    settings = RunSettings(out=out, device="cpu", processes=0, checkpoint_every=2, validate_every=int(steps))
    group = WorkerGroup(num_workers=2, num_cpus=1, use_gpu=False, sample_actors=1)
    summary = train_on_ray(plan, settings, group)
    assert summary.done
    print(summary.resumed_at)


if __name__ == "__main__":
    main(*sys.argv[1:])
