"""What a weights file says of its network, checked before the network is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rayvos.errors import WeightsError

__all__ = ["known_fields"]


def known_fields(configuration: Mapping[str, Any], model: type, name: str) -> dict[str, Any]:
    """Return the configuration as keywords of a model's dataclass.

    Args:
        configuration: as a weights file stores it.
        model: the dataclass.
        name: of the network, for the message.

    Raises:
        WeightsError: it has a field that this version does not know.
    """
    unknown = sorted(set(configuration) - {known.name for known in fields(model)})
    if unknown:
        raise WeightsError(
            f"{name} configuration: unknown {', '.join(unknown)}; written by a newer rayvos? upgrade rayvos"
        )
    return dict(configuration)
