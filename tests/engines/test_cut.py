"""The vote of colour and motion cuts on small clips in memory, and (slow) on the real ones."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.engines.base import Engine
from rayvos.engines.cut.engine import CutConfig, CutEngine
from rayvos.errors import UsageError
from rayvos.evaluation.jaccard import jaccard
from rayvos.masks.boxes import mask_to_box, round_box
from rayvos.masks.components import drop_specks
from tests.engines.memory_images import Images

HEIGHT, WIDTH, NUM_FRAMES = 72, 96, 14
REAL_CLIPS = Path(os.environ.get("RAYVOS_REAL_CLIPS", Path(__file__).parents[2] / "../shared/data/real_clips"))


class CountedImages(Images):
    """Frames in memory; remembers how many were alive at once."""

    def __init__(self, images):
        super().__init__(images)
        self.most_alive = 0
        self._alive = []

    def read(self, frames):
        for frame, image in super().read(frames):
            self._alive = [reference for reference in self._alive if reference() is not None]
            self._alive.append(weakref.ref(image))
            self.most_alive = max(self.most_alive, len(self._alive))
            yield frame, image
            del image


def texture(seed, height, width):
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def disc(frame, speed=2):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (x - 30 - speed * frame) ** 2 / 18**2 + (y - 36) ** 2 / 14**2 <= 1


def camouflage(num_frames=NUM_FRAMES, speed=2):
    """A disc of the background's own texture that moves: colour says nothing, motion everything."""
    background, surface = texture(1, HEIGHT, WIDTH), texture(2, HEIGHT, WIDTH * 2)
    images, masks = [], []
    for frame in range(num_frames):
        mask = disc(frame, speed)
        moved = np.roll(surface, speed * frame, axis=1)[:, :WIDTH]
        images.append(np.where(mask[..., None], moved, background))
        masks.append(mask)
    return np.array(images), np.array(masks)


def make_clip(boxes, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, masks=()):
    objects = tuple(ObjectInfo(object_id) for object_id in sorted({box.object_id for box in boxes} or {1}))
    source = ClipSource("images", "memory")
    return Clip("c", source, height, width, num_frames, objects=objects, boxes=tuple(boxes), masks=tuple(masks))


def tight_boxes(masks, object_id=1):
    return [Box(object_id, frame, *map(float, mask_to_box(mask))) for frame, mask in enumerate(masks)]


def label(clip, images, frames=None, **options):
    reader = images if isinstance(images, Images) else Images(images)
    engine = CutEngine(CutConfig(**options))
    return list(engine.label(clip, reader, range(clip.num_frames) if frames is None else frames))


def content(labels):
    return [
        (found.frame, found.object_id, None if found.mask is None else found.mask.tobytes(), found.score, found.quality)
        for found in labels
    ]


def two_objects():
    """Object 1 all the time; object 2 absent by statement on frame 3, by silence from frame 9 on."""
    _, masks = camouflage()
    second = [Box(2, frame, 50, 10, 80.5, 40, visible=frame != 3) for frame in range(9)]
    return make_clip([*tight_boxes(masks), *second])


def test_every_frame_and_object_has_a_label_and_absence_is_explicit():
    labels = label(two_objects(), camouflage()[0])

    assert isinstance(CutEngine(), Engine)
    expected = list(itertools.product(range(NUM_FRAMES), (1, 2)))
    assert [(found.frame, found.object_id) for found in labels] == expected
    absent = [(found.frame, found.object_id) for found in labels if found.mask is None]
    assert absent == [(3, 2), *((frame, 2) for frame in range(9, NUM_FRAMES))]
    for found in labels:
        if found.mask is None:
            assert found.score is None
        else:
            assert found.mask.any()
            assert 0 <= found.score <= 1
            assert all(np.isfinite(value) for value in found.quality.values())


def test_motion_finds_what_has_the_colours_of_its_background():
    images, masks = camouflage()
    clip = make_clip(tight_boxes(masks))

    both = np.mean([jaccard(masks[found.frame], found.mask) for found in label(clip, images)])
    cut_fits = [found.quality["cut_fit"] for found in label(clip, images, cues="color")]

    assert both > 0.85
    assert np.mean(cut_fits) < 0.7  # the cut on colour alone is not believed here


