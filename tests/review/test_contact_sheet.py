import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rayvos.errors import InputError
from rayvos.review.contact_sheet import SheetFrame, contact_sheet, encode_jpeg, evenly_spaced, scale_box, scale_label
from rayvos.review.overlays import ObjectLabel


def make_row(frame=0, height=120, width=200, value=90):
    mask = np.zeros((height, width), np.bool_)
    mask[20:60, 50:110] = True
    image = np.full((height, width, 3), value, np.uint8)
    return SheetFrame(frame, image, {1: (50, 20, 110, 60)}, [ObjectLabel(1, mask, score=0.9)])


@given(st.integers(1, 5000), st.integers(1, 40))
def test_sheet_frames_are_different_ascending_and_inside_the_clip(num_frames, num_wanted):
    frames = evenly_spaced(num_frames, num_wanted)

    assert len(frames) == min(num_frames, num_wanted)
    assert frames == sorted(set(frames))
    assert 0 <= frames[0] <= frames[-1] < num_frames


def test_boxes_are_left_and_masks_are_right():
    sheet = contact_sheet([make_row()], title="clip", max_side=200)

    half = sheet.shape[1] // 2
    middle = sheet.shape[0] - 120 // 2 - 24
    left, right = sheet[middle, :half], sheet[middle, half:]
    plain = (90, 90, 90)
    assert (left[80:84] == plain).all()  # inside the box nothing is painted
    assert (right[80:84] != plain).any(axis=1).all()  # inside the mask everything is


def test_the_sheet_grows_with_its_rows_and_shrinks_with_its_panels():
    one = contact_sheet([make_row()], title="clip", max_side=200)
    three = contact_sheet([make_row(frame) for frame in range(3)], title="clip", max_side=200)
    small = contact_sheet([make_row()], title="clip", max_side=100)

    assert three.shape[0] > one.shape[0] + 240
    assert three.shape[1] == one.shape[1]
    assert small.shape[1] < one.shape[1]


def test_a_title_of_any_length_and_script_fits():
    sheet = contact_sheet([make_row()], title="длинное имя 长名字 " * 40, max_side=200)

    assert sheet.shape == contact_sheet([make_row()], title="a", max_side=200).shape


def test_a_tiny_picture_gets_a_sheet():
    row = SheetFrame(0, np.zeros((1, 1, 3), np.uint8), {}, [])

    assert contact_sheet([row], title="dot").shape[0] > 1


def test_no_frame_is_an_error_that_says_so():
    with pytest.raises(InputError, match="at least one frame"):
        contact_sheet([], title="clip")


def test_a_scaled_mask_keeps_its_share_of_the_picture():
    row = make_row(height=240, width=400)

    small = scale_label(row.labels[0], 60, 100, from_height=240, from_width=400)

    assert small.mask is not None
    assert small.mask.mean() == pytest.approx(row.labels[0].mask.mean(), rel=0.1)
    assert scale_box((40, 20, 80, 60), 0.5, 0.25) == (20, 5, 40, 15)


def test_the_same_picture_gives_the_same_jpeg():
    image = contact_sheet([make_row()], title="clip")

    data = encode_jpeg(image)

    assert data == encode_jpeg(image.copy())
    assert np.abs(np.asarray(Image.open(io.BytesIO(data))).astype(int) - image).mean() < 6
