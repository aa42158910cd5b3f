"""Textures for generated clips: some programs of very different kinds, random in colour, scale and contrast.

Many kinds beat one good kind: what a network must not learn is that objects look like *this*. The same textures
serve backgrounds, objects, clutter and occluders, so none of them is told by its texture alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["PROGRAMS", "draw_texture", "palette", "recolour", "value_noise"]

Image = NDArray[Any]  # uint8 (height, width, 3) RGB, or (height, width)
Plane = NDArray[Any]  # float32 (height, width) or (height, width, 3)
Rng = np.random.Generator

SPREADS = (0.08, 0.25, 0.6)  # of a palette's colours around their anchor: plain, mixed, gaudy


def palette(rng: Rng, num_colours: int) -> Plane:
    """Return colours (num_colours, 3) in [0, 255] around one or two anchors, as materials have them."""
    anchors = np.stack([_anchor(rng) for _ in range(int(rng.integers(1, 3)))])
    spread = float(rng.choice(SPREADS))
    shade = rng.uniform(-1, 1, (num_colours, 1)) + 0.5 * rng.uniform(-1, 1, (num_colours, 3))
    colours = anchors[rng.integers(0, len(anchors), num_colours)] + spread * 0.6 * shade
    return (np.clip(colours, 0.02, 0.98) * 255).astype(np.float32)


def _anchor(rng: Rng) -> Plane:
    saturation = rng.beta(1.5, 3)  # most materials are dull: earth, plants, sky and skin
    hue = (
        rng.normal(*((32, 18), (105, 30), (212, 20))[int(rng.integers(3))])
        if rng.uniform() < 0.6
        else rng.uniform(0, 360)
    )
    hsv = np.array([[[hue % 360, saturation, rng.uniform(0.12, 0.95)]]], np.float32)
    rgb: Plane = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    return rgb


def value_noise(rng: Rng, height: int, width: int, cell: float, octaves: int = 4, gain: float = 0.5) -> Plane:
    """Return smooth noise (height, width), mean 0, about ±1: grids of random numbers, enlarged and added.

    Args:
        rng: randomness.
        height: pixels.
        width: pixels.
        cell: size of the coarsest grid's cells in pixels.
        octaves: grids, each twice as fine as the one before.
        gain: amplitude of a grid relative to the coarser one; 0.5 is near the 1/f spectrum of natural images.
    """
    total = np.zeros((height, width), np.float32)
    weight = 0.0
    for octave in range(octaves):
        size = cell / 2**octave
        if size < 1:
            break
        grid = rng.uniform(-1.6, 1.6, (int(height / size) + 3, int(width / size) + 3)).astype(np.float32)
        matrix = np.array([[1 / size, 0, rng.uniform(0.5, 1)], [0, 1 / size, rng.uniform(0.5, 1)]], np.float32)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        layer = cv2.warpAffine(grid, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
        total += gain**octave * layer
        weight += gain ** (2 * octave)
    scaled: Plane = total / np.float32(max(weight, 1e-6) ** 0.5)
    return scaled


def _to_colours(plane: Plane, colours: Plane) -> Plane:
    """Map values in [0, 1] onto a run of colours."""
    steps = np.linspace(0, len(colours) - 1, 256)
    low = np.minimum(steps.astype(int), len(colours) - 2)
    part = (steps - low)[:, None].astype(np.float32)
    table = colours[low] * (1 - part) + colours[low + 1] * part
    coloured: Plane = table[np.clip(plane * 255, 0, 255).astype(np.uint8)]
    return coloured


def _fractal(rng: Rng, height: int, width: int) -> Plane:
    """Colour noise with an amplitude spectrum of 1/f^alpha."""
    alpha = rng.uniform(0.7, 1.6)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    falloff = (frequency**-alpha).astype(np.float32)
    falloff[0, 0] = 0
    planes = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.standard_normal((height, width), np.float32)) * falloff
        plane = np.fft.irfft2(spectrum, (height, width)).astype(np.float32)
        planes.append(plane / max(float(plane.std()), 1e-6))
    mix = rng.normal(0, 0.35, (3, 3)) + rng.uniform(0.2, 1)  # the common term keeps hues together, as light does
    contrast = rng.uniform(15, 55)
    image: Plane = palette(rng, 1)[0] + contrast * (np.stack(planes, axis=2) @ mix.T.astype(np.float32)) / 1.7
    return image


def _dead_leaves(rng: Rng, height: int, width: int) -> Plane:
    """Discs, ellipses and polygons that hide each other; radii fall with the third power (Lee, Mumford, Huang)."""
    colours = palette(rng, int(rng.integers(3, 9)))
    image = np.empty((height, width, 3), np.float32)
    image[:] = colours[0]
    largest = 0.35 * min(height, width)
    smallest = largest * rng.uniform(0.06, 0.2)
    kind = int(rng.integers(0, 4))
    for _ in range(int(rng.integers(60, 260))):
        u = rng.uniform()
        radius = float((smallest**-2 + u * (largest**-2 - smallest**-2)) ** -0.5)  # density ~ radius^-3
        centre = rng.uniform(0, (width, height))
        colour = tuple((colours[rng.integers(len(colours))] + rng.normal(0, 6)).tolist())
        if kind == 0 or (kind == 3 and u < 0.4):
            cv2.circle(image, centre.astype(int).tolist(), int(radius) + 1, colour, -1)
        elif kind == 1:
            axes = (int(radius) + 1, int(radius * rng.uniform(0.25, 1)) + 1)
            cv2.ellipse(image, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, colour, -1)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
            corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cv2.fillPoly(image, [corners.astype(np.int32)], colour)
    return image


def _stripes(rng: Rng, height: int, width: int) -> Plane:
    """Stripes or checks, bent by noise."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    period = float(np.exp(rng.uniform(np.log(5), np.log(0.35 * min(height, width)))))
    bend = value_noise(rng, height, width, rng.uniform(0.3, 0.9) * min(height, width), 3) * rng.uniform(0, 1.5)
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.sin(2 * np.pi * along / period + bend * 3)
    if rng.uniform() < 0.4:
        wave *= np.sin(2 * np.pi * across / (period * rng.uniform(0.5, 2)) + bend * 3)
    sharpness = float(np.exp(rng.uniform(0, 2.5)))
    colours = palette(rng, int(rng.integers(2, 4)))
    colours = np.concatenate([colours, colours[:1]]) if len(colours) < 2 else colours
    return _to_colours(0.5 + 0.5 * np.tanh(sharpness * wave), colours)


