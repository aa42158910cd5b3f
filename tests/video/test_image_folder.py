from __future__ import annotations

import dataclasses
import io
import struct
import threading
import time
import zlib
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayvos.annotations.records import Clip, ClipSource
from rayvos.errors import (
    DecodeError,
    FormatError,
    FrameMissingError,
    FrameSizeError,
    ImageTooLargeError,
)
from rayvos.video.image_folder import decode_image
from rayvos.video.limits import DecodeLimits
from rayvos.video.source import open_clip
from tests.conftest import moving_square, write_image_folder


def jpeg_bytes(image: np.ndarray, orientation: int | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    exif = picture.getexif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(buffer, "JPEG", quality=95, exif=exif, **options)
    return buffer.getvalue()


def wait_until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.005)
    return condition()


def decode_threads() -> int:
    return sum(thread.name == "rayvos-decode" for thread in threading.enumerate())


def test_lossless_frames_come_back_bit_exact_in_the_order_asked_for(image_clip, square_images):
    with open_clip(image_clip, decode_threads=3) as reader:
        for frames in (range(12), [7], [2, 3, 11], [9, 0, 5], []):
            read = list(reader.read(frames))

            assert [frame for frame, _ in read] == list(frames)
            for frame, image in read:
                np.testing.assert_array_equal(image, square_images[frame])


def test_two_passes_of_one_reader_do_not_disturb_each_other(image_clip, square_images):
    with open_clip(image_clip) as reader:
        for (a, image_a), (b, image_b) in zip(reader.read(range(10)), reader.read(range(2, 12)), strict=True):
            assert b == a + 2
            np.testing.assert_array_equal(image_a, square_images[a])
            np.testing.assert_array_equal(image_b, square_images[b])