@pytest.mark.parametrize("cues", ["color", "color+motion"])
def test_an_object_of_its_own_colour_is_cut_out(cues):
    crescent = disc(5) & ~disc(0)
    image = texture(1, HEIGHT, WIDTH) // 3
    image[crescent] = (220, 160, 40)
    boxes = [Box(1, 0, *map(float, mask_to_box(crescent)))]

    (found,) = label(make_clip(boxes, 1), image[None], cues=cues)

    assert jaccard(crescent, found.mask) > 0.95


@pytest.mark.parametrize("cues", ["color", "color+motion"])
def test_labels_do_not_depend_on_how_frames_were_divided(cues):
    images, clip = camouflage()[0], two_objects()
    whole = content(label(clip, images, cues=cues))

    parts = []
    for frames in (range(0, 1), range(1, 6), range(6, 7), range(7, 14)):
        reader = CountedImages(images)
        parts += content(label(clip, reader, frames, cues=cues))
        halo = CutEngine(CutConfig(cues=cues)).needs().halo
        assert min(reader.asked) >= frames.start - halo
        assert max(reader.asked) < frames.stop + halo

    assert parts == whole


def test_labels_do_not_depend_on_threads_or_random_state():
    images, clip = camouflage(6)[0], make_clip(tight_boxes(camouflage(6)[1]), 6)
    expected = content(label(clip, images))
    found = []

    def work():
        cv2.setRNGSeed(77)
        np.random.seed(5)
        found.append(content(label(clip, images)))

    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cv2.setNumThreads(before)

    assert found == [expected, expected]


def test_a_mask_prompt_is_never_looked_at():
    images, masks = camouflage(4)
    boxes = tight_boxes(masks)
    from rayvos.masks.rle import mask_to_rle

    prompt = MaskPrompt(1, 1, mask_to_rle(np.ones((HEIGHT, WIDTH), bool)))

    assert content(label(make_clip(boxes, 4, masks=[prompt]), images)) == content(label(make_clip(boxes, 4), images))


def test_memory_stays_bounded_however_long_a_clip_is():
    most = []
    for num_frames in (20, 40):
        images = np.resize(camouflage(10, speed=1)[0], (num_frames, HEIGHT, WIDTH, 3))
        reader = CountedImages(images)
        boxes = [Box(1, frame, 20, 20, 50, 50) for frame in range(num_frames)]
        for _ in CutEngine(CutConfig(max_side=32)).label(make_clip(boxes, num_frames), reader, range(num_frames)):
            pass
        most.append(reader.most_alive)

    assert most[0] == most[1] <= 2 * CutEngine().needs().halo


def test_only_pictures_near_boxes_are_read():
    images = np.resize(camouflage(10)[0], (30, HEIGHT, WIDTH, 3))
    reader = Images(images)

    labels = label(make_clip([Box(1, 15, 20, 20, 50, 50)], 30), reader)

    assert reader.asked == [11, 14, 15, 16, 19]
    assert [found.frame for found in labels if found.mask is not None] == [15]


def test_colour_alone_reads_only_frames_with_boxes():
    reader = Images(camouflage()[0])

    label(make_clip([Box(1, 3, 20, 20, 50, 50), Box(1, 9, 20, 20, 50, 50)]), reader, cues="color")

    assert reader.asked == [3, 9]


@pytest.mark.parametrize("num_frames", [1, 3, 9])
def test_clips_that_stand_still_have_masks(num_frames):
    images = np.repeat(camouflage(1)[0], num_frames, axis=0)
    boxes = [Box(1, frame, 12.0, 22, 49, 51) for frame in range(num_frames)]

    labels = label(make_clip(boxes, num_frames), images)

    assert len({found.mask.tobytes() for found in labels}) == 1
    assert labels[0].mask.any()
    assert ("temporal_agreement" in labels[0].quality) == (num_frames > 1)