def _gradient(rng: Rng, height: int, width: int) -> Plane:
    """A few colours that run into each other: sky, paint, skin."""
    cells = rng.integers(2, 5, 2)
    grid = palette(rng, int(cells.prod())).reshape(*cells, 3)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _foliage(rng: Rng, height: int, width: int) -> Plane:
    """Layers of thresholded noise: leaves, camouflage, stone."""
    colours = palette(rng, int(rng.integers(3, 7)))
    image = np.empty((height, width, 3), np.float32)
    image[:] = colours[0]
    cell = float(np.exp(rng.uniform(np.log(8), np.log(0.5 * min(height, width)))))
    for colour in colours[1:]:
        noise = value_noise(rng, height, width, max(cell, 4), 4, rng.uniform(0.4, 0.8))
        image[noise > rng.uniform(-0.2, 0.9)] = colour
        cell *= rng.uniform(0.5, 1.1)
    return image


def _cells(rng: Rng, height: int, width: int) -> Plane:
    """Voronoi cells with or without joints: scales, paving, cracked earth."""
    seeds = np.full((height, width), 255, np.uint8)
    num_cells = int(rng.integers(30, 300))
    seeds[rng.integers(0, height, num_cells), rng.integers(0, width, num_cells)] = 0
    distance, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = palette(rng, int(rng.integers(2, 6)))
    of_cell = colours[rng.integers(0, len(colours), num_cells + 1)] + rng.normal(0, 6, (num_cells + 1, 1))
    image = of_cell.astype(np.float32)[labels]
    relief = distance / max(float(distance.max()), 1) * rng.uniform(-90, 90)
    lit: Plane = image + relief[..., None]
    return lit


