"""Ray on a busy machine: a node may take minutes to start, where Ray itself waits for 30 seconds.

from benchmarks.busy_machine import patient_starts

python -m benchmarks.busy_machine start --head …      # `ray start` with the same patience
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
import time
from contextlib import ExitStack
from typing import Any

__all__ = ["node_options", "patient_starts"]

START_S = 600.0
# Of Ray's own processes towards each other: what is slow here is not dead.
SETTINGS = {
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_gcs_rpc_server_connect_timeout_s": "60",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    "RAY_py_gcs_connect_timeout_s": "300",
}

# A raylet waits 15 seconds until its agents have written their ports into files, and dies if they are late: agents
# whose ports are given get the files at once.
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


def patient_starts() -> None:
    """Have this process wait longer for the nodes that it starts."""
    from ray import _raylet
    from ray._private import services

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    get_node, start_raylet = services.get_node, services.start_raylet
    signature = inspect.signature(start_raylet)

    def get_patiently(*words: Any, **options: Any) -> Any:
        deadline = time.monotonic() + START_S
        while True:
            try:
                return get_node(*words, **options)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def start_with_known_ports(*words: Any, **options: Any) -> Any:
        found = signature.bind(*words, **options)
        for name, port in _free_agent_ports().items():
            found.arguments[name] = found.arguments.get(name) or port
            _raylet.persist_port(
                found.arguments["session_dir"], found.arguments["node_id"], name, found.arguments[name]
            )
        return start_raylet(*found.args, **found.kwargs)

    services.get_node = get_patiently
    services.start_raylet = start_with_known_ports


def node_options(num_cpus: int) -> dict[str, Any]:
    """Return the options of a node of `ray.cluster_utils.Cluster`; its agents are told their ports."""
    return {"num_cpus": num_cpus, "object_store_memory": 100_000_000, **_free_agent_ports()}


def _free_agent_ports() -> dict[str, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in AGENT_PORTS]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(AGENT_PORTS, sockets, strict=True)}


if __name__ == "__main__":
    from ray.scripts.scripts import main

    patient_starts()
    sys.exit(main())
