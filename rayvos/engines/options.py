"""Options as a command line writes them, `key=value`, and the types that their places state."""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from rayvos.errors import UsageError, choose

__all__ = ["alternatives", "convert_option", "fill_options", "parse_options"]

T = TypeVar("T")


def parse_options(words: Iterable[str], *, kind: str = "engine option") -> dict[str, str]:
    """Return the options of `key=value` words; dashes in keys are underscores.

    Raises:
        UsageError: a word is not of that form, or a key is there twice.
    """
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UsageError(f"{kind} {word!r}: expected key=value")
        if key in options:
            raise UsageError(f"{kind} {key!r} is there twice")
        options[key] = value
    return options


def fill_options(config_class: type[T], given: Mapping[str, Any], *, kind: str) -> T:
    """Return a frozen dataclass of options from what was given.

    Args:
        config_class: its fields are the options.
        given: values by name, typed or as text.
        kind: what they are options of, for messages: `option of task 'sta'`.

    Raises:
        UsageError: an option is unknown, or a value is not possible.
    """
    kinds = typing.get_type_hints(config_class)
    known = {choose(f"{kind}:", key, kinds): value for key, value in given.items()}
    return config_class(**{key: convert_option(value, kinds[key], f"{kind}: {key!r}") for key, value in known.items()})


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the kind itself."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return typing.get_args(kind)
    return (kind,)


def convert_option(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`; text is read, anything else stays as it is.

    Args:
        value: what was given.
        kind: the type that its place states.
        where: the place, for the message.

    Raises:
        UsageError: the text is no value of that type.
    """
    if not isinstance(value, str):
        return value
    choices = alternatives(kind)
    if type(None) in choices and value.lower() in ("none", "null"):
        return None
    for alternative in choices:
        try:
            return _read(value, alternative)
        except ValueError:
            continue
    names = " or ".join(_say(alternative) for alternative in choices)
    raise UsageError(f"{where}: expected {names}, found {value!r}")


def _read(text: str, kind: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        for choice in typing.get_args(kind):
            if text == str(choice):
                return choice
        raise ValueError(text)
    if kind is bool:
        choices = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in choices:
            raise ValueError(text)
        return choices[text.lower()]
    if kind in (int, float):
        return kind(text)
    if kind is Any or kind is inspect.Parameter.empty:
        try:
            return json.loads(text)
        except ValueError:
            return text
    if kind is str:
        return text
    found = json.loads(text)  # lists and the like; a JSONDecodeError is a ValueError
    return tuple(found) if typing.get_origin(kind) is tuple and isinstance(found, list) else found


def _say(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    return {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}.get(kind, str(kind))
