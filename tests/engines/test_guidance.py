import cv2
import numpy as np
import pytest

from rayvos.engines.guided.guidance import UNIT, Prompt, guidance_planes, paste_crop, prompt_region
from rayvos.engines.motion import dense_flow, flow_picture
from rayvos.errors import InputError
from rayvos.models.guided import PLANES

HEIGHT, WIDTH, SIZE = 72, 96, 64


def texture(seed, height=HEIGHT, width=WIDTH):
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def disc(shift=0):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (x - 48 - shift) ** 2 / 18**2 + (y - 36) ** 2 / 14**2 <= 1


def picture(shift=0):
    surface = np.roll(texture(2), shift, axis=1)
    return np.where(disc(shift)[..., None], surface, texture(1))


def flows():
    grey, scale = flow_picture(picture())
    return {offset: dense_flow(grey, flow_picture(picture(2 * offset))[0]) for offset in (-1, 1)}, scale


BOX = np.array([30, 22, 67, 51], np.float32)
DRAWN = {
    "box": Prompt(box=BOX),
    "points": Prompt(
        positives=np.array([[40.0, 30.0], [50.0, 40.0], [55.0, 33.0]]), negatives=np.array([[27.0, 24.0]])
    ),
    "lone point": Prompt(positives=np.array([[48.0, 36.0]])),
    "trace": Prompt(trace=(np.array([[40.0, 30.0], [56.0, 42.0]]),)),
    "previous": Prompt(previous=disc(3).astype(np.float32)),
}


def plane(guidance, name):
    return guidance.planes[PLANES.index(name)]


def test_planes_are_the_same_on_every_call():
    moving, scale = flows()

    first, second = (guidance_planes(picture(), DRAWN["box"], moving, scale, SIZE) for _ in range(2))

    assert first.planes.dtype == np.int8
    assert first.planes.shape == (len(PLANES), SIZE, SIZE)
    assert first.planes.tobytes() == second.planes.tobytes()


def test_motion_planes_are_zero_without_partner_frames():
    guidance = guidance_planes(picture(), DRAWN["box"], {}, 1.0, SIZE)

    for name in PLANES:
        if name[-2:] in ("_x", "_y") or name in ("motion_cuts", "mixed_cuts"):
            assert not plane(guidance, name).any(), name
    assert plane(guidance, "vote").any()


def test_what_moves_by_itself_shows_in_the_motion_planes():
    moving, scale = flows()
    guidance = guidance_planes(picture(), DRAWN["box"], moving, scale, SIZE)
    truth = disc()[
        slice(guidance.crop.area[1], guidance.crop.area[3]), slice(guidance.crop.area[0], guidance.crop.area[2])
    ]
    inside = cv2.resize(truth.astype(np.uint8), (SIZE, SIZE)).astype(bool)

    after = plane(guidance, "near_after_x").astype(float)

    assert after[inside].mean() > 0.5 * UNIT
    assert abs(after[~inside]).mean() < 0.5 * after[inside].mean()
    assert not plane(guidance, "far_after_x").any()


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("box", {"box"}),
        ("points", {"positives", "negatives"}),
        ("lone point", {"positives"}),
        ("trace", {"trace"}),
        ("previous", {"previous"}),
    ],
)
def test_each_kind_of_prompt_has_its_planes_and_no_others(kind, shown):
    guidance = guidance_planes(picture(), DRAWN[kind], {}, 1.0, SIZE)

    for name in ("box", "positives", "negatives", "trace", "previous"):
        assert plane(guidance, name).any() == (name in shown), name
    assert plane(guidance, "region").any()


@pytest.mark.parametrize("kind", DRAWN)
def test_the_object_lies_in_the_crop_of_every_kind_of_prompt(kind):
    x0, y0, x1, y1 = guidance_planes(picture(), DRAWN[kind], {}, 1.0, SIZE).crop.area

    assert disc()[y0:y1, x0:x1].sum() > 0.9 * disc().sum()


def test_a_disc_is_drawn_where_its_point_is():
    guidance = guidance_planes(picture(), Prompt(box=BOX, positives=np.array([[40.0, 30.0]])), {}, 1.0, SIZE)

    drawn = paste_crop((plane(guidance, "positives") > 0).astype(np.float32), guidance.crop, HEIGHT, WIDTH)
    y, x = np.nonzero(drawn > 0.5)

    assert abs(x.mean() - 40) < 0.6
    assert abs(y.mean() - 30) < 0.6


@pytest.mark.parametrize("box", [[-50, 0, -10, 40], [96, 10, 120, 30], [10, 72, 30, 90]])
def test_a_box_outside_the_frame_has_no_planes(box):
    assert guidance_planes(picture(), Prompt(box=np.array(box, np.float32)), {}, 1.0, SIZE) is None


def test_a_trace_outside_the_frame_has_no_planes():
    assert prompt_region(Prompt(trace=(np.array([[-50.0, -50.0]]),)), HEIGHT, WIDTH) is None


@pytest.mark.parametrize("box", [[0, 0, 96, 72], [10, 10, 11, 11], [40, 0, 44, 72], [-20, -20, 5, 5]])
def test_boxes_of_any_size_have_planes(box):
    moving, scale = flows()

    guidance = guidance_planes(picture(), Prompt(box=np.array(box, np.float32)), moving, scale, SIZE)

    assert plane(guidance, "region").any()


@pytest.mark.parametrize(
    "prompt",
    [Prompt(), Prompt(negatives=np.array([[3.0, 3.0]])), Prompt(previous=np.zeros((HEIGHT, WIDTH), np.float32))],
)
def test_a_prompt_that_says_nothing_of_the_place_is_refused(prompt):
    with pytest.raises(InputError, match="expected a box"):
        prompt_region(prompt, HEIGHT, WIDTH)
