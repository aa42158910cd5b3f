"""The whole state of a training run as one file: a run that was killed ends with the weights of one that was not.

A state is tensors (weights, their running mean, what the optimiser remembers) and a few numbers; it is stored as
safetensors with one metadata entry, like weights, so that reading it runs no code. A checkpoint appears in one atomic
step; who is killed while writing leaves the one before.

Why no generator state: random numbers of a step are drawn from its number (`steps.Trainer`), and a sample is a
function of its index, so the number of finished steps is all that chance and data remember.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from rayvos import storage
from rayvos.errors import UsageError, WeightsError

__all__ = [
    "TrainingState",
    "check_identity",
    "load_state_file",
    "newest_checkpoint",
    "save_checkpoint",
    "save_state_file",
]

METADATA_KEY = "rayvos_training_state"
METADATA_VERSION = 1
CHECKPOINT = re.compile(r"step-(\d{9})\.safetensors")
CHECKPOINTS_KEPT = 2  # the newest, and the one before in case that one is damaged by the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """What a run is after some finished steps."""

    step: int
    """Finished optimiser steps."""
    identity: Mapping[str, Any]
    """All that the weights depend on, as plain JSON values; see `steps.run_identity`."""
    tensors: Mapping[str, Tensor]
    """By name: `model/…`, `average/…` (running mean), `optimiser/GROUPWISE INDEX/…`."""
    scaler: Mapping[str, float] = field(default_factory=dict)
    """State of the loss scaling of float16; empty for other precisions."""
    best: Mapping[str, float] = field(default_factory=dict)
    """The best validation so far, with its `step`; empty before the first."""


def save_state_file(path: str, state: TrainingState) -> None:
    """Write a state in one atomic step.

    Args:
        path: local path or fsspec URL.
        state: what to keep; tensors on any device.

    Raises:
        StorageError: the file could not be written; what was there before is still there.
    """
    about = {
        "version": METADATA_VERSION,
        "step": state.step,
        "identity": state.identity,
        "scaler": dict(state.scaler),
        "best": dict(state.best),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    storage.write_bytes(path, safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(about, sort_keys=True)}))


def load_state_file(path: str) -> TrainingState:
    """Read a state; no code of the file is run.

    Raises:
        WeightsError: the file is truncated, damaged or no training checkpoint.
        StorageError: it is not there, or storage does not answer.
    """
    data = storage.read_bytes(path)
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        text = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(METADATA_KEY)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise WeightsError(
            f"checkpoint {path}: {len(data)} bytes that do not hold what the file's header promises ({error}): it is "
            "truncated or damaged; remove it, and the run goes on from the checkpoint before it"
        ) from error
    if text is None:
        raise WeightsError(f"checkpoint {path}: expected the state of a training run, found other tensors")
    about = json.loads(text)
    if about.get("version") != METADATA_VERSION:
        raise WeightsError(
            f"checkpoint {path}: its version is {about.get('version')!r}, this rayvos reads {METADATA_VERSION}; "
            "go on with the rayvos that wrote it"
        )
    return TrainingState(
        step=about["step"], identity=about["identity"], tensors=tensors, scaler=about["scaler"], best=about["best"]
    )


def newest_checkpoint(folder: str) -> str | None:
    """Return the path of the checkpoint with the most steps in a folder; None where there is none."""
    names = [name for name in storage.list_folder(folder) if CHECKPOINT.fullmatch(name)]
    return storage.join(folder, max(names)) if names else None


def save_checkpoint(folder: str, state: TrainingState) -> str:
    """Write a state into a folder of checkpoints, remove all but the newest ones, and return its path.

    Raises:
        StorageError: the file could not be written.
    """
    path = storage.join(folder, f"step-{state.step:09d}.safetensors")
    save_state_file(path, state)
    older = [name for name in storage.list_folder(folder) if CHECKPOINT.fullmatch(name)][:-CHECKPOINTS_KEPT]
    for name in older:
        storage.remove(storage.join(folder, name))
    return path


def check_identity(found: Mapping[str, Any], expected: Mapping[str, Any], *, where: str) -> None:
    """Refuse to go on with a run of another configuration.

    Args:
        found: identity of the run that is there.
        expected: identity of the run that is asked for.
        where: folder or file, for the message.

    Raises:
        UsageError: they differ; the message shows where.
    """
    # Tuples are lists in what was read.
    differences = _differences(json.loads(json.dumps(found)), json.loads(json.dumps(expected)), "")
    if differences:
        shown = "; ".join(differences[:5]) + ("; …" if len(differences) > 5 else "")
        raise UsageError(
            f"{where}: holds a training run of another configuration ({shown}); "
            "give the same options, choose another output folder, or discard that run with --overwrite"
        )


def _differences(found: Any, expected: Any, name: str) -> list[str]:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        lines: list[str] = []
        for key in sorted(found.keys() | expected.keys()):
            inner = f"{name}.{key}" if name else str(key)
            lines += _differences(found.get(key, "unset"), expected.get(key, "unset"), inner)
        return lines
    return [] if found == expected else [f"{name}: there {found!r}, now {expected!r}"]
