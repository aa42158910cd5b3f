"""`rayvos doctor`: check what a labelling run needs, before it needs it."""

from __future__ import annotations

import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.errors import RayvosError, RunError

__all__ = ["Finding", "doctor"]

PACKAGES = ("ray", "torch", "torchvision", "numpy", "cv2", "pycocotools", "pyarrow", "av", "s3fs")
DISTRIBUTIONS = {"cv2": "opencv-python"}
NEEDED_MEMORY = 4 << 30  # one actor, Ray's own processes and the object store
NEEDED_DISK = 5 << 30
NODE_TIMEOUT_S = 60.0  # a worker that must start first, on a busy machine
NEEDED_SHM = 128 << 20  # Ray's smallest object store is 75 MiB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    remedy: str = ""


def doctor(
    *,
    address: Annotated[str | None, Parameter(help="Ray cluster to check, too: host:port, auto or ray://…")] = None,
    storage_url: Annotated[
        str | None, Parameter(name="--storage", help="Folder or URL that outputs will go to.")
    ] = None,
    weights: Annotated[str | None, Parameter(help="Weights file to check, path or URL.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON list.")] = False,
) -> int:
    """Check this machine, and on request a cluster, a storage place and a weights file.

    Exits with 1 if something failed. Example:

        rayvos doctor --address auto --storage s3://bucket/labels
    """
    checks: list[Callable[[], Iterator[Finding]]] = [_check_python, _check_packages, _check_machine, _check_accelerator]
    if address is not None:
        checks.append(lambda: _check_cluster(address, storage_url))
    if storage_url is not None:
        checks.append(lambda: _check_storage(storage_url))
    if weights is not None:
        checks.append(lambda: _check_weights(weights))
    findings = []
    for check in checks:
        for finding in check():
            findings.append(finding)
            if not as_json:
                _show(finding)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    return int(any(finding.state == "failed" for finding in findings))


def _show(finding: Finding) -> None:
    mark = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}[finding.state]
    print(f"{mark} {finding.name:<14} {finding.found}", flush=True)
    if finding.remedy:
        print(f"        {'':<14} → {finding.remedy}", flush=True)


def _check_python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _check_packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            importlib.import_module(name)
            yield Finding(name, "ok", version(DISTRIBUTIONS.get(name, name)))
        except (ImportError, OSError, PackageNotFoundError) as error:
            remedy = f"install it: pip install {DISTRIBUTIONS.get(name, name)}"
            if name == "cv2" and "lib" in str(error):
                remedy = "install the system libraries, on Debian: apt-get install libgl1 libglib2.0-0 libx11-6 libxcb1"
            yield Finding(name, "failed", str(error), remedy)


def _check_machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("processor", "ok", f"{cores} cores, {platform.machine()}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield _enough("memory", memory, NEEDED_MEMORY, "label with --actors 1, and close other programs")
    temporary = tempfile.gettempdir()
    remedy = f"free space in {temporary}, where Ray keeps its session files"
    yield _enough("disk", shutil.disk_usage(temporary).free, NEEDED_DISK, remedy)
    if Path("/dev/shm").is_dir():
        remedy = "give the container more shared memory, e.g. docker run --shm-size=1g"
        yield _enough("shared memory", shutil.disk_usage("/dev/shm").free, NEEDED_SHM, remedy)


def _enough(name: str, found: int, needed: int, remedy: str) -> Finding:
    text = f"{found / 2**30:.1f} GiB free" if name != "memory" else f"{found / 2**30:.1f} GiB"
    if found >= needed:
        return Finding(name, "ok", text)
    return Finding(name, "warning", f"{text}, less than {needed / 2**30:.2g} GiB", remedy)


def _check_accelerator() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("accelerator", "ok", "none: labelling runs on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("accelerator", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def _check_cluster(address: str, storage_url: str | None) -> Iterator[Finding]:
    from rayvos.pipelines.cluster import connected

    try:
        with connected(address):
            yield from _check_nodes(storage_url)
    except RunError as error:
        yield Finding("cluster", "failed", str(error), "start one (ray start --head), or check the address")


def _check_nodes(storage_url: str | None) -> Iterator[Finding]:
    """Check the cluster that this process is connected to, and each of its machines from inside."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0), total.get("GPU", 0)
    yield Finding("cluster", "ok", f"{len(nodes)} nodes, {cpus:.0f} CPUs, {gpus:.0f} GPUs, Ray {ray.__version__}")
    if cpus < 2:
        remedy = "give the cluster 2 CPUs: one actor, one for Ray Data"
        yield Finding("cluster CPUs", "failed", "fewer than 2", remedy)
    probe = ray.remote(num_cpus=0)(_look_around)
    for node in nodes:
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = node["NodeManagerAddress"]
        try:
            task = probe.options(scheduling_strategy=strategy).remote(storage_url)
            there, findings = ray.get(task, timeout=NODE_TIMEOUT_S)
        except Exception as error:  # Ray raises many kinds; each means that this node cannot work
            yield Finding("node", "failed", f"{name}: {error}", "install rayvos on this node")
            continue
        state: Literal["ok", "failed"] = "ok" if there == _versions() else "failed"
        remedy = "" if state == "ok" else f"install the same versions as here: {_versions()}"
        yield Finding("node", state, f"{name}: {there}", remedy)
        for finding in findings:
            yield replace(finding, found=f"{name}: {finding.found}")


def _look_around(storage_url: str | None) -> tuple[str, list[Finding]]:
    """Return what a machine has installed, and whether its own credentials reach the storage."""
    return _versions(), [] if storage_url is None else list(_check_storage(storage_url))


def _versions() -> str:
    """Return the versions that must agree between the driver and its workers."""
    names = {"rayvos": "rayvos", "torch": "torch", "cv2": "opencv-python", "numpy": "numpy"}
    return ", ".join(f"{name} {version(distribution)}" for name, distribution in names.items())


def _check_storage(url: str) -> Iterator[Finding]:
    path = storage.join(url, f".rayvos-doctor-{uuid.uuid4().hex[:8]}")
    try:
        created = storage.create_if_absent(path, b"first")
        again = storage.create_if_absent(path, b"second")
        same = storage.read_bytes(path) == b"first"
        storage.remove(path)
    except RayvosError as error:
        yield Finding("storage", "failed", str(error), "check the URL, the credentials and the rights to write")
        return
    if created and not again and same:
        yield Finding("storage", "ok", f"{url}: reads, writes, and creates a file only once")
    else:
        remedy = "use storage with conditional writes: exactly-once commits depend on them"
        yield Finding("storage", "failed", f"{url}: a second create replaced the first file", remedy)


def _check_weights(path: str) -> Iterator[Finding]:
    from rayvos.models.registry import load_model

    try:
        _, info = load_model(path)
    except RayvosError as error:
        yield Finding("weights", "failed", str(error), "see the list of architectures in the README")
        return
    yield Finding("weights", "ok", f"{path}: {info.architecture}")
