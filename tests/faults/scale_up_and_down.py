"""Run as a program by `test_autoscaling.py`: labels on a cluster whose machines come for the work and go after it.

The machines are Ray's simulated ones: processes on this machine, started and ended by the real autoscaler (v2). The
head has no CPU. Arguments: manifest, output folder. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
import yaml

from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.progress import RunProgress
from rayvos.pipelines.run import run_job
from tests.engines_for_tests import ENGINE
from tests.ray_cluster import ONE_CLIP_A_UNIT
from tests.ray_head import free_ports, start_patiently, wait_for

HEAD = "ray.head.default"
HEAD_ID = "f" * 51 + "00000"  # what the provider calls the head
NUM_ACTORS = 2


def autoscaling(address: str) -> dict[str, Any]:
    """Return the autoscaler's configuration; the keys that are empty must be there."""
    provider = {
        # As an external provider it needs no defaults, which Ray's package lacks for it.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    types = {
        HEAD: {"resources": {"CPU": 0}, "min_workers": 0, "max_workers": 0, "node_config": {}},
        "worker": {"resources": {"CPU": 1}, "min_workers": 0, "max_workers": NUM_ACTORS, "node_config": {}},
    }
    lists = [f"{who}setup_commands" for who in ("", "head_", "worker_")] + ["initialization_commands", "rsync_filter"]
    lists += ["head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude"]
    return {
        "cluster_name": "simulated", "max_workers": NUM_ACTORS, "idle_timeout_minutes": 0.1, "upscaling_speed": 100,
        "provider": provider, "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        "head_node_type": HEAD, "available_node_types": types, **{name: list[str]() for name in lists},
    }  # fmt: skip


def start_head(folder: Path, port: int, address: str) -> subprocess.Popen[bytes]:
    """Start the head and connect to it."""
    config = folder / "autoscaling.yaml"
    config.write_text(yaml.safe_dump(autoscaling(address)))
    command = [sys.executable, "-m", "benchmarks.busy_machine", "start", "--head", "--block", f"--port={port}"]
    options = (
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "dashboard-agent-listen-port",
        "runtime-env-agent-port",
    )
    command += [f"--{name}={found}" for name, found in zip(options, free_ports(len(options)), strict=True)]
    command += ["--num-cpus=0", "--include-dashboard=false", "--object-store-memory=100000000"]
    command += [f"--autoscaling-config={config}", f"--temp-dir={folder}"]
    environment = {
        **os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TMPDIR": str(folder),
        "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_NODE_TYPE_NAME": HEAD,
    }  # fmt: skip

    def join() -> bool:
        socket.create_connection(tuple(address.split(":")), 5).close()  # type: ignore[arg-type]
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        return True

    return start_patiently(command, environment, folder / "head.log", join)[0]


def num_workers() -> int:
    return sum(node["Alive"] and "node:__internal_head__" not in node["Resources"] for node in ray.nodes())


def main(manifest: str, out: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rv-", dir="/tmp"))  # sockets live in it: their paths must stay short
    (port,) = free_ports(1)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    head = start_head(folder, port, address)
    workers = list[int]()

    def look(_: RunProgress) -> None:
        workers.append(num_workers())

    try:
        before = num_workers()
        engine = EngineChoice(ENGINE, {"seconds_per_frame": ONE_CLIP_A_UNIT, "delay_s": 0.1})
        run_job(LabelJob(manifest, out, engine, max_attempts=9, actors=NUM_ACTORS), on_progress=look)
        wait_for(lambda: num_workers() == 0)
        print(json.dumps({"before": before, "most": max(workers), "after": num_workers()}), flush=True)
        ray.shutdown()
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