def test_grey_16_bit_palette_and_transparent_pictures_become_8_bit_rgb(tmp_path):
    grey = (np.arange(48 * 64).reshape(48, 64) % 251).astype(np.uint8)
    colour = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert cv2.imwrite(str(tmp_path / "deep.png"), colour[..., ::-1].astype(np.uint16) * 256 + 77)
    Image.fromarray(np.dstack([colour, grey]), "RGBA").save(tmp_path / "alpha.png")
    palette = Image.fromarray(grey % 4, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png")

    def read(name: str) -> np.ndarray:
        return decode_image((tmp_path / name).read_bytes(), name)

    np.testing.assert_array_equal(read("grey.png"), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(read("deep.png"), colour)
    np.testing.assert_array_equal(read("alpha.png"), colour)
    np.testing.assert_array_equal(read("palette.png")[0, :4], [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_turns_the_picture_as_people_see_it(orientation, turns):
    stored = moving_square(1, 48, 80)[0]
    data = jpeg_bytes(stored, orientation)
    plain = decode_image(jpeg_bytes(stored), "plain")

    seen = decode_image(data, "turned")

    np.testing.assert_array_equal(seen, np.rot90(plain, turns))


def test_a_clip_whose_manifest_has_the_unturned_size_is_read_unturned(tmp_path):
    stored = moving_square(1, 48, 80)[0]
    (tmp_path / "0.jpg").write_bytes(jpeg_bytes(stored, 6))
    clip = Clip("c", ClipSource("images", str(tmp_path), ("0.jpg",)), 48, 80, 1)

    with open_clip(clip) as reader:
        [(_, image)] = reader.read([0])

    np.testing.assert_array_equal(image, decode_image(jpeg_bytes(stored), "plain"))


@given(st.data(), st.sampled_from(["JPEG", "progressive", "PNG", "WEBP", "BMP"]))
def test_a_picture_cut_anywhere_is_an_error_that_names_it(data, kind):
    buffer = io.BytesIO()
    image = Image.fromarray(moving_square(1, 40, 64)[0])
    if kind == "progressive":
        image.save(buffer, "JPEG", progressive=True)
    else:
        image.save(buffer, kind)
    whole = buffer.getvalue()
    length = data.draw(st.integers(0, len(whole) - 2))

    with pytest.raises(DecodeError, match="clip 'a' frame 7"):
        decode_image(whole[:length], "clip 'a' frame 7")


def test_a_cut_jpeg_with_a_whole_thumbnail_is_an_error():
    whole = jpeg_bytes(moving_square(1, 120, 160)[0])
    thumbnail = jpeg_bytes(moving_square(1, 24, 32)[0])
    segment = b"\xff\xe3" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = whole[:2] + segment + whole[2:]
    assert decode_image(data, "whole").shape == (120, 160, 3)

    with pytest.raises(DecodeError, match="cut off"):
        decode_image(data[: len(data) * 3 // 4], "x")


def png_header(height: int, width: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, body, b"IEND")
    )


@pytest.mark.parametrize("side", [10_001, 50_000, 1_000_000])
def test_a_picture_bomb_is_refused_by_its_header(side):
    with pytest.raises(ImageTooLargeError, match="bomb"):
        decode_image(png_header(side, side), "bomb")


def test_the_pixel_limit_can_be_set():
    data = jpeg_bytes(moving_square(1, 48, 80)[0])

    assert decode_image(data, "x", limits=DecodeLimits(max_pixels=48 * 80)).shape == (48, 80, 3)
    with pytest.raises(ImageTooLargeError, match="3840 pixels, at most 3839"):
        decode_image(data, "x", limits=DecodeLimits(max_pixels=48 * 80 - 1))


def test_an_empty_file_and_a_text_file_are_errors_that_name_clip_frame_and_file(image_clip):
    folder = Path(image_clip.source.uri)
    (folder / "00003.png").write_bytes(b"")
    (folder / "00004.png").write_text("<html>not found</html>")

    with open_clip(image_clip) as reader:
        with pytest.raises(DecodeError, match=r"clip 'square' frame 3 \(.*00003.png\): .*empty file"):
            list(reader.read([3]))
        with pytest.raises(DecodeError, match=r"frame 4 .*<html>"):
            list(reader.read([4]))


def test_a_missing_file_is_named_after_the_frames_before_it_were_given(image_clip):
    (Path(image_clip.source.uri) / "00005.png").unlink()
    given_frames = []

    with open_clip(image_clip) as reader, pytest.raises(FrameMissingError, match=r"clip 'square' frame 5: .*00005.png"):
        given_frames.extend(frame for frame, _ in reader.read(range(12)))

    assert given_frames == [0, 1, 2, 3, 4] or given_frames == []


def test_a_frame_of_another_size_is_an_error_that_states_both(image_clip):
    cv2.imwrite(str(Path(image_clip.source.uri) / "00002.png"), np.zeros((48, 64, 3), np.uint8))

    with open_clip(image_clip) as reader, pytest.raises(FrameSizeError, match=r"frame 2 .*48x64.*48x66"):
        list(reader.read(range(12)))


def test_frames_outside_the_clip_do_not_exist(image_clip):
    with open_clip(image_clip) as reader:
        for frame in (-1, 12):
            with pytest.raises(FrameMissingError, match="0…11"):
                list(reader.read([frame]))


def test_a_folder_without_frame_names_is_read_in_natural_order(tmp_path, square_images):
    for frame, image in enumerate(square_images):
        cv2.imwrite(str(tmp_path / f"{frame}.png"), image[..., ::-1])
    (tmp_path / "notes.txt").write_text("no picture")
    clip = Clip("c", ClipSource("images", str(tmp_path)), 48, 66, 12)

    with open_clip(clip) as reader:
        for frame, image in reader.read(range(12)):
            np.testing.assert_array_equal(image, square_images[frame])
    with pytest.raises(FrameMissingError, match=r"12 pictures .* 13 frames"):
        open_clip(dataclasses.replace(clip, num_frames=13))


def test_a_list_of_names_must_be_as_long_as_the_clip(image_clip):
    with pytest.raises(FormatError, match=r"12 pictures .* 11 frames"):
        open_clip(dataclasses.replace(image_clip, num_frames=11))


def test_frames_are_read_from_a_url(square_images, tmp_path):
    local = write_image_folder(tmp_path / "x", square_images)
    fs = fsspec.filesystem("memory")
    fs.put(local.source.uri, "/frames of a clip", recursive=True)
    source = dataclasses.replace(local.source, uri="memory:///frames of a clip")

    with open_clip(dataclasses.replace(local, source=source)) as reader:
        for frame, image in reader.read([0, 11]):
            np.testing.assert_array_equal(image, square_images[frame])


def test_threads_stop_when_the_consumer_stops_early_closes_or_forgets(image_clip):
    before = decode_threads()
    limits = DecodeLimits(ahead_bytes=4 * 48 * 66 * 3)

    with open_clip(image_clip, limits=limits, decode_threads=3) as reader:
        running = reader.read(range(12))
        next(running)
        running.close()
        assert decode_threads() == before

        running = reader.read(range(12))
        next(running)
        assert decode_threads() > before
    assert decode_threads() == before
    with pytest.raises(ValueError, match="closed"):
        next(running)

    forgotten = open_clip(image_clip, limits=limits).read(range(12))
    next(forgotten)
    del forgotten
    assert wait_until(lambda: decode_threads() == before)


def test_decoding_ahead_stays_within_its_bound(image_clip, monkeypatch):
    decoded = []
    real = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(1) or real(*args))
    limits = DecodeLimits(ahead_bytes=3 * 48 * 66 * 3)

    with open_clip(image_clip, limits=limits) as reader:
        running = reader.read(range(12))
        next(running)
        assert wait_until(lambda: len(decoded) == 4)
        assert not wait_until(lambda: len(decoded) > 4, seconds=0.2)
