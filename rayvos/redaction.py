"""Takes secrets out of text before anybody reads it: error messages, dead letters, `run.json`, logs.

Found are: what stands before the `@` of a URL, signatures and keys in its query, values of `name=value` and
`name: value` whose name says secret, bearer tokens, access key ids, and the values that this process's own
environment holds under such names, wherever they stand.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar

__all__ = ["without_secrets"]

T = TypeVar("T")

HIDDEN = "***"
SHORTEST = 8  # characters of an environment value that is looked for: shorter ones are words of other texts, too
_NAMES = r"sig|token|secret|key|password|passwd|credential"
_URL_SECRETS = re.compile(
    r"(?<=://)[^/@\s]*@"  # user name and password
    rf"|(?<=[?&])[^=&\s]*(?:{_NAMES})[^=&\s]*=[^&\s]*",  # signed URLs
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"(?<![\w.-])([\w.-]{0,60}(?:token|secret|password|passwd|access_?key|api_?key|account_?key|authorization)[\w.-]{0,60}"
    r"[\"']?\s*[=:]\s*[\"']?(?:bearer\s+|basic\s+)?)(?!None\b|null\b|\*)[^\s\"',;&)}\]]{4,}",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")
_SECRET_VARIABLE = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|API_KEY|ACCOUNT_KEY|CONNECTION_STRING")


def without_secrets(value: T) -> T:
    """Return a text, or a structure of mappings, lists and texts, without the secrets in its texts."""
    return _clean(value)  # type: ignore[no-any-return]


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


def _clean_text(text: str) -> str:
    for name, secret in os.environ.items():
        if len(secret) >= SHORTEST and secret in text and _SECRET_VARIABLE.search(name) and not _is_path(secret):
            text = text.replace(secret, HIDDEN)
    text = _URL_SECRETS.sub("", text)
    text = _BEARER.sub(rf"\1{HIDDEN}", text)
    text = _PAIR.sub(rf"\1{HIDDEN}", text)
    return _KEY_ID.sub(HIDDEN, text)


def _is_path(text: str) -> bool:
    """Tell whether a value names a file that holds the secret (RAY_AUTH_TOKEN_PATH), not the secret."""
    return text.startswith(("/", "~", "."))
