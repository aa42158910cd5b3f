"""rayvos: cheap video annotations in, per-object training masks out, on Ray.

The names below are the public API; each loads its module when first used, so `import rayvos` is instant.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Clip", "label_clip", "load_engine", "read_labels"]

_PLACES = {
    "Clip": "rayvos.annotations.records",
    "label_clip": "rayvos.engines.labeling",
    "load_engine": "rayvos.engines.registry",
    "read_labels": "rayvos.annotations.run_folder",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    if name not in _PLACES:
        raise AttributeError(f"module 'rayvos' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
