"""Weights files: safetensors with a metadata entry that says what they are; nothing in a file is ever executed.

A file of ours holds the tensors and one metadata entry, `rayvos`: a JSON object with the architecture, the model's
configuration, how it was trained, its metrics, the version that wrote it, the licence, and the digest of what the
labels depend on. Other people's `.pth` files are read by `torch.load(weights_only=True)`, which refuses code.

Why one metadata entry: safetensors writes several entries in an order that differs from call to call, and the same
weights shall give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rayvos import storage
from rayvos.errors import MissingPathError, WeightsError

__all__ = ["WeightsInfo", "load_state", "read_checkpoint", "read_weights", "save_weights", "weights_digest"]

METADATA_KEY = "rayvos"
METADATA_VERSION = 1
NAMES_SHOWN = 3  # of missing or unexpected tensors: enough to recognise a network, short enough for one line
# Tensor names that tell other networks' files apart; the first match is named in the hint.
FAMILIES = (
    ("Encoder_M.", "an STM checkpoint"),
    ("key_encoder.", "an STCN checkpoint"),
    ("aspp.", "a box2seg checkpoint"),
    ("backbone.body.", "a torchvision detection checkpoint"),
    ("image_encoder.", "a SAM checkpoint"),
    ("layer1.0.conv1.weight", "a ResNet image classifier: load it as a backbone"),
    ("features.0.0.weight", "a torchvision image classifier: load it as a backbone"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """What a weights file says of itself."""

    architecture: str
    """Name of the network in `rayvos.models.registry`."""
    model: Mapping[str, Any]
    """What its builder needs, as plain JSON values."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was trained."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """How good it is, and on what."""
    licence: str = ""
    """Under which terms the weights may be used, and what they were trained on."""
    rayvos_version: str = ""
    """The version that wrote the file."""
    digest: str = ""
    """SHA-256 of architecture, model configuration and tensors: all of the file that labels depend on."""
    path: str = ""
    """Where the file was read."""


def weights_digest(state: Mapping[str, Tensor], architecture: str, model: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an architecture, its configuration and its tensors (names, dtypes, shapes, bytes)."""
    digest = hashlib.sha256(json.dumps([architecture, model], sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_weights(
    path: str,
    state: Mapping[str, Tensor],
    *,
    architecture: str,
    model: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str = "",
    dtype: torch.dtype | None = None,
) -> str:
    """Write a weights file, replacing an older one in one step; the same arguments give the same bytes.

    Args:
        path: local path or fsspec URL, usually named `*.safetensors`.
        state: tensors by name, as `nn.Module.state_dict` gives them.
        architecture: name of the network in `rayvos.models.registry`.
        model: what its builder needs; plain JSON values, as are `training` and `metrics`.
        training: how it was trained.
        metrics: how good it is, and on what.
        licence: under which terms the weights may be used, and what they were trained on.
        dtype: floating tensors are stored in it, say `torch.float16` for half the size; None: as they are.

    Returns:
        The digest, as `weights_digest` computes it of what was stored.

    Raises:
        StorageError: the file could not be written.
    """
    stored = {name: _stored(tensor, dtype) for name, tensor in state.items()}
    digest = weights_digest(stored, architecture, model)
    about = {
        "version": METADATA_VERSION,
        "architecture": architecture,
        "model": dict(model),
        "training": dict(training or {}),
        "metrics": dict(metrics or {}),
        "licence": licence,
        "rayvos_version": _rayvos_version(),
        "digest": digest,
    }
    storage.write_bytes(path, safetensors.torch.save(stored, {METADATA_KEY: json.dumps(about, sort_keys=True)}))
    return digest


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.clone(memory_format=torch.contiguous_format)


def _rayvos_version() -> str:
    try:
        return version("rayvos")
    except PackageNotFoundError:  # a source tree on a machine where nothing is installed
        return "source"


def read_weights(path: str) -> tuple[dict[str, Tensor], WeightsInfo]:
    """Return the tensors of a rayvos weights file and what it says of itself.

    Args:
        path: local path or fsspec URL.

    Raises:
        WeightsError: nothing is there, the file is damaged, or it is no weights file of rayvos.
        StorageError: storage does not answer, or refuses.
    """
    data = _read(path)
    if not _is_safetensors(data):
        raise WeightsError(f"weights {path}: expected a rayvos safetensors file, {_what_is(data)}")
    state = _tensors(path, data)
    about = _metadata(path, data, state)
    try:
        info = WeightsInfo(
            architecture=about["architecture"],
            model=about["model"],
            training=about["training"],
            metrics=about["metrics"],
            licence=about["licence"],
            rayvos_version=about["rayvos_version"],
            digest=about["digest"],
            path=path,
        )
    except (KeyError, TypeError) as error:
        raise WeightsError(f"weights {path}: its metadata lacks {error}; write the file again") from error
    if weights_digest(state, info.architecture, info.model) != info.digest:
        raise WeightsError(f"weights {path}: its content does not match its digest: the file is damaged; copy it again")
    return state, info


def _metadata(path: str, data: bytes, state: Mapping[str, Tensor]) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    try:
        text = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(METADATA_KEY)
        about = None if text is None else json.loads(text)
    except ValueError as error:
        raise WeightsError(f"weights {path}: its metadata is no JSON: the file is damaged; copy it again") from error
    if not isinstance(about, dict):
        raise WeightsError(
            f"weights {path}: expected metadata that names the architecture, found none{_hint(state)}; "
            "write weights with `rayvos train` or rayvos.models.weights.save_weights"
        )
    if about.get("version") != METADATA_VERSION:
        raise WeightsError(
            f"weights {path}: its metadata has version {about.get('version')!r}, this rayvos reads "
            f"{METADATA_VERSION}; upgrade rayvos"
        )
    return about


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Return the tensors of anybody's checkpoint: safetensors, or a `.pth` that holds tensors and nothing else.

    A state dict may lie under `state_dict`, `model` or `network`, and its names may start with `module.`.

    Args:
        path: local path or fsspec URL.

    Raises:
        WeightsError: nothing is there, the file is damaged, or it asks for code to be run.
        StorageError: storage does not answer, or refuses.
    """
    data = _read(path)
    if _is_safetensors(data):
        return _tensors(path, data)
    try:
        loaded = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights {path}: it holds more than tensors, and loading that would run code from the file; "
            "convert it to safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"weights {path}: expected a checkpoint, {_what_is(data)}; copy it again") from error
    for key in ("state_dict", "model", "network"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"weights {path}: expected tensors by name, found {type(loaded).__name__} of other things")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}


