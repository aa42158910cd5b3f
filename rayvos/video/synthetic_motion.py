"""Movement for generated clips: where camera and objects are at each frame.

Positions are pixels of the frame. Paths are smooth (second-order random walks), as nothing in the world jumps; an
object turns round at the frame's edge unless it is meant to leave.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Path", "camera_path", "move_point", "object_path", "shift_out", "smooth_walk"]

Series = NDArray[np.float64]
Rng = np.random.Generator

LEAVE_FROM = 8  # shorter clips have no time to leave and to come back


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """Where a layer is at each frame; between frames it moves straight."""

    centre: Series
    """(frames, 2) x and y in pixels."""
    scale: Series
    """(frames,) size relative to the layer's own."""
    angle: Series
    """(frames,) radians."""

    def at(self, time: float) -> tuple[Series, float, float]:
        """Return centre, scale and angle at a time in frames, held at both ends."""
        low = int(np.clip(np.floor(time), 0, len(self.scale) - 1))
        high = min(low + 1, len(self.scale) - 1)
        part = float(np.clip(time - low, 0, 1))
        centre: Series = self.centre[low] * (1 - part) + self.centre[high] * part
        scale = self.scale[low] * (1 - part) + self.scale[high] * part
        angle = self.angle[low] * (1 - part) + self.angle[high] * part
        return centre, float(scale), float(angle)


def _smoothed(values: Series, sigma: float) -> Series:
    """Return a series (frames, n) without its quick changes."""
    if len(values) < 3:
        return values
    smooth = cv2.GaussianBlur(values.reshape(len(values), -1), (0, 0), 1e-6 + 0.1, sigmaY=sigma)
    return np.asarray(smooth, np.float64).reshape(values.shape)


def smooth_walk(rng: Rng, num_frames: int, amount: float, columns: int = 1) -> Series:
    """Return a smooth random series (frames, columns) that starts at 0 and changes by about `amount` in all."""
    speed = _smoothed(np.cumsum(rng.normal(0, 1, (num_frames, columns)), axis=0), 2.0)
    walk = np.cumsum(speed + rng.normal(0, 0.3 * num_frames**0.5, (1, columns)), axis=0)
    walk -= walk[0]
    reach = np.abs(walk).max(axis=0, keepdims=True)
    scaled: Series = walk / np.maximum(reach, 1e-9) * amount * rng.uniform(0.3, 1, (1, columns))
    return scaled


def camera_path(rng: Rng, num_frames: int, height: int, width: int) -> Series:
    """Return homographies (frames, 3, 3) from the scene to the frame; the first is the identity.

    The camera stands still in a fifth of the clips; else it pans, zooms, rolls and tilts a little.
    """
    if rng.uniform() < 0.2:
        return np.repeat(np.eye(3)[None], num_frames, axis=0)
    speed = float(np.exp(rng.uniform(np.log(0.002), np.log(0.025))))  # of the frame's height, per frame
    pan = smooth_walk(rng, num_frames, speed * num_frames * height, 2)
    shake = _smoothed(rng.normal(0, 1, (num_frames, 2)), 0.7) * rng.choice([0.0, 0.3, 1.0]) * height / 240
    zoom = np.exp(smooth_walk(rng, num_frames, min(0.35, 0.01 * num_frames))[:, 0])
    roll = smooth_walk(rng, num_frames, 0.06)[:, 0]
    tilt = smooth_walk(rng, num_frames, 0.08, 2) / (height, width)
    paths = np.empty((num_frames, 3, 3))
    middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    for frame in range(num_frames):
        cos, sin = np.cos(roll[frame]) * zoom[frame], np.sin(roll[frame]) * zoom[frame]
        shift = pan[frame] + (shake[frame] - shake[0])
        turn = np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [tilt[frame, 0], tilt[frame, 1], 1]])
        paths[frame] = np.linalg.inv(middle) @ turn @ middle
    return paths


def move_point(homography: Series, point: Series) -> Series:
    """Return where a homography (3, 3) takes a point (2,)."""
    x, y, w = homography @ np.array([point[0], point[1], 1.0])
    return np.array([x / w, y / w])


def object_path(
    rng: Rng, camera: Series, height: int, width: int, size: float, *, stays: float = 0.12, inside: bool = True
) -> Path:
    """Return the path of an object of `size` pixels.

    Args:
        rng: randomness.
        camera: homographies (frames, 3, 3); a standing object moves with the scene, unless the camera follows it.
        height: of the frame.
        width: of the frame.
        size: the object's.
        stays: share of objects that do not move by themselves.
        inside: it turns round before its centre leaves the frame.
    """
    num_frames = len(camera)
    start = rng.uniform((0.15 * width, 0.2 * height), (0.85 * width, 0.8 * height))
    follows = float(rng.choice([0.0, 1.0, rng.uniform()], p=[0.5, 0.2, 0.3]))
    carried = np.array([move_point(homography, start) - start for homography in camera]) * (1 - follows)
    centre = start + carried
    scale, angle = np.ones(num_frames), np.full(num_frames, rng.normal(0, 0.25))
    if rng.uniform() >= stays:
        speed = float(np.exp(rng.uniform(np.log(0.002), np.log(0.12)))) * size
        centre = centre + smooth_walk(rng, num_frames, speed * num_frames, 2)
        scale = np.exp(smooth_walk(rng, num_frames, min(0.6, 0.025 * num_frames))[:, 0])
        angle = angle + smooth_walk(rng, num_frames, min(0.9, 0.03 * num_frames))[:, 0]
    if inside:
        centre = _smoothed(_folded(centre, np.array([0.1 * width, 0.12 * height]), (width, height)), 1.2)
    zoom = np.sqrt(np.abs(np.linalg.det(camera[:, :2, :2])))
    return Path(centre, np.clip(scale * zoom ** (1 - follows), 0.45, 2.0), angle)


def _folded(centre: Series, margin: Series, size: tuple[int, int]) -> Series:
    """Reflect positions at the frame's margins, as a ball between walls."""
    span = np.array(size) - 2 * margin
    phase = np.mod((centre - margin) / span, 2.0)
    folded: Series = margin + span * (1 - np.abs(1 - phase))
    return folded


def shift_out(rng: Rng, path: Path, height: int, width: int, size: float) -> Path:
    """Return the path with an excursion out of the frame after its first quarter; it may come back."""
    num_frames = len(path.scale)
    if num_frames < LEAVE_FROM:
        return path
    ramp = max(2, min(8, num_frames // 5))
    leave = int(rng.integers(num_frames // 4, max(num_frames // 4 + 1, num_frames // 2)))
    back = leave + ramp + int(rng.integers(2, max(3, num_frames // 3)))
    if rng.uniform() < 0.35:
        back = num_frames  # it is gone for good
    frames = np.arange(num_frames)
    out = np.clip((frames - leave) / ramp, 0, 1) * (1 - np.clip((frames - back) / ramp, 0, 1))
    out = out * out * (3 - 2 * out)
    x = path.centre[leave, 0]
    reach = 0.75 * size * float(path.scale.max())
    target = -reach if x < width / 2 else width + reach
    centre = path.centre.copy()
    centre[:, 0] += out * (target - centre[:, 0])
    return Path(centre, path.scale, path.angle)
