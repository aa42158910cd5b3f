"""Reads the authors' STA checkpoints, which hold objects of foreign classes beside the tensors, without their code.

Such a file is a pickle of a dict: `net` (the state dict), and a constructor, settings and statistics of classes of
`ltr` and `pytracking`. Here every name of those packages stands for one class that does nothing; tensors and plain
containers are read; any other name is refused, so nothing in the file can choose what is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor, _rebuild_tensor_v2

from rayvos import storage
from rayvos.errors import MissingPathError, WeightsError
from rayvos.models.registry import load_model, packaged_weights
from rayvos.models.sta import STA
from rayvos.models.weights import load_state, read_checkpoint, weights_digest

__all__ = ["load_sta", "read_foreign_state"]

FOREIGN_PACKAGES = ("ltr", "pytracking")
ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
}
# What damaged or foreign bytes make torch and pickle raise.
READ_ERRORS = (
    RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError, zipfile.BadZipFile,
)  # fmt: skip


class _Inert:
    """Stands for every foreign class: takes any argument and any state, and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Ignore a list's item."""

    def extend(self, _: Any) -> None:
        """Ignore a list's items."""


class _Unpickler(pickle.Unpickler):
    """Knows tensors, plain containers and `_Inert`; the storages' names are torch's own affair."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] in FOREIGN_PACKAGES:
            return _Inert
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}")


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def read_foreign_state(path: str) -> dict[str, Tensor]:
    """Return the tensors under `net` of one of the authors' checkpoints.

    Args:
        path: local path or fsspec URL.

    Raises:
        WeightsError: nothing is there, the file is damaged, or names something else than tensors, plain containers
            and classes of `ltr` and `pytracking`.
        StorageError: storage does not answer, or refuses.
    """
    try:
        data = storage.read_bytes(path)
    except MissingPathError as error:
        raise WeightsError(f"weights {path}: expected a file, found nothing; check the path or URL") from error
    if _is_torchscript(data):  # torch.load would hand it to TorchScript, which runs what it holds
        raise WeightsError(f"weights {path}: expected a checkpoint of tensors, found a TorchScript program")
    reader = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="pickle")
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", pickle_module=reader, weights_only=False)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights {path}: expected tensors and objects of {' and '.join(FOREIGN_PACKAGES)}, found {error}; "
            "nothing of it was run; save the state dict alone where you trust the file"
        ) from error
    except READ_ERRORS as error:
        raise WeightsError(f"weights {path}: expected a checkpoint, found damaged bytes; copy it again") from error
    state = loaded.get("net") if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"weights {path}: expected tensors by name under 'net', found none; is it an STA checkpoint?"
        )
    return {str(name): tensor.detach() for name, tensor in state.items()}


def _is_torchscript(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # not a zip at all: torch's older format
        return False


def load_sta(path_or_name: str) -> tuple[STA, str]:
    """Return the network of a weights file, on the CPU, and the digest of its tensors.

    Args:
        path_or_name: a rayvos weights file (`*.safetensors`; a path, fsspec URL or packaged name); any other ending:
            the authors' checkpoint, or a checkpoint that holds the state dict and nothing else.

    Raises:
        WeightsError: the file is missing, damaged, of another network, or asks for code to be run.
        StorageError: storage does not answer, or refuses.
    """
    if path_or_name.endswith(".safetensors") or path_or_name in packaged_weights():
        loaded, info = load_model(path_or_name, architecture="sta")
        return cast(STA, loaded), info.digest
    try:
        state = read_checkpoint(path_or_name)  # knows more kinds of plain checkpoints
    except WeightsError:
        state = read_foreign_state(path_or_name)
    network = STA()
    load_state(network, state, where=path_or_name)
    return network, weights_digest(network.state_dict(), "sta", {})
