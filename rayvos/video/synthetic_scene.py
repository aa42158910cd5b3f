"""Generated scenes: a background and layers before it, and how a frame of them is painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.video.synthetic_motion import Path
from rayvos.video.synthetic_shapes import Shape

__all__ = ["Layer", "Scene", "Skin", "paint_frame", "paint_labels", "paint_layer"]

Image = NDArray[Any]  # uint8 (height, width, 3) RGB, or (height, width)

SUBPIXEL = 4  # bits of the corners' fixed-point coordinates


@dataclass(frozen=True, slots=True, eq=False)
class Skin:
    """The texture of a part: which pixels of which picture."""

    texture: Image
    to_texture: NDArray[np.float64]
    """(2, 3) from the object's coordinates to the texture's pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One thing in the scene."""

    object_id: int
    """0: clutter or an occluder, part of no mask."""
    shape: Shape
    skins: tuple[Skin, ...]
    """One per part of the shape."""
    size_px: float
    path: Path
    edge_px: float
    """Sigma of its edge."""
    light: NDArray[Any]
    """(2, 2) brightness at the corners of its box."""
    gain: NDArray[np.float64]
    """(frames,) brightness over time."""
    shadow: tuple[float, float, float] | None
    """Offset (x, y) relative to its size, and strength of its cast shadow, which is part of no mask."""

    def polygons(self, time: float) -> list[NDArray[np.float64]]:
        """Return the corners of all parts in pixels of the frame."""
        matrix = self.placed(time)
        return [polygon @ matrix[:, :2].T + matrix[:, 2] for polygon in self.shape.polygons(time)]

    def placed(self, time: float) -> NDArray[np.float64]:
        """Return the matrix (2, 3) from the object's coordinates to pixels."""
        centre, scale, angle = self.path.at(time)
        cos, sin = np.cos(angle) * scale * self.size_px, np.sin(angle) * scale * self.size_px
        return np.array([[cos, -sin, centre[0]], [sin, cos, centre[1]]])


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """All that a clip shows."""

    background: Image
    """Larger than the frame, which is in its middle at time 0."""
    camera: NDArray[np.float64]
    """(frames, 3, 3) from the frame at time 0 to the frame."""
    layers: tuple[Layer, ...]
    """Back to front."""
    height: int
    width: int


def _square(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.vstack([matrix, [0, 0, 1]])


def _bounds(polygons: list[NDArray[np.float64]], height: int, width: int, pad: int) -> tuple[int, int, int, int] | None:
    """Return (x0, y0, x1, y1) of the part of the frame that polygons touch, None where they lie outside."""
    points = np.concatenate(polygons)
    low, high = points.min(axis=0), points.max(axis=0)
    x0, y0 = max(0, int(low[0]) - pad), max(0, int(low[1]) - pad)
    x1, y1 = min(width, int(high[0]) + pad + 1), min(height, int(high[1]) + pad + 1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _fill(target: Image, polygon: NDArray[np.float64], x0: int, y0: int) -> None:
    # OpenCV counts from pixel centres, we from pixel edges.
    corners = np.rint((polygon - (x0 + 0.5, y0 + 0.5)) * (1 << SUBPIXEL)).astype(np.int32)
    cv2.fillPoly(target, [corners], 255, cv2.LINE_AA, SUBPIXEL)


def paint_layer(image: Image | None, layer: Layer, time: float, height: int, width: int) -> tuple[slice, slice, Image]:
    """Paint a layer into the image, and return where it is.

    Args:
        image: RGB uint8 (height, width, 3), changed in place; None paints nothing.
        layer: what to paint.
        time: in frames.
        height: of the frame.
        width: of the frame.

    Returns:
        Rows, columns, and the layer's cover 0…255 inside them; empty where it is outside the frame.
    """
    polygons = layer.polygons(time)
    bounds = _bounds(polygons, height, width, 3)
    if bounds is None:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0), np.uint8)
    x0, y0, x1, y1 = bounds
    if image is not None and layer.shadow is not None:
        _paint_shadow(image, layer, polygons, time)
    rows, columns = slice(y0, y1), slice(x0, x1)
    cover: Image = np.zeros((y1 - y0, x1 - x0), np.uint8)
    colours = None if image is None else image[rows, columns].copy()
    inverse = np.linalg.inv(_square(layer.placed(time)))
    for part, polygon, skin in zip(layer.shape.parts, polygons, layer.skins, strict=True):
        inner = _bounds([polygon], height, width, 2)
        if inner is None:
            continue
        u0, v0, u1, v1 = max(inner[0], x0), max(inner[1], y0), min(inner[2], x1), min(inner[3], y1)
        mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
        _fill(mask, polygon, u0, v0)
        place = (slice(v0 - y0, v1 - y0), slice(u0 - x0, u1 - x0))
        if part.hole:
            cover[place] = np.minimum(cover[place], 255 - mask)
            continue
        if part.inside:
            mask = np.minimum(mask, cover[place])
        cover[place] = np.maximum(cover[place], mask)
        if colours is not None:
            view = colours[place]
            view[...] = cv2.copyTo(_skin(skin, part.angle(time), part.pivot, inverse, u0, v0, u1, v1), mask, view)
    if layer.edge_px > 0.2:
        cover = cv2.GaussianBlur(cover, (0, 0), layer.edge_px)
    if image is not None and colours is not None:
        _blend(image[rows, columns], colours, cover, layer, time)
    return rows, columns, cover