def _bricks(rng: Rng, height: int, width: int) -> Plane:
    """Rows of shifted bricks or boards with joints."""
    colours = palette(rng, 4)
    image = np.empty((height, width, 3), np.float32)
    image[:] = colours[0]
    rows = int(rng.integers(8, 40))
    length = int(rows * rng.uniform(1, 5))
    joint = int(rng.integers(0, 3))
    for row, top in enumerate(range(0, height, rows)):
        for left in range(-length * (row % 2) // 2, width, length):
            colour = colours[rng.integers(1, 4)] + rng.normal(0, 10)
            image[top : top + rows - joint, max(0, left) : max(0, left + length - joint)] = colour
    return image


def _strokes(rng: Rng, height: int, width: int) -> Plane:
    """Many short lines in about one direction: hair, grass, brushed metal."""
    colours = palette(rng, int(rng.integers(3, 7)))
    image = np.empty((height, width, 3), np.float32)
    image[:] = colours[0]
    direction, spread = rng.uniform(0, np.pi), rng.uniform(0.05, 0.6)
    length = rng.uniform(0.05, 0.3) * min(height, width)
    num_strokes = int(rng.integers(300, 900))
    angles = direction + rng.normal(0, spread, num_strokes)
    starts = rng.uniform(0, (width, height), (num_strokes, 2))
    ends = starts + length * np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.3, 1, (num_strokes, 1))
    tones = colours[rng.integers(0, len(colours), num_strokes)] + rng.normal(0, 12, (num_strokes, 1))
    thickness = int(rng.integers(1, 4))
    for start, end, tone in zip(starts.astype(int).tolist(), ends.astype(int).tolist(), tones.tolist(), strict=True):
        cv2.line(image, start, end, tone, thickness)
    return image


PROGRAMS: dict[str, tuple[Callable[[Rng, int, int], Plane], float]] = {
    "fractal": (_fractal, 0.25),
    "dead_leaves": (_dead_leaves, 0.25),
    "stripes": (_stripes, 0.13),
    "gradient": (_gradient, 0.10),
    "foliage": (_foliage, 0.15),
    "cells": (_cells, 0.04),
    "bricks": (_bricks, 0.03),
    "strokes": (_strokes, 0.05),
}
"""Each program by name, with its share."""


def draw_texture(rng: Rng, height: int, width: int, programs: tuple[str, ...] = tuple(PROGRAMS)) -> Image:
    """Draw one texture by a program chosen at random.

    Args:
        rng: randomness.
        height: pixels, at least 16.
        width: pixels, at least 16.
        programs: names from `PROGRAMS` to choose from, by their shares.

    Returns:
        RGB uint8 (height, width, 3).
    """
    shares = np.array([PROGRAMS[name][1] for name in programs])
    program = PROGRAMS[programs[int(rng.choice(len(programs), p=shares / shares.sum()))]][0]
    image = program(rng, height, width)
    # Clean areas do not exist in photographs; without this, the smooth programs would be told by their lack of grain.
    grain = rng.standard_normal((height, width), np.float32) * np.float32(rng.uniform(1, 7))
    grainy: Image = np.clip(image + grain[..., None], 0, 255).astype(np.uint8)
    return grainy


def recolour(rng: Rng, image: Image, strength: float = 1.0) -> Image:
    """Return the texture with another brightness, contrast, tint and saturation."""
    saturation = 1 + strength * rng.uniform(-0.6, 0.4)
    contrast = 1 + strength * rng.uniform(-0.4, 0.5)
    matrix = contrast * (saturation * np.eye(3) + (1 - saturation) / 3)
    mean = np.array(cv2.mean(image)[:3])
    shift = strength * (rng.normal(0, 28) + rng.normal(0, 14, 3))
    offset = mean * (1 - contrast) + shift
    return cv2.transform(image, np.concatenate([matrix, offset[:, None]], axis=1))
