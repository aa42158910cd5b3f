import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayvos.errors import ShapeError
from rayvos.review.overlays import (
    ObjectLabel,
    draw_boxes,
    fit_scale,
    object_color,
    overlay_image,
    resize_image,
    text_tag,
)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture
def mask():
    found = np.zeros((90, 120), np.bool_)
    found[30:60, 40:80] = True
    return found


def test_only_the_object_and_its_outline_change(image, mask):
    near = cv2.dilate(mask.astype(np.uint8), np.ones((11, 11), np.uint8)) > 0

    drawn = overlay_image(image, [ObjectLabel(1, mask)], tags=False)

    assert (drawn[~near] == image[~near]).all()
    assert (drawn[mask] != image[mask]).any(axis=1).mean() > 0.9


def test_the_picture_that_was_given_stays_as_it_is(image, mask):
    before = image.copy()

    overlay_image(image, [ObjectLabel(1, mask, (10, 10, 50, 50), 0.5)])
    draw_boxes(image, {1: (10, 10, 50, 50)})

    assert (image == before).all()


def test_the_mask_is_drawn_in_the_colour_of_its_object(mask):
    grey = np.full((90, 120, 3), 128, np.uint8)

    for object_id in (1, 2, 7, 300):
        middle = overlay_image(grey, [ObjectLabel(object_id, mask)], tags=False)[45, 60].astype(int)
        towards = np.sign(np.array(object_color(object_id)) - 128)
        assert (np.sign(middle - 128) == towards).all()


def test_the_first_hundred_objects_have_different_colours():
    colors = [object_color(object_id) for object_id in range(1, 101)]

    assert len(set(colors)) == 100


def test_the_first_ten_colours_are_far_apart():
    for one, other in itertools.combinations([object_color(object_id) for object_id in range(1, 11)], 2):
        assert np.abs(np.subtract(one, other)).sum() > 60


def test_of_two_objects_the_later_one_is_on_top(mask):
    grey = np.full((90, 120, 3), 128, np.uint8)
    one, two = ObjectLabel(1, mask), ObjectLabel(2, mask)

    blue_on_top = overlay_image(grey, [two, one], tags=False)[45, 60]
    red_on_top = overlay_image(grey, [one, two], tags=False)[45, 60]

    assert blue_on_top[2] > blue_on_top[0]
    assert red_on_top[0] > red_on_top[2]


@given(st.lists(st.floats(-500, 500), min_size=4, max_size=4), st.integers(1, 70), st.integers(1, 70))
def test_a_box_that_sticks_out_is_drawn_at_the_edge(sides, height, width):
    box = (min(sides[0], sides[2]), min(sides[1], sides[3]), max(sides[0], sides[2]), max(sides[1], sides[3]))

    drawn = draw_boxes(np.zeros((height, width, 3), np.uint8), {1: box})

    assert drawn.shape == (height, width, 3)
    assert drawn.any()


def test_a_box_is_drawn_on_the_last_pixels_it_covers():
    drawn = draw_boxes(np.full((60, 60, 3), 200, np.uint8), {1: (20, 20, 40, 40)}, tags=False)

    inner = (drawn == object_color(1)).all(axis=2)
    assert inner[20, 20]
    assert inner[39, 39]
    assert not inner[45:, :].any()


def test_a_score_is_written_beside_the_id(image, mask):
    without = overlay_image(image, [ObjectLabel(1, mask)])
    with_score = overlay_image(image, [ObjectLabel(1, mask, score=0.25)])

    assert (without != with_score).any()
    assert text_tag("1  0.25", 12).shape[1] > text_tag("1", 12).shape[1]


def test_an_absent_object_leaves_the_picture_alone(image):
    nothing = np.zeros((90, 120), np.bool_)

    assert (overlay_image(image, [ObjectLabel(1), ObjectLabel(2, nothing)]) == image).all()


def test_a_mask_of_another_size_is_refused(image):
    with pytest.raises(ShapeError, match=r"expected the picture's \(90, 120\)"):
        overlay_image(image, [ObjectLabel(1, np.ones((10, 10), np.bool_))])


def test_a_grey_picture_is_refused():
    with pytest.raises(ShapeError, match="expected RGB"):
        overlay_image(np.zeros((10, 10), np.uint8), [])


def test_pictures_are_shrunk_and_never_grown_to_a_longest_side():
    assert fit_scale(480, 854, 427) == 0.5
    assert fit_scale(48, 85, 427) == 1
    assert fit_scale(4800, 8540, None) == 1
    assert resize_image(np.zeros((100, 200, 3), np.uint8), 50, 100).shape == (50, 100, 3)
