"""`run.json`: what a run is made of and what became of it, enough to repeat it, and never a secret."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from rayvos import storage
from rayvos.annotations.run_folder import RunFolder
from rayvos.errors import UsageError
from rayvos.redaction import without_secrets

__all__ = ["RunRecord", "RunState", "check_same_configuration", "library_versions"]

RunState = Literal["running", "stopping", "stopped", "done", "failed"]

# What decides pixels and bytes: decoders, arithmetic, encoders.
LIBRARIES = ("rayvos", "ray", "torch", "torchvision", "numpy", "opencv-python", "av", "pycocotools", "pyarrow")
EARLIER_STARTS = 20  # starts of the driver that are remembered


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that rows depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # another build of it, such as opencv-python-headless
            found[name] = "unknown"
    return found


def check_same_configuration(run: RunFolder, configuration: Mapping[str, Any]) -> None:
    """Check that a run folder is new, or was made with this configuration.

    Raises:
        UsageError: it was made with another one; the message lists the difference.
        FormatError: `run.json` is damaged.
    """
    before = run.read_run_json().get("configuration")
    if before is None:
        return
    old, new = _flat(before), _flat(configuration)
    different = [
        f"{name}: {old.get(name, 'none')} there, {new.get(name, 'none')} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if different:
        raise UsageError(
            f"{run.path}: this run was made with other settings ({'; '.join(different)}); "
            "use another output folder, the same settings, or --overwrite to discard it"
        )


def _flat(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return what a configuration says, each fact under a name a person understands: `option cues`, `guide weights`."""
    flat: dict[str, str] = {}
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            prefix = "option" if name == "options" else name
            flat |= {f"{prefix} {key}": json.dumps(item) for key, item in value.items()}
        else:
            flat[name] = str(value) or "none"
    return flat


class RunRecord:
    """Writes `run.json` as the run goes on."""

    def __init__(self, run: RunFolder, configuration: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        self._run = run
        before = run.read_run_json()
        earlier = list(before.get("earlier", []))
        if before:
            earlier.append({key: before.get(key) for key in ("started", "ended", "state", "throughput")})
        self._facts: dict[str, Any] = {
            "state": "running",
            "started": _now(),
            "ended": None,
            "engine": configuration["engine"],
            "configuration": dict(configuration),
            "job": without_secrets(dict(job)),
            "versions": library_versions(),
            "earlier": earlier[-EARLIER_STARTS:],
        }

    def write(self, state: RunState | None = None, **facts: Any) -> None:
        """Add facts, state what the run does, and store it all.

        Raises:
            StorageError: the run folder cannot be written.
        """
        self._facts.update(without_secrets(facts))
        if state is not None:
            self._facts["state"] = state
            if state not in ("running", "stopping"):
                self._facts["ended"] = _now()
        storage.write_bytes(self._run.run_json, json.dumps(self._facts, indent=2, default=str).encode() + b"\n")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
