"""The rooms of the package and who may import whom, read from the code without running it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rayvos"
ORDER = [
    "masks", "annotations", "video", "models", "engines", "evaluation",
    "training", "tuning", "pipelines", "review", "cli",
]  # fmt: skip
# Below every room: names of failures, files by path or URL, and what protects both.
SHARED = {"errors", "storage", "redaction", "retries", "url_policy"}
RAY_ROOMS = {"training", "tuning", "pipelines"}
NO_TORCH = {"masks", "annotations", "video"}
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def imports_of(path: Path) -> set[str]:
    """Return the dotted names a file imports anywhere, lazily or not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def has_import(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports_of(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_itself_and_rooms_above_it(path):
    room = room_of(path)
    below = {name.split(".")[1] for name in imports_of(path) if name.startswith("rayvos.")} - SHARED - {room}
    if room in SHARED:
        assert below == set()
    elif room != "__init__":
        assert room in ORDER, f"{room} is no room of the design"
        assert {other for other in below if other not in ORDER[: ORDER.index(room)]} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ray_and_torch_and_pycocotools_stay_in_their_rooms(path):
    room = room_of(path)
    if room not in RAY_ROOMS | {"cli"}:
        assert not has_import(path, "ray")
    if room in NO_TORCH:
        assert not has_import(path, "torch")
        assert not has_import(path, "torchvision")
    if path.relative_to(PACKAGE).as_posix() != "masks/rle.py":
        assert not has_import(path, "pycocotools")


def test_no_two_files_import_each_other_in_a_circle():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {name: {other for other in imports_of(path) if other in modules} - {name} for name, path in modules.items()}
    state: dict[str, int] = {}

    def visit(name: str, trail: list[str]) -> None:
        state[name] = 1
        for other in sorted(graph[name]):
            assert state.get(other) != 1, f"circle: {' -> '.join([*trail, name, other])}"
            if other not in state:
                visit(other, [*trail, name])
        state[name] = 2

    for name in sorted(graph):
        if name not in state:
            visit(name, [])


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_rooms_front_door_is_its_docstring(path):
    body = ast.parse(path.read_text()).body
    assert ast.get_docstring(ast.parse(path.read_text()))
    if path != PACKAGE / "__init__.py":
        assert len(body) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_drawer_for_leftovers(path):
    assert path.stem not in {"utils", "helpers", "misc", "common"}
