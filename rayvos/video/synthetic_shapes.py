"""Shapes for generated clips: objects of several parts that bend and swing.

Lengths are relative to the object: its outline is about 1 across, its middle is the origin, y points down. An
object of one convex part would be learned as "fill an ellipse"; real objects fill about half of their box, and
legs, necks, wheels and gaps between them make it so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FAMILIES", "Limb", "Outline", "Part", "Shape", "draw_shape"]

Points = NDArray[np.float64]
Rng = np.random.Generator

LIMB_JOINTS = np.linspace(0, 1, 9)


@dataclass(frozen=True, slots=True, eq=False)
class Swing:
    """A periodic movement: `amplitude * sin(2 pi (time / period + phase))`."""

    amplitude: float
    period: float
    """Frames."""
    phase: float

    def at(self, time: float) -> float:
        """Return its value at a time in frames."""
        return float(self.amplitude * np.sin(2 * np.pi * (time / self.period + self.phase)))


STILL = Swing(0, 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A closed polygon that turns about a point of the object."""

    points: Points
    """(n, 2), in the object's coordinates."""
    pivot: Points
    turn: Swing = STILL
    spin: float = 0.0
    """Radians per frame, for wheels."""
    hole: bool = False
    """It is cut out of the object."""
    inside: bool = False
    """It shows only where earlier parts are: a patch on them."""

    def angle(self, time: float) -> float:
        """Return how far it is turned."""
        return self.turn.at(time) + self.spin * time

    def polygon(self, time: float) -> Points:
        """Return its corners (n, 2) at a time in frames."""
        angle = self.angle(time)
        cos, sin = np.cos(angle), np.sin(angle)
        turned: Points = (self.points - self.pivot) @ np.array([[cos, sin], [-sin, cos]]) + self.pivot
        return turned


@dataclass(frozen=True, slots=True, eq=False)
class Limb:
    """A thick line from a joint, that swings at the joint and bends along its length: leg, arm, tail, stem."""

    pivot: Points
    direction: float
    """Radians of its first piece: 0 to the right, pi/2 down."""
    length: float
    bend: float
    """Radians by which its end turns away from its start."""
    widths: Points
    """(9,) thickness along it."""
    turn: Swing = STILL
    flex: Swing = STILL
    """Added to `bend`."""
    hole: bool = False
    inside: bool = False

    def angle(self, time: float) -> float:
        """Return how far it is turned at its joint."""
        return self.turn.at(time)

    def polygon(self, time: float) -> Points:
        """Return its corners (18, 2) at a time in frames."""
        angles = self.direction + self.turn.at(time) + (self.bend + self.flex.at(time)) * LIMB_JOINTS
        steps = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        line = self.pivot + np.cumsum(steps, axis=0) * (self.length / len(LIMB_JOINTS))
        across = np.stack([-steps[:, 1], steps[:, 0]], axis=1) * self.widths[:, None] / 2
        return np.concatenate([line + across, (line - across)[::-1]])


Part = Outline | Limb


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """An object's parts, drawn in order, and how its outline wobbles."""

    family: str
    parts: tuple[Part, ...]
    wobble: tuple[Swing, Swing]
    """Bending of the whole object along x and along y, in parts of its size."""

    def polygons(self, time: float) -> list[Points]:
        """Return the corners of every part at a time in frames, in the object's coordinates."""
        bend_x, bend_y = (swing.at(time) for swing in self.wobble)
        polygons = []
        for part in self.parts:
            polygon = part.polygon(time)
            x, y = polygon[:, 0], polygon[:, 1]
            polygons.append(np.stack([x + bend_x * np.sin(3 * y + 1), y + bend_y * np.sin(3 * x + 2)], axis=1))
        return polygons


def _swing(rng: Rng, amplitude: float) -> Swing:
    return Swing(amplitude * rng.uniform(0.2, 1), float(np.exp(rng.uniform(np.log(6), np.log(40)))), rng.uniform())


def _blob(rng: Rng, size: Points, roughness: float = 0.25) -> Points:
    """Return a closed curve (n, 2) about the origin: a circle whose radius is disturbed by 2–8 harmonics."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.ones_like(angles)
    for harmonic in range(2, int(rng.integers(3, 9)) + 1):
        radius += roughness * rng.normal() / harmonic * np.cos(harmonic * angles + rng.uniform(0, 2 * np.pi))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.clip(radius, 0.25, 1.9)[:, None] * size / 2


def _polygon(rng: Rng, size: Points) -> Points:
    """Return a polygon (n, 2) about the origin, often with reflex corners."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 10))))
    radius = rng.uniform(0.35, 1.1, len(angles))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None] * size / 2


