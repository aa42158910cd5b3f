"""The small json files beside a benchmark's masks: YouTube-VOS' `meta.json` and the list of its seen categories."""

from __future__ import annotations

from typing import Any

from rayvos.errors import FormatError
from rayvos.evaluation.json_source import read_json

__all__ = ["read_meta", "read_seen"]


def read_meta(path: str) -> dict[str, dict[int, tuple[str, str]]]:
    """Return category and first frame of each object, by clip and object id, as `meta.json` lists them.

    Raises:
        FormatError: the file is no meta.json, or an object lacks its category or frames.
    """
    found = read_json(path)
    objects: dict[str, dict[int, tuple[str, str]]] = {}
    try:
        for clip_id, clip in found["videos"].items():
            objects[clip_id] = {
                int(object_id): (known["category"], min(known["frames"]))
                for object_id, known in clip["objects"].items()
            }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path}: expected {{'videos': {{clip: {{'objects': {{id: {{'category', 'frames'}}}}}}}}}}, failed at "
            f"{error!r}; pass the meta.json of YouTube-VOS"
        ) from error
    return objects


def read_seen(path: str) -> frozenset[str]:
    """Return the categories that count as seen.

    Args:
        path: a json list of names, an object with the list `seen`, or the training set's `meta.json`, of which all
            categories are taken.

    Raises:
        FormatError: the file is neither.
    """
    found: Any = read_json(path)
    if isinstance(found, dict) and "videos" in found:
        return frozenset(category for objects in read_meta(path).values() for category, _ in objects.values())
    names = found.get("seen") if isinstance(found, dict) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(
            f"{path}: expected a list of category names, {{'seen': [...]}}, or the training set's meta.json"
        )
    return frozenset(names)
