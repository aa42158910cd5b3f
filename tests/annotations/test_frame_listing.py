from __future__ import annotations

import io
import os

import cv2
import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayvos import storage
from rayvos.annotations.frame_listing import (
    file_identity,
    image_size,
    is_image,
    list_frames,
    list_images,
    natural_key,
    read_image_header,
)
from rayvos.errors import DecodeError, FormatError, FrameMissingError, ImageTooLargeError, MissingPathError


def picture(width: int, height: int, kind: str = "JPEG", orientation: int = 1, noise: bool = False, **options) -> bytes:
    pixels = np.zeros((height, width, 3), np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, exif=exif, **options)
    return data.getvalue()


def write_names(folder, names) -> None:
    for name in names:
        (folder / name).write_bytes(picture(4, 2))


def test_names_of_equal_width_sort_as_strings_and_unpadded_ones_as_numbers(tmp_path):
    write_names(tmp_path, ["10.jpg", "9.jpg", "0.jpg", "100.jpg"])
    assert list_frames(str(tmp_path)).names == ("0.jpg", "9.jpg", "10.jpg", "100.jpg")


@given(st.sets(st.integers(0, 99999), min_size=1))
def test_padded_numbers_sort_like_strings(numbers):
    names = [f"img_{number:05d}.jpg" for number in numbers]
    assert sorted(names, key=natural_key) == sorted(names)


def test_hidden_files_folders_and_other_files_are_no_frames(tmp_path):
    write_names(tmp_path, ["00001.jpg", "._00001.jpg", "Thumbs.db", "notes.txt", "00002.PNG"])
    (tmp_path / "folder.jpg").mkdir()
    assert list_frames(str(tmp_path)).names == ("00001.jpg", "00002.PNG")
    assert not is_image("sub/.hidden.jpg")
    assert is_image("sub dir/ä b.JPEG")


@pytest.mark.parametrize("names", [[], ["notes.txt"]])
def test_a_folder_without_pictures_is_named(tmp_path, names):
    write_names(tmp_path, names)
    with pytest.raises(MissingPathError, match=str(tmp_path)):
        list_frames(str(tmp_path))


def test_a_folder_that_is_not_there_is_named_and_lists_nothing(tmp_path):
    with pytest.raises(MissingPathError, match="nowhere"):
        list_frames(str(tmp_path / "nowhere"))
    assert list_images(str(tmp_path / "nowhere")).names == ()


def test_two_files_of_one_frame_are_refused(tmp_path):
    write_names(tmp_path, ["00001.jpg", "00001.png"])
    with pytest.raises(FormatError, match=r"00001\.jpg.*00001\.png"):
        list_frames(str(tmp_path))


def test_the_identity_changes_with_a_files_size_time_or_name_and_with_nothing_else(tmp_path):
    write_names(tmp_path, ["0.jpg", "1.jpg"])
    first = list_frames(str(tmp_path)).identity
    assert list_frames(str(tmp_path)).identity == first

    os.utime(tmp_path / "1.jpg", (1, 1))
    touched = list_frames(str(tmp_path)).identity
    (tmp_path / "1.jpg").rename(tmp_path / "2.jpg")
    renamed = list_frames(str(tmp_path)).identity
    (tmp_path / "2.jpg").write_bytes(picture(40, 40))
    os.utime(tmp_path / "2.jpg", (1, 1))
    resized = list_frames(str(tmp_path)).identity

    assert len({first, touched, renamed, resized}) == 4


def test_the_identity_of_some_frames_ignores_the_others(tmp_path):
    write_names(tmp_path, ["0.jpg", "1.jpg"])
    before = list_images(str(tmp_path)).identity_of(["0.jpg"])
    (tmp_path / "1.jpg").unlink()
    assert list_images(str(tmp_path)).identity_of(["0.jpg"]) == before
    with pytest.raises(FrameMissingError, match=r"1\.jpg"):
        list_images(str(tmp_path)).identity_of(["1.jpg"])


def test_a_files_identity_follows_its_content(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    before = file_identity(str(path))
    path.write_bytes(b"three")
    assert file_identity(str(path)) != before
    with pytest.raises(MissingPathError, match=r"none\.mp4"):
        file_identity(str(tmp_path / "none.mp4"))


def test_remote_folders_are_listed_like_local_ones():
    fs = fsspec.filesystem("memory")
    for name in ("2.jpg", "10.jpg"):
        fs.pipe_file(f"/listing/clip/{name}", picture(7, 5))

    listing = list_frames("memory://listing/clip")

    assert listing.names == ("2.jpg", "10.jpg")
    assert image_size("memory://listing/clip/2.jpg") == (5, 7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_size_is_that_of_the_decoded_picture(tmp_path, kind, orientation):
    data = picture(40, 20, kind, orientation)
    path = tmp_path / "picture"
    path.write_bytes(data)

    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

    assert image_size(str(path)) == decoded.shape[:2]


def test_the_stored_size_is_known_beside_the_turned_one(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(40, 20, orientation=6))
    header = read_image_header(str(tmp_path / "a.jpg"))
    assert (header.height, header.width, header.stored_height, header.stored_width) == (40, 20, 20, 40)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_head_longer_than_the_first_kilobytes_is_read_on(tmp_path, kind):
    data = picture(300, 200, kind, orientation=6, noise=True, icc_profile=bytes(60_000) + b"x" * 70_000, quality=95)
    assert len(data) > 1 << 17
    (tmp_path / "a").write_bytes(data)
    assert image_size(str(tmp_path / "a")) == (300, 200)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"not a picture", picture(40, 20)[:100]])
def test_what_is_no_picture_is_named(tmp_path, data):
    (tmp_path / "broken.jpg").write_bytes(data)
    with pytest.raises(DecodeError, match=r"broken\.jpg"):
        image_size(str(tmp_path / "broken.jpg"))


def test_a_header_with_absurd_sizes_is_refused_without_decoding(tmp_path):
    data = bytearray(picture(40, 20, "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    (tmp_path / "huge.bmp").write_bytes(data)
    with pytest.raises(ImageTooLargeError, match=r"huge\.bmp"):
        image_size(str(tmp_path / "huge.bmp"))


def test_object_stores_list_measure_and_identify_like_a_disk(s3_bucket):
    for name, data in (("10.jpg", picture(7, 5)), ("9.jpg", picture(7, 5)), ("11.jpg", b"")):
        storage.write_bytes(storage.join(s3_bucket, "clip", name), data)

    listing = list_frames(storage.join(s3_bucket, "clip"))

    assert listing.names == ("9.jpg", "10.jpg", "11.jpg")
    assert image_size(storage.join(s3_bucket, "clip", "9.jpg")) == (5, 7)
    with pytest.raises(DecodeError, match=r"11\.jpg.*empty"):
        image_size(storage.join(s3_bucket, "clip", "11.jpg"))
    storage.write_bytes(storage.join(s3_bucket, "clip", "10.jpg"), picture(8, 5))
    assert list_frames(storage.join(s3_bucket, "clip")).identity != listing.identity
