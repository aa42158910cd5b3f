"""What a generated scene consists of: background, clutter, objects and occluders, and how they move.

Clutter and occluders are drawn by the same programs as objects, with the same textures, edges and light: what makes
an object is only that it is asked for. Some textures are shared by all layers, so that colour alone separates an
object from its surroundings about as badly as in real videos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.video.synthetic_motion import Path, camera_path, object_path, shift_out
from rayvos.video.synthetic_scene import Layer, Scene, Skin, paint_labels, paint_layer
from rayvos.video.synthetic_shapes import STILL, Outline, Shape, draw_shape
from rayvos.video.synthetic_textures import draw_texture, recolour, value_noise

__all__ = ["draw_scene"]

Image = NDArray[Any]  # uint8 (height, width, 3) RGB, or (height, width)
Rng = np.random.Generator

TEXTURE_SIDE = 128
MOST_TEXTURES = 8  # drawn anew per clip: they take most of the time before the first frame
SHARES = (0.2, 0.5, 0.8, 0.9)  # how likely a part takes a texture that other layers have, too; drawn per clip
CAMOUFLAGE = (0.0, 0.4, 0.9)  # drawn per clip
CANVAS = 1.4  # size of the painted background relative to the frame
ATTEMPTS = 24  # at layouts in which every object is seen in the first frame
SMALLEST, LARGEST = 0.004, 0.45  # an object's visible area in the first frame, relative to the frame's


@dataclass(frozen=True, slots=True, eq=False)
class _Wardrobe:
    """The textures of a clip."""

    shared: list[Image]
    share: float
    programs: tuple[str, ...]
    camouflage: float
    """How likely an own texture takes on the mean colour of a shared one."""
    own: list[Image]
    """Drawn as they are needed, up to `MOST_TEXTURES`, then worn again in other colours."""

    def skins(self, rng: Rng, shape: Shape, size_px: float) -> tuple[Skin, ...]:
        """Return one skin per part: parts have their own texture or that of the part before."""
        worn = self._texture(rng)
        skins = []
        for part in shape.parts:
            if part.inside or rng.uniform() < 0.6:
                worn = self._texture(rng)
            scale = size_px * float(np.exp(rng.uniform(-0.5, 0.9)))
            angle = rng.uniform(0, 2 * np.pi)
            cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
            offset = rng.uniform(0, TEXTURE_SIDE, 2)
            skins.append(Skin(worn, np.array([[cos, -sin, offset[0]], [sin, cos, offset[1]]])))
        return tuple(skins)

    def _texture(self, rng: Rng) -> Image:
        if rng.uniform() < self.share:
            texture = self.shared[int(rng.integers(len(self.shared)))]
            return recolour(rng, texture, 0.3) if rng.uniform() < 0.5 else texture
        if len(self.own) < MOST_TEXTURES:
            drawn = draw_texture(rng, TEXTURE_SIDE, TEXTURE_SIDE, self.programs)
            if rng.uniform() < self.camouflage:
                drawn = _with_mean_of(drawn, self.shared[int(rng.integers(2))], float(rng.uniform(0.6, 1)))
            self.own.append(drawn)
            return drawn
        return recolour(rng, self.own[int(rng.integers(len(self.own)))])


def _with_mean_of(image: Image, other: Image, part: float) -> Image:
    """Return the texture with its mean colour moved towards another's."""
    shift = part * (np.array(cv2.mean(other)[:3]) - np.array(cv2.mean(image)[:3]))
    return cv2.transform(image, np.concatenate([np.eye(3), shift[:, None]], axis=1))


def draw_scene(
    rng: Rng,
    *,
    num_frames: int,
    height: int,
    width: int,
    num_objects: int,
    programs: tuple[str, ...],
    families: tuple[str, ...],
) -> Scene:
    """Draw a scene with `num_objects` objects, ids 1…N, each seen in the first frame if there is room.

    Args:
        rng: randomness.
        num_frames: length of the paths.
        height: of the frame, pixels.
        width: of the frame, pixels.
        num_objects: objects that have a mask.
        programs: names of the texture programs to use.
        families: names of the shape families to use.
    """
    camera = camera_path(rng, num_frames, height, width)
    ground = [draw_texture(rng, *_canvas(height, width, 2), programs) for _ in range(2)]
    patches = [image[:TEXTURE_SIDE, :TEXTURE_SIDE] for image in ground]
    own = [draw_texture(rng, TEXTURE_SIDE, TEXTURE_SIDE, programs) for _ in range(2)]
    wardrobe = _Wardrobe(patches + own, float(rng.choice(SHARES)), programs, float(rng.choice(CAMOUFLAGE)), [])
    look = _Look(rng, wardrobe, camera, height, width, families)
    background = _background(rng, ground, look)
    objects = _objects(look, num_objects)
    others = [look.layer(0, look.size(num_objects)) for _ in range(int(rng.integers(0, 3)))]
    layers = [*others, *objects]
    if rng.uniform() < 0.3:
        rng.shuffle(layers)
    layers += _occluders(look, objects)
    return _all_seen(look, Scene(background, camera, tuple(layers), height, width))


