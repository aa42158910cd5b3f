"""Run as a program by `test_lost_machine.py`: labels on a cluster of three machines, one of which is lost.

Arguments: manifest, output folder. Prints one JSON object.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import ray
from ray.cluster_utils import Cluster

from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.progress import RunProgress
from rayvos.pipelines.run import run_job
from tests.engines_for_tests import ENGINE
from tests.ray_cluster import ONE_CLIP_A_UNIT


def main(manifest: str, out: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
    machines = [cluster.add_node(num_cpus=2, object_store_memory=100_000_000) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def lose_one(found: RunProgress) -> None:
        if machines and found.units_done >= 2:
            cluster.remove_node(machines.pop(), allow_graceful=False)

    engine = EngineChoice(ENGINE, {"seconds_per_frame": ONE_CLIP_A_UNIT, "delay_s": 0.1})
    summary = run_job(LabelJob(manifest, out, engine, max_attempts=9), on_progress=lose_one)
    print(json.dumps(dataclasses.asdict(summary)))
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.flush()
    os._exit(0)  # the machines are children of this process: none of their threads shall keep it


if __name__ == "__main__":
    main(*sys.argv[1:])