def _skin(
    skin: Skin,
    angle: float,
    pivot: NDArray[np.float64],
    to_object: NDArray[Any],
    u0: int,
    v0: int,
    u1: int,
    v1: int,
) -> Image:
    """Return the texture as it lies under the pixels of a rectangle."""
    cos, sin = np.cos(angle), np.sin(angle)
    unturn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
    unturn[:2, 2] = pivot - unturn[:2, :2] @ pivot
    shift = np.array([[1, 0, u0 + 0.5], [0, 1, v0 + 0.5], [0, 0, 1]])
    matrix = skin.to_texture @ unturn @ to_object @ shift
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(skin.texture, matrix, (u1 - u0, v1 - v0), flags=flags, borderMode=cv2.BORDER_REFLECT)


def _blend(target: Image, colours: Image, cover: Image, layer: Layer, time: float) -> None:
    height, width = cover.shape
    gain = float(np.interp(time, np.arange(len(layer.gain)), layer.gain))
    light = cv2.resize(layer.light * gain, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.multiply(colours, cv2.merge([light] * 3), dtype=cv2.CV_8U)
    weight = cover.astype(np.float32) / 255
    target[...] = cv2.blendLinear(colours, target, weight, 1 - weight)


def _paint_shadow(image: Image, layer: Layer, polygons: list[NDArray[np.float64]], time: float) -> None:
    assert layer.shadow is not None
    dx, dy, strength = layer.shadow
    size = layer.size_px * layer.path.at(time)[1]
    bottom = max(float(polygon[:, 1].max()) for polygon in polygons)
    # A thing that stands throws its shadow along the ground: flattened towards its feet, and pushed aside.
    flat = [np.stack([p[:, 0] + dx * (bottom - p[:, 1]), bottom - dy * (bottom - p[:, 1])], axis=1) for p in polygons]
    bounds = _bounds(flat, image.shape[0], image.shape[1], int(0.06 * size) + 3)
    if bounds is None:
        return
    x0, y0, x1, y1 = bounds
    small: Image = np.zeros(((y1 - y0) // 4 + 1, (x1 - x0) // 4 + 1), np.uint8)
    for polygon in flat:
        cv2.fillPoly(small, [np.rint((polygon - (x0, y0)) * 4).astype(np.int32)], 255, cv2.LINE_AA, 4)
    small = cv2.GaussianBlur(small, (0, 0), max(0.6, 0.008 * size))
    light = cv2.resize(255 - small * np.float32(strength), (x1 - x0, y1 - y0)) / 255
    view = image[y0:y1, x0:x1]
    view[...] = cv2.multiply(view, cv2.merge([light.astype(np.float32)] * 3), dtype=cv2.CV_8U)


def paint_frame(scene: Scene, time: float) -> tuple[Image, Image]:
    """Paint the scene at a time in frames.

    Returns:
        RGB uint8 (height, width, 3) as light has it, without camera effects; and the object ids (height, width) that
        are seen at each pixel, uint8, 0: none.
    """
    low = int(np.clip(np.floor(time), 0, len(scene.camera) - 1))
    high = min(low + 1, len(scene.camera) - 1)
    homography = scene.camera[low] + (scene.camera[high] - scene.camera[low]) * np.clip(time - low, 0, 1)
    margin = (np.array(scene.background.shape[1::-1]) - (scene.width, scene.height)) / 2
    to_frame = homography @ np.array([[1, 0, -margin[0]], [0, 1, -margin[1]], [0, 0, 1]])
    size = (scene.width, scene.height)
    image: Image = cv2.warpPerspective(scene.background, to_frame, size, borderMode=cv2.BORDER_REFLECT)
    return image, _paint_layers(scene, image, time)[0]


def paint_labels(scene: Scene, time: float) -> tuple[Image, dict[int, int]]:
    """Return the object ids (height, width) that are seen at a time, and each object's area were nothing before it."""
    return _paint_layers(scene, None, time)


def _paint_layers(scene: Scene, image: Image | None, time: float) -> tuple[Image, dict[int, int]]:
    labels = np.zeros((scene.height, scene.width), np.uint8)
    areas = {}
    for layer in scene.layers:
        rows, columns, cover = paint_layer(image, layer, time, scene.height, scene.width)
        mask = cover > 127
        labels[rows, columns][mask] = layer.object_id
        if layer.object_id:
            areas[layer.object_id] = int(mask.sum())
    return labels, areas