def _canvas(height: int, width: int, reduced: int) -> tuple[int, int]:
    return max(16, int(height * CANVAS) // reduced), max(16, int(width * CANVAS) // reduced)


class _Look:
    """What the layers of one scene have in common."""

    def __init__(
        self,
        rng: Rng,
        wardrobe: _Wardrobe,
        camera: NDArray[np.float64],
        height: int,
        width: int,
        families: tuple[str, ...],
    ) -> None:
        self.rng, self.wardrobe, self.camera = rng, wardrobe, camera
        self.height, self.width, self.families = height, width, families
        self.edge_px = float(rng.uniform(0.3, 0.9))
        self._sun = (float(rng.normal(0, 0.5)), float(rng.uniform(0.1, 0.4)), float(rng.uniform(0.2, 0.6)))
        self._sunny = rng.uniform() < 0.5

    def size(self, num_objects: int) -> float:
        """Return an object's size in pixels: the more of them, the smaller."""
        largest = 1.25 / max(1, num_objects) ** 0.3
        return float(np.exp(self.rng.uniform(np.log(0.3), np.log(largest)))) * min(self.height, self.width)

    def layer(self, object_id: int, size_px: float, shape: Shape | None = None, path: Path | None = None) -> Layer:
        """Return a layer of random shape and path, unless these are given."""
        rng = self.rng
        shape = shape or draw_shape(rng, self.families)
        path = path or object_path(rng, self.camera, self.height, self.width, size_px)
        num_frames = len(self.camera)
        drift = rng.normal(0, 0.12) * np.sin(np.linspace(0, rng.uniform(1, 4), num_frames))
        return Layer(
            object_id,
            shape,
            self.wardrobe.skins(rng, shape, size_px),
            size_px,
            path,
            self.edge_px,
            (1 + rng.uniform(-0.3, 0.3, (2, 2)) * (rng.uniform() < 0.7)).astype(np.float32),
            np.clip(1 + drift, 0.75, 1.25),
            self._sun if self._sunny and shape.family in ("walker", "vehicle", "cluster", "plant") else None,
        )


def _background(rng: Rng, ground: list[Image], look: _Look) -> Image:
    """Paint the canvas: one texture, perhaps with a ground below a horizon, and things that stand around."""
    height, width = _canvas(look.height, look.width, 1)
    canvas = cv2.resize(ground[0], (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.uniform() < 0.5:
        _paint_ground(rng, canvas, ground[1])
    still = Path(np.zeros((1, 2)), np.ones(1), np.zeros(1))
    for _ in range(int(rng.integers(0, 7))):
        centre = rng.uniform((0, 0), (width, height))[None]
        path = replace(still, centre=centre, angle=rng.normal(0, 0.25, 1))
        paint_layer(canvas, look.layer(0, look.size(3) * rng.uniform(0.3, 1.2), path=path), 0, height, width)
    light = 1 + 0.25 * value_noise(rng, height // 8 + 1, width // 8 + 1, max(height, width) / 16, 2)
    lit = cv2.resize(np.clip(light, 0.5, 1.5), (width, height)).astype(np.float32)
    return cv2.multiply(canvas, cv2.merge([lit] * 3), dtype=cv2.CV_8U)


def _paint_ground(rng: Rng, canvas: Image, texture: Image) -> None:
    """Lay a texture below a horizon, finer towards it, as a plane seen from above is."""
    height, width = canvas.shape[:2]
    horizon = float(rng.uniform(0.3, 0.7)) * height
    far = rng.uniform(1.5, 5)
    texture_height, texture_width = texture.shape[:2]
    spread = 0.5 * far * texture_width
    source = np.array(
        [
            [texture_width / 2 - spread, 0],
            [texture_width / 2 + spread, 0],
            [texture_width, texture_height * 2],
            [0, texture_height * 2],
        ],
        np.float32,
    )
    target = np.array([[0, horizon], [width, horizon], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    plane = cv2.warpPerspective(texture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    hills = value_noise(rng, 4, width, width * rng.uniform(0.1, 0.5), 3)[0] * height * rng.uniform(0, 0.05)
    below = np.arange(height)[:, None] > horizon + np.abs(hills)[None]
    canvas[below] = plane[below]


def _objects(look: _Look, num_objects: int) -> list[Layer]:
    rng = look.rng
    objects: list[Layer] = []
    for object_id in range(1, num_objects + 1):
        layer = look.layer(object_id, look.size(num_objects))
        if objects and rng.uniform() < 0.15:  # a twin: told from the other by where it is, not by its looks
            twin = objects[int(rng.integers(len(objects)))]
            layer = replace(layer, shape=twin.shape, skins=twin.skins)
        objects.append(layer)
    for position, layer in enumerate(objects):
        if rng.uniform() < 0.15:
            path = shift_out(rng, layer.path, look.height, look.width, layer.size_px)
            objects[position] = replace(layer, path=path)
    return objects


def _occluders(look: _Look, objects: list[Layer]) -> list[Layer]:
    """Return what stands or passes before the objects."""
    rng = look.rng
    layers = []
    if rng.uniform() < 0.35:
        for _ in range(int(rng.integers(1, 3))):
            path = object_path(rng, look.camera, look.height, look.width, look.height, stays=0.7, inside=False)
            if rng.uniform() < 0.4:
                layers.append(look.layer(0, look.height * 1.6, _pole(rng), path))
            else:
                layers.append(look.layer(0, look.size(3) * rng.uniform(0.4, 0.9), None, path))
    if objects and len(look.camera) >= 6 and rng.uniform() < 0.1:
        layers.append(_passer(look, objects[int(rng.integers(len(objects)))]))
    return layers


def _pole(rng: Rng) -> Shape:
    """A post or trunk that crosses the frame."""
    half = rng.uniform(0.01, 0.05)
    x = np.array([-half, half, half * rng.uniform(0.7, 1.5), -half * rng.uniform(0.7, 1.5)])
    points = np.stack([x, [-1.5, -1.5, 1.5, 1.5]], axis=1)
    return Shape("pole", (Outline(points, np.zeros(2)),), (STILL, STILL))


def _passer(look: _Look, hidden: Layer) -> Layer:
    """A thing that hides an object wholly for two or three frames as it passes."""
    rng = look.rng
    num_frames = len(look.camera)
    middle = int(rng.integers(num_frames // 3, num_frames))
    reach = hidden.size_px * float(hidden.path.scale[middle])
    direction = rng.uniform(0, 2 * np.pi)
    # At speed v a cover of half-width c hides what is w wide for 2 (c - w/2) / v frames.
    step = 0.3 * reach * np.array([np.cos(direction), np.sin(direction)])
    centre = hidden.path.centre[middle] + (np.arange(num_frames) - middle)[:, None] * step
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    disc = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.9, 1.1, (24, 1))
    shape = Shape("disc", (Outline(disc, np.zeros(2)),), (STILL, STILL))
    return look.layer(0, reach, shape, Path(centre, np.ones(num_frames), np.zeros(num_frames)))


def _all_seen(look: _Look, scene: Scene) -> Scene:
    """Move objects, at random, until each shows enough of itself in the first frame."""
    frame_area = scene.height * scene.width
    for attempt in range(ATTEMPTS):
        labels, areas = paint_labels(scene, 0)
        seen = np.bincount(labels.ravel(), minlength=256)
        bad = {
            layer.object_id
            for layer in scene.layers
            if layer.object_id
            and not (
                max(SMALLEST * frame_area, 0.4 * areas[layer.object_id])
                <= seen[layer.object_id]
                <= LARGEST * frame_area
            )
        }
        if not bad:
            break
        layers = [_moved(look, layer, len(areas)) if layer.object_id in bad else layer for layer in scene.layers]
        if attempt >= ATTEMPTS // 2:  # too crowded: what hides the objects goes
            layers = [layer for layer in layers if layer.object_id]
        scene = replace(scene, layers=tuple(layers))
    return scene


def _moved(look: _Look, layer: Layer, num_objects: int) -> Layer:
    size = max(layer.size_px, look.size(num_objects))
    return replace(layer, path=object_path(look.rng, look.camera, look.height, look.width, size), size_px=size)
