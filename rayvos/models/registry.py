"""Networks by name, and the networks of weights files; a network's module is imported when it is built."""

from __future__ import annotations

import importlib
import importlib.resources
from collections.abc import Mapping
from typing import Any

from torch import nn

from rayvos.errors import WeightsError, choose
from rayvos.models.weights import WeightsInfo, load_state, read_weights

__all__ = ["ARCHITECTURES", "build_model", "load_model", "packaged_weights"]

ARCHITECTURES: Mapping[str, str] = {
    "box2seg": "rayvos.models.box2seg:build_box2seg",
    "guided": "rayvos.models.guided:build_guided",
    "sta": "rayvos.models.sta:build_sta",
    "stcn": "rayvos.models.stcn:build_stcn",
    "stcn_compact": "rayvos.models.stcn_compact:build_stcn_compact",
}
"""Architecture → `module:function`; the function takes the model configuration of a weights file."""


def build_model(architecture: str, model: Mapping[str, Any]) -> nn.Module:
    """Return a network with random weights.

    Args:
        architecture: a name of `ARCHITECTURES`.
        model: its configuration, as a weights file stores it.

    Raises:
        UsageError: no network has this name, or a value of the configuration is not possible.
        WeightsError: the configuration is one of a newer version.
    """
    module, _, function = ARCHITECTURES[choose("architecture", architecture, ARCHITECTURES)].partition(":")
    network: nn.Module = getattr(importlib.import_module(module), function)(model)
    return network


def packaged_weights() -> dict[str, str]:
    """Return the paths of the weights that come with the package, by name (the file's name without its ending)."""
    folder = importlib.resources.files("rayvos") / "models"
    return {
        entry.name.removesuffix(".safetensors"): str(entry)
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".safetensors")
    }


def load_model(
    path_or_name: str, *, architecture: str | tuple[str, ...] | None = None
) -> tuple[nn.Module, WeightsInfo]:
    """Return the network of a weights file, on the CPU, in evaluation mode, in float32.

    Args:
        path_or_name: local path, fsspec URL, or name of `packaged_weights`.
        architecture: what the caller can use, one or several; None: any.

    Raises:
        WeightsError: the file is missing, damaged, or holds another network than its metadata or the caller says.
        StorageError: storage does not answer, or refuses.
    """
    packaged = packaged_weights()
    path = packaged.get(path_or_name, path_or_name)
    state, info = read_weights(path)
    usable = (architecture,) if isinstance(architecture, str) else architecture
    if usable is not None and info.architecture not in usable:
        names = " or ".join(usable)
        raise WeightsError(
            f"weights {path}: expected a {names} network, found {info.architecture!r}; "
            f"give weights of {names}, or use the engine for {info.architecture}"
        )
    if info.architecture not in ARCHITECTURES:
        raise WeightsError(
            f"weights {path}: network {info.architecture!r} is unknown to this rayvos "
            f"(it knows {', '.join(sorted(ARCHITECTURES))}); upgrade rayvos"
        )
    network = build_model(info.architecture, info.model)
    load_state(network, state, where=path)
    return network.eval(), info