def _turned(points: Points, angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    rotated: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return rotated


def _limb(rng: Rng, pivot: Points, direction: float, length: float, width: float, bend: float = 0.8) -> Limb:
    widths = width * np.linspace(1, rng.uniform(0.3, 1.1), 9)
    if rng.uniform() < 0.3:
        widths[-2:] *= rng.uniform(1.2, 2)  # a foot, a hand, a blossom
    turn, flex = _swing(rng, 0.7), _swing(rng, 0.7)
    return Limb(pivot, direction, length, rng.normal(0, bend), widths, turn, flex)


def _walker(rng: Rng) -> list[Part]:
    """Body, legs, neck with head, perhaps a tail: animals and people."""
    upright = rng.uniform() < 0.4
    size = np.array([rng.uniform(0.22, 0.4), rng.uniform(0.35, 0.52)])
    size = size if upright else size[::-1]
    parts: list[Part] = []
    num_legs = 2 if upright else int(rng.integers(2, 5))
    thickness = rng.uniform(0.06, 0.16)
    for leg in range(num_legs):
        x = (leg / max(1, num_legs - 1) - 0.5) * size[0] * 0.75
        joint = np.array([x, size[1] * 0.32])
        parts.append(_limb(rng, joint, np.pi / 2 + rng.normal(0, 0.3), rng.uniform(0.3, 0.5), thickness, 0.4))
    body = _blob(rng, size, 0.2)
    parts.append(Outline(body, np.zeros(2), _swing(rng, 0.1)))
    side = rng.choice([-1, 1])
    joint = np.array([0.0 if upright else side * size[0] * 0.42, -size[1] * 0.38])
    towards = -np.pi / 2 + (0 if upright else side * rng.uniform(0.2, 0.9))
    reach = rng.uniform(0.05, 0.12) if upright else rng.uniform(0.08, 0.3)
    parts.append(_limb(rng, joint, towards, reach, rng.uniform(0.05, 0.11), 0.2))
    head = joint + (reach + 0.04) * np.array([np.cos(towards), np.sin(towards)])
    parts.append(Outline(_blob(rng, rng.uniform(0.1, 0.2, 2), 0.2) + head, joint, _swing(rng, 0.25)))
    if upright or rng.uniform() < 0.5:
        for end in (-1, 1) if upright else (-side,):
            joint = np.array([end * size[0] * 0.4, -size[1] * 0.3])
            away = np.pi / 2 - end * rng.uniform(0.2, 1.8)
            parts.append(_limb(rng, joint, away, rng.uniform(0.25, 0.45), thickness * rng.uniform(0.4, 0.9)))
    return parts


def _vehicle(rng: Rng) -> list[Part]:
    """Chassis, cabin, wheels."""
    length, height = rng.uniform(0.8, 1), rng.uniform(0.15, 0.3)
    box = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    chassis = (box + rng.normal(0, 0.05, (4, 2))) * (length, height)
    cabin = np.array([[-0.5, 0.5], [-0.3, -0.5], [0.25, -0.5], [0.5, 0.5]]) * (length * rng.uniform(0.3, 0.8), height)
    cabin += (rng.uniform(-0.15, 0.15) * length, -height * 0.9)
    wheel = rng.uniform(0.1, 0.24)
    parts: list[Part] = [Outline(cabin, np.zeros(2)), Outline(chassis, np.zeros(2), _swing(rng, 0.03))]
    if rng.uniform() < 0.7:
        parts.append(Outline(cabin * 0.7 + cabin.mean(0) * 0.3, np.zeros(2), inside=True))
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * wheel / 2
    spin = rng.uniform(-0.4, 0.4)
    for x in (-0.32, 0.32):
        centre = np.array([x * length, height * 0.55])
        parts.append(Outline(circle + centre, centre, spin=spin))
        if rng.uniform() < 0.6:
            parts.append(Outline(circle[::3] * 0.5 + centre, centre, spin=spin))
    return parts


def _plant(rng: Rng) -> list[Part]:
    """Thin bent stems with leaves or blossoms: few pixels in a large box."""
    parts: list[Part] = []
    for _ in range(int(rng.integers(3, 7))):
        stem = _limb(rng, np.array([rng.normal(0, 0.06), 0.45]), rng.normal(-np.pi / 2, 0.55), 0.85, 0.06, 0.7)
        parts.append(stem)
        tip = stem.polygon(0)[8]
        size = rng.uniform(0.12, 0.3, 2)
        parts.append(Outline(_turned(_blob(rng, size, 0.3), rng.uniform(0, 3)) + tip, stem.pivot, stem.turn))
    return parts


def _cluster(rng: Rng) -> list[Part]:
    """A union of blobs and polygons that touch."""
    parts: list[Part] = []
    centre = np.zeros(2)
    for _ in range(int(rng.integers(2, 6))):
        size = rng.uniform(0.15, 0.6, 2)
        points = _blob(rng, size) if rng.uniform() < 0.6 else _polygon(rng, size)
        parts.append(Outline(_turned(points, rng.uniform(0, 3)) + centre, centre, _swing(rng, 0.35)))
        step = rng.uniform(0, 2 * np.pi)
        centre = centre + 0.45 * size.mean() * np.array([np.cos(step), np.sin(step)]) * rng.uniform(0.8, 1.3)
    return parts


def _spider(rng: Rng) -> list[Part]:
    """A small body with long limbs to all sides."""
    size = rng.uniform(0.15, 0.4, 2)
    parts: list[Part] = []
    num_limbs = int(rng.integers(3, 8))
    for direction in np.linspace(0, 2 * np.pi, num_limbs, endpoint=False) + rng.uniform(0, 6):
        joint = 0.3 * size * np.array([np.cos(direction), np.sin(direction)])
        width = rng.uniform(0.04, 0.13)
        parts.append(_limb(rng, joint, direction + rng.normal(0, 0.3), rng.uniform(0.25, 0.5), width, 1.2))
    parts.append(Outline(_blob(rng, size), np.zeros(2), _swing(rng, 0.2)))
    return parts


def _single(rng: Rng) -> list[Part]:
    """One blob or polygon."""
    size = np.array([1.0, rng.uniform(0.35, 1)])
    points = _blob(rng, size, 0.45) if rng.uniform() < 0.6 else _polygon(rng, size * 1.1)
    return [Outline(points, np.zeros(2), _swing(rng, 0.1))]


FAMILIES: dict[str, tuple[Callable[[Rng], list[Part]], float]] = {
    "walker": (_walker, 0.31),
    "vehicle": (_vehicle, 0.14),
    "plant": (_plant, 0.05),
    "cluster": (_cluster, 0.20),
    "spider": (_spider, 0.09),
    "single": (_single, 0.21),
}
"""Each family by name, with its share."""


def draw_shape(rng: Rng, families: tuple[str, ...] = tuple(FAMILIES)) -> Shape:
    """Draw one shape; its family is the object's category.

    Args:
        rng: randomness.
        families: names from `FAMILIES` to choose from, by their shares.
    """
    shares = np.array([FAMILIES[name][1] for name in families])
    family = families[int(rng.choice(len(families), p=shares / shares.sum()))]
    parts = FAMILIES[family][0](rng)
    if rng.uniform() < 0.35:  # a patch of another texture on some part
        centre = parts[int(rng.integers(len(parts)))].polygon(0).mean(axis=0)
        patch = _blob(rng, rng.uniform(0.1, 0.35, 2)) + centre
        parts.append(Outline(patch, np.zeros(2), inside=True))
    if rng.uniform() < 0.08:
        centre = parts[int(rng.integers(len(parts)))].polygon(0).mean(axis=0)
        parts.append(Outline(_blob(rng, rng.uniform(0.08, 0.2, 2)) + centre, np.zeros(2), hole=True))
    if rng.uniform() < 0.5:
        parts = [_mirrored(part) for part in parts]
    return Shape(family, tuple(parts), (_swing(rng, 0.05), _swing(rng, 0.05)))


def _mirrored(part: Part) -> Part:
    """Return the part with left and right exchanged (its swing keeps its sense: nobody can tell)."""
    flip = np.array([-1.0, 1.0])
    if isinstance(part, Limb):
        return Limb(
            part.pivot * flip,
            np.pi - part.direction,
            part.length,
            -part.bend,
            part.widths,
            part.turn,
            part.flex,
            part.hole,
            part.inside,
        )
    return Outline(part.points * flip, part.pivot * flip, part.turn, part.spin, part.hole, part.inside)
