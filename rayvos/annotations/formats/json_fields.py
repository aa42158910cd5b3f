"""Reading JSON that somebody else wrote: every missing or wrong field becomes an error with its file and place."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar, overload

from rayvos import storage
from rayvos.errors import FormatError

__all__ = ["JsonObject", "holds_key", "json_keys", "load_json", "number_list", "take", "take_optional"]

JsonObject = dict[str, Any]

HEAD_BYTES = 1 << 20  # every list of the formats starts within it, but for files whose first list is longer

_KEY = re.compile(rb'"([A-Za-z_0-9]{1,40})"\s*:')
_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "a flag"}

T = TypeVar("T")
U = TypeVar("U")


def load_json(path: str) -> JsonObject:
    """Read a JSON file that holds one object.

    Raises:
        FormatError: it is empty, no JSON, or another kind of value.
        StorageError: and its children, naming the path.
    """
    data = storage.read_bytes(path)
    if not data.strip():
        raise FormatError(f"{path}: expected JSON, found an empty file; copy it again")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}; is the file complete?") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path}: expected a JSON object, found {_kind(found)}")
    return found


def json_keys(path: str) -> set[str]:
    """Return the keys that occur, at any depth, in the first megabyte of a `.json` file; nothing for other files.

    Raises:
        StorageError: the file is there and cannot be read.
    """
    if not path.lower().endswith(".json") or not storage.exists(path):
        return set()
    with storage.naming(path), storage.open_input(path) as file:
        return {key.decode() for key in _KEY.findall(file.read(HEAD_BYTES))}


def holds_key(path: str | None, key: str) -> bool:
    """Tell whether a file, of JSON or of a record a line, names a key early on; False where there is none.

    Raises:
        StorageError: the file is there and cannot be read.
    """
    if path is None or not storage.exists(path):
        return False
    with storage.naming(path), storage.open_input(path) as file:
        return f'"{key}"'.encode() in file.read(HEAD_BYTES)


@overload
def take(record: Any, name: str, kind: type[T], where: str) -> T: ...
@overload
def take(record: Any, name: str, kind: tuple[type[T], type[U]], where: str) -> T | U: ...
def take(record: Any, name: str, kind: Any, where: str) -> Any:
    """Return a field of a JSON object.

    Args:
        record: what should be the object.
        name: of the field.
        kind: its type, or the two it may have; a whole number is accepted as float, a flag is no number.
        where: file and place, for the message.

    Raises:
        FormatError: `record` is no object, lacks the field, or the field is of another type or not finite.
    """
    if not isinstance(record, dict):
        raise FormatError(f"{where}: expected an object, found {_kind(record)}")
    if name not in record:
        raise FormatError(f"{where}: no field {name!r}; found {', '.join(sorted(record)[:12]) or 'no fields'}")
    return _checked(record[name], kind, f"{where}: {name}")


@overload
def take_optional(record: Any, name: str, kind: type[T], where: str) -> T | None: ...
@overload
def take_optional(record: Any, name: str, kind: tuple[type[T], type[U]], where: str) -> T | U | None: ...
def take_optional(record: Any, name: str, kind: Any, where: str) -> Any:
    """Return a field of a JSON object as `take` does; None where it is missing or null.

    Raises:
        FormatError: `record` is no object, or the field is of another type.
    """
    if isinstance(record, dict) and record.get(name) is None:
        return None
    return take(record, name, kind, where)


def _checked(value: Any, kind: Any, where: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if int not in kinds else value
    fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        wanted = " or ".join(_NAMES.get(known, known.__name__) for known in kinds)
        raise FormatError(f"{where}: expected {wanted}, found {_kind(value)}")
    return value


def number_list(values: Any, length: int, where: str) -> list[float]:
    """Return a list of `length` finite numbers.

    Raises:
        FormatError: it is none.
    """
    if not isinstance(values, list) or len(values) != length:
        raise FormatError(f"{where}: expected {length} numbers, found {values!r:.60}")
    if not all(isinstance(value, int | float) and abs(value) < 1e9 for value in values):  # false for NaN, too
        raise FormatError(f"{where}: expected {length} finite numbers, found {values!r:.60}")
    return [float(value) for value in values]


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return f"{_NAMES.get(type(value), type(value).__name__)} {value!r:.40}"
