from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from rayvos.annotations.formats.label_maps import (
    LabelMap,
    davis_palette,
    decode_label_map,
    encode_label_map,
    fit_label_map,
    read_label_map,
    write_label_map,
)
from rayvos.errors import DecodeError, FormatError, FrameSizeError, MissingPathError, ShapeError
from rayvos.masks.rle import rle_to_mask

REAL_CLIPS = Path(os.environ.get("RAYVOS_REAL_CLIPS", Path(__file__).parents[3] / "../shared/data/real_clips"))
IDS = np.array([[0, 1, 2], [3, 0, 255]], np.uint8)


def png(image: Image.Image, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return data.getvalue()


def palette_image(ids, colours=None) -> Image.Image:
    image = Image.frombytes("P", ids.shape[::-1], ids.tobytes())
    image.putpalette((davis_palette() if colours is None else colours).tobytes())
    return image


@given(hnp.arrays(st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_what_is_written_is_read_back(ids):
    found = decode_label_map(encode_label_map(ids), "map.png")
    assert found.ids.dtype == ids.dtype
    assert np.array_equal(found.ids, ids)


def test_written_maps_carry_the_colours_of_davis(tmp_path):
    write_label_map(str(tmp_path / "a.png"), IDS)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.asarray(image.convert("RGB"))[0].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
        assert np.asarray(image.convert("RGB"))[1, 2].tolist() == [224, 224, 192]


def test_every_id_has_its_own_colour():
    assert len({tuple(colour) for colour in davis_palette().tolist()}) == 256
    assert davis_palette()[8].tolist() == [64, 0, 0]
    assert davis_palette()[20].tolist() == [0, 64, 128]


@pytest.mark.parametrize("ids", [np.zeros((2, 2), np.int64), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_label_map_is_not_written(ids):
    with pytest.raises(ShapeError, match="label map"):
        encode_label_map(ids)


def test_grey_palette_and_colour_files_hold_the_same_ids():
    grey = Image.fromarray(IDS)
    colour = palette_image(IDS).convert("RGB")
    with_alpha = palette_image(IDS).convert("RGBA")
    grey_alpha = Image.merge("LA", [grey, Image.new("L", grey.size, 255)])
    other_palette = palette_image(IDS, np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(256, 3))

    for image in (grey, palette_image(IDS), colour, with_alpha, grey_alpha, other_palette):
        assert np.array_equal(decode_label_map(png(image), "a.png").ids, IDS), image.mode


def test_short_and_transparent_palettes_keep_their_indices():
    ids = np.array([[0, 1, 2, 3]], np.uint8)
    short = palette_image(ids, davis_palette()[:4])
    assert decode_label_map(png(short, bits=2), "a.png").ids.tolist() == ids.tolist()
    assert decode_label_map(png(palette_image(ids), transparency=0), "a.png").ids.tolist() == ids.tolist()
    assert decode_label_map(png(palette_image(ids), transparency=bytes([0, 128, 255])), "a.png").ids.tolist() == [
        [0, 1, 2, 3]
    ]


def test_ids_above_255_need_16_bits_and_have_another_void():
    ids = np.array([[0, 255, 256, 65535]], np.uint16)
    found = decode_label_map(png(Image.frombytes("I;16", (4, 1), ids.tobytes())), "a.png")
    assert found.ids.tolist() == ids.tolist()
    assert found.void == 65535
    assert LabelMap(IDS, "grey").void == 255


def test_black_and_white_is_one_object_in_whatever_form():
    mask = np.array([[0, 255, 255]], np.uint8)
    grey = Image.fromarray(mask)
    two_valued = Image.fromarray(mask > 0)
    white_palette = palette_image(mask, np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1))

    for image in (grey, two_valued, grey.convert("RGB"), white_palette):
        assert decode_label_map(png(image), "a.png").is_binary, image.mode
    assert not decode_label_map(png(palette_image(mask)), "void.png").is_binary
    assert not decode_label_map(png(Image.fromarray(IDS)), "ids.png").is_binary


def test_each_value_becomes_one_mask():
    rles = LabelMap(IDS, "palette").to_rles()
    assert sorted(rles) == [1, 2, 3, 255]
    for value, rle in rles.items():
        assert np.array_equal(rle_to_mask(rle, 2, 3), value == IDS)


def test_colours_outside_the_palette_are_refused_with_the_first_of_them(tmp_path):
    pixels = np.array([[[128, 0, 0], [129, 0, 0]]], np.uint8)
    (tmp_path / "blurred.png").write_bytes(png(Image.fromarray(pixels)))
    with pytest.raises(FormatError, match=r"blurred\.png: colour \(129, 0, 0\)"):
        read_label_map(str(tmp_path / "blurred.png"))


@pytest.mark.parametrize("name", ["frame.jpg", "frame.webp"])
def test_lossy_pictures_are_refused(tmp_path, name):
    Image.fromarray(IDS).convert("RGB").save(tmp_path / name)
    with pytest.raises(FormatError, match=name):
        read_label_map(str(tmp_path / name))


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_named(data):
    with pytest.raises(FormatError, match=r"x\.png"):
        decode_label_map(data, "x.png")


def test_a_cut_file_is_named():
    data = encode_label_map(np.random.default_rng(0).integers(0, 5, (200, 200)).astype(np.uint8))
    with pytest.raises(DecodeError, match=r"x\.png"):
        decode_label_map(data[: len(data) // 2], "x.png")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingPathError, match=r"none\.png"):
        read_label_map(str(tmp_path / "none.png"))


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 65), (49, 63)])
def test_a_difference_of_one_pixel_is_scaled_away_without_new_values(height, width):
    ids = np.zeros((48, 64), np.uint8)
    ids[10:30, 20:40] = 7
    found = fit_label_map(LabelMap(ids, "palette"), height, width, "a.png")
    assert found.ids.shape == (height, width)
    assert found.values() == [7]
    assert abs(int((found.ids == 7).sum()) - 400) <= 40


@pytest.mark.parametrize(("height", "width"), [(46, 64), (48, 66), (64, 48)])
def test_a_larger_difference_is_an_error_that_names_the_file(height, width):
    with pytest.raises(FrameSizeError, match=r"a\.png: the mask is 48x64"):
        fit_label_map(LabelMap(np.zeros((48, 64), np.uint8), "palette"), height, width, "a.png")


@pytest.mark.skipif(not (REAL_CLIPS / "odd").is_dir(), reason=f"no real clips in {REAL_CLIPS}")
def test_the_real_grey_and_alpha_mask_is_read_as_its_readme_says():
    found = read_label_map(str(REAL_CLIPS / "odd/davis2016_bear_00077_LA.png"))
    assert found.is_binary
    mask = found.ids > 0
    assert int(mask.sum()) == 46035
    assert hashlib.sha1(mask.astype(np.uint8).tobytes()).hexdigest() == "80950b48e1f00555e823b90cbf87a31d9afde5b9"


@pytest.mark.skipif(not (REAL_CLIPS / "multi").is_dir(), reason=f"no real clips in {REAL_CLIPS}")
def test_the_real_mask_that_is_a_pixel_too_narrow_is_fitted():
    found = read_label_map(str(REAL_CLIPS / "multi/Annotations/judo/00005.png"))
    assert found.ids.shape == (480, 853)
    fitted = fit_label_map(found, 480, 854, "00005.png")
    assert fitted.ids.shape == (480, 854)
    assert fitted.values() == found.values() == [2]