def _read(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except MissingPathError as error:
        raise WeightsError(f"weights {path}: expected a file, found nothing; check the path or URL") from error


def _is_safetensors(data: bytes) -> bool:
    return data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 1 << 27


def _tensors(path: str, data: bytes) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise WeightsError(
            f"weights {path}: {len(data)} bytes that do not hold what the file's header promises ({error}): "
            "the file is truncated or damaged; copy it again"
        ) from error


def _what_is(data: bytes) -> str:
    if not data:
        return "found an empty file"
    if data.startswith(b"version https://git-lfs"):
        return "found a Git LFS pointer; run git lfs pull"
    if data.startswith((b"PK", b"\x80")):
        return "found a PyTorch checkpoint or a part of one, which does not say what network it is"
    if data.lstrip()[:1] == b"<":
        return "found a web page; was the download refused?"
    return f"found {len(data)} bytes of something else"


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy tensors into a module; the names must be exactly the module's, the shapes too. Dtypes are converted.

    Args:
        module: what to fill, in place.
        state: tensors by name.
        where: the file, for error messages.

    Raises:
        WeightsError: names are missing or unexpected, or a shape differs; the module is unchanged then.
    """
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        raise WeightsError(
            f"weights {where}: tensors: {_count(missing, 'missing')}, {_count(unexpected, 'unexpected')}"
            f"{_hint(state)}; give weights of this network"
        )
    for name, target in wanted.items():
        if state[name].shape != target.shape:
            raise WeightsError(
                f"weights {where}: {name}: expected shape {tuple(target.shape)}, found {tuple(state[name].shape)}; "
                "give weights of this network's configuration"
            )
    module.load_state_dict(dict(state))


def _count(names: list[str], kind: str) -> str:
    if not names:
        return f"0 {kind}"
    shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
    return f"{len(names)} {kind} ({shown})"


def _hint(state: Mapping[str, Tensor]) -> str:
    for part, family in FAMILIES:
        if any(name.startswith(part) for name in state):
            return f"; this looks like {family}"
    return ""
