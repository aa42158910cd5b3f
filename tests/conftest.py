"""Small clips made in memory, shared by the tests of all rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from rayvos.annotations.records import Clip, ClipSource

pytest_plugins = ["tests.s3", "tests.session_progress"]

# Of a property that holds, no example is too slow: the machine is busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

Images = NDArray[np.uint8]

NUM_FRAMES, HEIGHT, WIDTH = 12, 48, 66


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: small networks are fastest so, and sums come in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def moving_square(num_frames: int = NUM_FRAMES, height: int = HEIGHT, width: int = WIDTH) -> Images:
    """Return RGB images (frame, height, width, 3): smooth colours, a bright square one pixel further each frame.

    The grey value of the upper left corner tells the frame: `8 + 16 * (frame % 15)`.
    """
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 200 // width, y * 200 // height, (x + y) * 100 // (width + height)], axis=2).astype(np.uint8)
    images = np.repeat(base[None], num_frames, axis=0)
    for frame, image in enumerate(images):
        image[height // 2 : height // 2 + 12, 2 + frame : 14 + frame] = (250, 240, 60)
        image[:16, :16] = 8 + 16 * (frame % 15)
    return images


def frame_of(image: Images) -> int:
    """Return the frame number (modulo 15) that `moving_square` wrote into the corner."""
    return round((float(image[4:12, 4:12].mean()) - 8) / 16)


def write_image_folder(folder: Path, images: Images, suffix: str = ".png") -> Clip:
    """Write images as numbered files and return their clip."""
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(f"{frame:05d}{suffix}" for frame in range(len(images)))
    for name, image in zip(names, images, strict=True):
        assert cv2.imwrite(str(folder / name), image[..., ::-1])
    return Clip(folder.name, ClipSource("images", str(folder), names), *images.shape[1:3], len(images))


def write_video(
    path: Path,
    images: Images,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int = 0,
    **options: str,
) -> Clip:
    """Write images as a video of 25 frames a second (or shown at `times`, in 1/1000 s) and return its clip."""
    height, width = images.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
        stream.codec_context.time_base = Fraction(1, 25 if times is None else 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for position, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts = position if times is None else times[position]
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if abs(rotation) == 90:
        height, width = width, height
    return Clip(path.stem, ClipSource("video", str(path)), height, width, len(images), 25.0)


@pytest.fixture(scope="session")
def square_images() -> Images:
    """RGB images (12, 48, 66, 3) of a moving square."""
    images = moving_square()
    images.setflags(write=False)
    return images


@pytest.fixture
def image_clip(tmp_path: Path, square_images: Images) -> Clip:
    """The moving square as a folder of PNG files."""
    return write_image_folder(tmp_path / "square", square_images)


@pytest.fixture
def video_clip(tmp_path: Path, square_images: Images) -> Clip:
    """The moving square as an mp4 file with reordered frames and a key frame every five."""
    return write_video(tmp_path / "square.mp4", square_images, g="5", bf="2")


@pytest.fixture
def write_clip_video() -> Callable[..., Clip]:
    """The function that writes a video: `(path, images, codec=…, pixel_format=…, times=…, rotation=…) -> Clip`."""
    return write_video