def test_a_box_beside_the_frame_gives_an_empty_mask_of_no_worth():
    labels = label(make_clip([Box(1, 0, 200, 10, 240, 40), Box(1, 1, 10, 10, 50, 50)], 2), camouflage(2)[0])

    assert not labels[0].mask.any()
    assert labels[0].score == 0
    assert labels[0].quality == {"box_outside": 1}
    assert labels[1].mask.any()


SIDES = st.tuples(st.floats(-40, 94), st.floats(-40, 70), st.floats(0.1, 140), st.floats(0.1, 120))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SIDES, st.sampled_from(["color", "color+motion"]), st.integers(0, 3))
def test_a_mask_fills_part_of_its_box_only_and_holds_no_specks(sides, cues, seed):
    x, y, width, height = sides
    box = Box(1, 1, x, y, x + width, y + height)
    pixels = round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), HEIGHT, WIDTH)
    images = np.roll(camouflage(3)[0], seed * 7, axis=2)

    found = label(make_clip([box], 3), images, range(1, 2), cues=cues)[0]

    if pixels is None:
        assert not found.mask.any()
        return
    x0, y0, x1, y1 = pixels
    assert found.mask.any()
    assert not found.mask[:y0].any()
    assert not found.mask[y1:].any()
    assert not found.mask[:, :x0].any()
    assert not found.mask[:, x1:].any()
    np.testing.assert_array_equal(drop_specks(found.mask), found.mask)


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (12, 12), (40, 9)])
def test_pictures_without_any_contrast_and_tiny_ones_have_masks(value, size):
    images = np.full((3, *size, 3), value, np.uint8)
    boxes = [Box(1, frame, 0.2 * size[1], 0.2 * size[0], 0.9 * size[1], 0.9 * size[0]) for frame in range(3)]

    for found in label(make_clip(boxes, 3, *size), images):
        assert found.mask.any()


def test_a_clip_without_boxes_reads_nothing():
    reader = Images(camouflage(3)[0])

    labels = label(make_clip([], 3), reader)

    assert [found.mask for found in labels] == [None] * 3
    assert reader.asked == []


def test_options_name_everything_with_defaults_filled_in():
    assert CutEngine().options() == {
        "cues": "color+motion", "max_side": 128, "iterations": 2, "margin": 0.25, "partners": [1, 4]
    }  # fmt: skip
    assert CutEngine(CutConfig(cues="color")).options()["max_side"] == 256


@pytest.mark.parametrize(
    "options",
    [{"cues": "colour"}, {"max_side": 4}, {"iterations": 0}, {"margin": 0.0}, {"partners": ()}, {"partners": (0,)}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        CutConfig(**options)


def test_masks_of_a_clear_object_score_higher_than_those_of_noise():
    images, masks = camouflage(7)
    noise = np.random.default_rng(0).integers(0, 255, images.shape, np.uint8)
    clip = make_clip(tight_boxes(masks), 7)

    clear = [found.score for found in label(clip, images)]
    unclear = [found.score for found in label(clip, noise)]

    assert min(clear) > max(unclear)
    assert np.mean(clear) > np.mean(unclear) + 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("cues", "least"), [("color", 0.57), ("color+motion", 0.64)])
def test_masks_of_the_real_clips_are_as_good_as_measured(cues, least):
    pictures = REAL_CLIPS / "DAVIS" / "JPEGImages" / "480p"
    if not pictures.is_dir():
        pytest.skip(f"no real clips in {REAL_CLIPS}; set RAYVOS_REAL_CLIPS")
    means = []
    for folder in sorted(pictures.iterdir()):
        images = np.array([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.glob("*.jpg"))])
        truth_folder = REAL_CLIPS / "DAVIS" / "Annotations" / "480p" / folder.name
        masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 0 for path in sorted(truth_folder.glob("*.png"))]
        boxes = [Box(1, frame, *map(float, mask_to_box(masks[frame]))) for frame in range(0, len(masks), 16)]
        clip = make_clip(boxes, len(images), *images.shape[1:3])
        labels = [found for found in label(clip, images, cues=cues) if found.mask is not None]
        means.append(np.mean([jaccard(masks[found.frame], found.mask) for found in labels]))

    assert len(means) == 7
    assert np.mean(means) >= least
