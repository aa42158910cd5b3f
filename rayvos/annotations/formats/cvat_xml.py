"""The XML of "CVAT for video 1.1" as plain records, parsed as a stream: no tree, no entities.

`formats/cvat.py` says what the records mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import IO
from xml.parsers import expat

from rayvos import storage
from rayvos.errors import FormatError

__all__ = ["CvatTask", "CvatTrack", "DrawnMask", "Edges", "Shape", "parse_cvat"]

CHUNK_BYTES = 1 << 20
KEPT_SHAPES = {"box", "points", "polygon", "mask"}

Edges = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Shape:
    """One listed shape of a track; `value` holds edges (box), points (points, polygon) or the written mask."""

    kind: str
    frame: int
    outside: bool
    value: tuple[float, ...] | DrawnMask


@dataclass(frozen=True, slots=True)
class DrawnMask:
    """A mask as its rectangle and what is inside."""

    left: int
    top: int
    width: int
    height: int
    runs: tuple[int, ...]
    """Row-major run lengths inside the rectangle, zeros first."""


@dataclass(slots=True)
class CvatTrack:
    """The shapes of one object, in file order."""

    source_id: str
    label: str | None
    shapes: list[Shape] = field(default_factory=list)


@dataclass(slots=True)
class CvatTask:
    """One file: the texts of its meta part by element name (`original_width` …), and its tracks."""

    meta: dict[str, str] = field(default_factory=dict)
    tracks: list[CvatTrack] = field(default_factory=list)
    left_out: set[str] = field(default_factory=set)
    """What the file holds and records cannot: element names."""


def parse_cvat(path: str) -> CvatTask:
    """Read one XML file.

    Raises:
        FormatError: it is no CVAT video export, is not well-formed, declares an entity, or a shape is malformed.
        StorageError: it cannot be read.
    """
    reader = _Reader(path)
    with storage.open_input(path) as file:
        reader.read(file)
    if not reader.task.meta and not reader.task.tracks:
        raise FormatError(f"{path}: expected <meta> and <track> elements, found none; export as 'CVAT for video 1.1'")
    return reader.task


class _Reader:
    """Expat handlers that keep the meta texts and the shapes, never the tree; entities are refused."""

    def __init__(self, path: str) -> None:
        self.task = CvatTask()
        self._path = path
        self._open: list[str] = []
        self._text: list[str] = []
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text.append
        self._parser.EntityDeclHandler = self._refuse_entity

    def read(self, file: IO[bytes]) -> None:
        try:
            while chunk := file.read(CHUNK_BYTES):
                self._parser.Parse(chunk, False)
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise FormatError(f"{self._path}: not well-formed XML: {error}; export the task again") from error

    def _where(self) -> str:
        return f"{self._path} line {self._parser.CurrentLineNumber}"

    def _refuse_entity(self, name: str, *_: object) -> None:
        raise FormatError(f"{self._where()}: entity {name!r} declared; exports of CVAT have none, so it is not read")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._open.append(name)
        self._text.clear()
        if len(self._open) == 1 and name != "annotations":
            raise FormatError(
                f"{self._where()}: expected <annotations>, found <{name}>; export as 'CVAT for video 1.1'"
            )
        if len(self._open) == 2 and name == "image":
            raise FormatError(f"{self._where()}: this is 'CVAT for images'; export as 'CVAT for video 1.1'")
        if self._open == ["annotations", "track"]:
            source_id = attributes.get("id", str(len(self.task.tracks)))
            self.task.tracks.append(CvatTrack(source_id, attributes.get("label")))
        elif len(self._open) == 3 and self._open[1] == "track":
            self._shape(name, attributes)

    def _shape(self, kind: str, attributes: dict[str, str]) -> None:
        if kind not in KEPT_SHAPES:
            self.task.left_out.add(kind)
            return
        try:
            shape = Shape(
                kind, int(attributes["frame"]), attributes.get("outside", "0") == "1", _value(kind, attributes)
            )
        except (KeyError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise FormatError(f"{self._where()}: expected a <{kind}> with frame and position: {what}") from error
        if kind == "box" and float(attributes.get("rotation", 0) or 0) % 360:
            self.task.left_out.add("rotation of boxes (the upright box around is used)")
        self.task.tracks[-1].shapes.append(shape)

    def _end(self, name: str) -> None:
        text = "".join(self._text).strip()
        if self._open[1:2] == ["meta"] and "labels" not in self._open and text:
            key = name if self._open[-2] != "original_size" else f"original_{name}"
            if key == "original_width" and key in self.task.meta:
                raise FormatError(f"{self._where()}: more than one task; export each task on its own")
            self.task.meta.setdefault(key, text)
        self._text.clear()
        self._open.pop()


def _value(kind: str, attributes: dict[str, str]) -> tuple[float, ...] | DrawnMask:
    if kind == "box":
        edges = [float(attributes[name]) for name in ("xtl", "ytl", "xbr", "ybr")]
        if not all(map(math.isfinite, edges)):
            raise ValueError(f"box {edges} is not finite")
        return _upright((edges[0], edges[1], edges[2], edges[3]), float(attributes.get("rotation", 0) or 0))
    if kind == "mask":
        runs = tuple(int(run) for run in attributes["rle"].split(",") if run.strip())
        left, top, width, height = (int(float(attributes[name])) for name in ("left", "top", "width", "height"))
        if sum(runs) != width * height or min(runs, default=0) < 0:
            raise ValueError(f"mask runs cover {sum(runs)} pixels of {width}x{height}")
        return DrawnMask(left, top, width, height, runs)
    numbers = [float(number) for pair in attributes["points"].split(";") for number in pair.split(",")]
    if len(numbers) % 2 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"points {attributes['points'][:60]!r} are not pairs of numbers")
    return tuple(numbers)


def _upright(edges: Edges, rotation_degrees: float) -> Edges:
    """Return the upright box around a box turned about its centre."""
    if rotation_degrees % 360 == 0:
        return edges
    x0, y0, x1, y1 = edges
    cosine, sine = (abs(f(math.radians(rotation_degrees))) for f in (math.cos, math.sin))
    half_width = ((x1 - x0) * cosine + (y1 - y0) * sine) / 2
    half_height = ((x1 - x0) * sine + (y1 - y0) * cosine) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height
