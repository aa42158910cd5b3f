"""Reading the JSON files that rayvos writes for itself, beside what it makes."""

from __future__ import annotations

import json
from typing import Any

from rayvos import storage
from rayvos.errors import FormatError

__all__ = ["read_own_json"]


def read_own_json(path: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object of a file.

    Args:
        path: path or URL.
        remedy: what to do where it is damaged: `remove it and run the job again`.

    Raises:
        FormatError: it is no JSON object.
        StorageError: and its children, naming the path.
    """
    try:
        found = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise FormatError(f"{path}: expected JSON: {error}; {remedy}") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path}: expected a JSON object, found {type(found).__name__}; {remedy}")
    return found
