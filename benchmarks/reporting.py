"""What every benchmark prints last, and its JSON file."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

__all__ = ["arguments", "finish"]


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark takes: --quick and --json FILE."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small version: shows that it works, proves nothing")
    parser.add_argument("--json", metavar="FILE", help="write the numbers as JSON, too")
    return parser


def finish(options: argparse.Namespace, ratios: dict[str, float], numbers: dict[str, Any]) -> None:
    """Print the ratios, one `RATIO <name> <value>` a line, and write the JSON file if one was asked for."""
    if options.json:
        found = {"quick": options.quick, "machine": platform.machine(), "ratios": ratios, **numbers}
        Path(options.json).write_text(json.dumps(found, indent=2, default=str) + "\n")
    for name, value in ratios.items():
        print(f"RATIO {name} {value:.4g}")
