from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.engines.box2seg.engine import Box2SegConfig, Box2SegEngine
from rayvos.engines.finetune import gamma_curve, object_generator, tuning_masks
from rayvos.engines.labeling import label_clip
from rayvos.errors import UsageError
from rayvos.masks.rle import mask_to_rle
from rayvos.models.registry import build_model
from rayvos.models.weights import save_weights
from tests.engines.memory_images import Images

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, HEIGHT, WIDTH, NUM_FRAMES = 65, 60, 90, 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    model = {"backbone": "tiny", "size": SIZE, "margin": "abs:12"}
    path = str(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    save_weights(path, build_model("box2seg", model).state_dict(), architecture="box2seg", model=model)
    return path


def pictures():
    """Return frames of a red disc and a green square that move, on grey noise."""
    images = np.random.default_rng(0).integers(90, 120, (NUM_FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8)
    for frame, image in enumerate(images):
        image[disc(frame)] = (220, 40, 40)
        image[square(frame)] = (40, 220, 40)
    return images


def disc(frame):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y - 25) ** 2 + (x - 20 - 2 * frame) ** 2 <= 100


def square(frame):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[30:48, 60 - frame : 78 - frame] = True
    return mask


def make_clip(masks):
    """Return a clip of both objects, boxed on all frames, with masks given as (object_id, frame)."""
    boxes = []
    for frame in range(NUM_FRAMES):
        boxes.append(Box(1, frame, 10 + 2 * frame, 15, 31 + 2 * frame, 36))
        boxes.append(Box(2, frame, 60 - frame, 30, 78 - frame, 48))
    given = tuple(
        MaskPrompt(object_id, frame, mask_to_rle((disc if object_id == 1 else square)(frame)))
        for object_id, frame in masks
    )
    return Clip("a", ClipSource("images", "a"), HEIGHT, WIDTH, NUM_FRAMES,
                objects=(ObjectInfo(1), ObjectInfo(2)), boxes=tuple(boxes), masks=given)  # fmt: skip


def make_engine(weights, **options):
    config = {"finetune": "all", "finetune_steps": 3, "finetune_rate": 1e-2, **options}
    return Box2SegEngine(Box2SegConfig(**config), weights=weights, device="cpu")


def masks_of(engine, clip, object_id):
    labels = engine.label(clip, Images(pictures()), range(NUM_FRAMES))
    return np.stack([label.mask for label in labels if label.object_id == object_id])


def certainties_of(engine, clip, object_id):
    """Return the mean margin of each label: it shows the last bit of the probabilities."""
    labels = engine.label(clip, Images(pictures()), range(NUM_FRAMES))
    return [label.quality["margin"] for label in labels if label.object_id == object_id]


def test_an_objects_labels_do_not_depend_on_whether_others_are_tuned(weights):
    alone = certainties_of(make_engine(weights), make_clip([(1, 2)]), 1)
    beside = certainties_of(make_engine(weights), make_clip([(1, 2), (2, 0), (2, 3)]), 1)
    batched = certainties_of(make_engine(weights, batch_size=1), make_clip([(2, 3), (1, 2)]), 1)

    untouched = certainties_of(make_engine(weights), make_clip([(2, 2)]), 1)
    base = certainties_of(make_engine(weights, finetune="none"), make_clip([(1, 2)]), 1)
    assert alone == beside
    assert alone == batched
    assert untouched == base
    assert alone != base


def test_the_same_engine_labels_the_same_clip_alike_twice(weights):
    engine, clip = make_engine(weights), make_clip([(1, 2), (2, 2)])

    first, second = certainties_of(engine, clip, 1), certainties_of(engine, clip, 1)

    assert first == second  # the base weights were left alone


def test_tuning_on_one_mask_mends_the_other_frames(weights):
    clip = make_clip([(1, 2)])
    steps = {"finetune_steps": 60, "finetune_rate": 2e-3}

    found = masks_of(make_engine(weights, **steps), clip, 1)

    truth = np.stack([disc(frame) for frame in range(NUM_FRAMES)])
    ious = (found & truth).sum(axis=(1, 2)) / (found | truth).sum(axis=(1, 2))
    assert ious.min() > 0.8


def test_a_persons_mask_stays_as_it_is_on_its_frame(weights):
    clip = make_clip([(1, 2)])

    table = label_clip(make_engine(weights, finetune_steps=2), clip, images=Images(pictures()))

    row = next(row for row in table.to_pylist() if (row["frame"], row["object_id"]) == (2, 1))
    assert row["rle"] == mask_to_rle(disc(2))
    assert row["provenance"] == "human"


def test_the_chosen_masks_are_those_asked_for():
    clip = make_clip([(1, 4), (1, 0), (1, 3), (2, 1)])
    machine = MaskPrompt(2, 2, mask_to_rle(square(2)), machine_made=True)
    clip = dataclasses.replace(clip, masks=(*clip.masks, machine, MaskPrompt(2, 3, None)))

    assert [mask.frame for mask in tuning_masks(clip, 1, "all")] == [0, 3, 4]
    assert [mask.frame for mask in tuning_masks(clip, 1, "first")] == [0]
    assert [mask.frame for mask in tuning_masks(clip, 1, "middle")] == [3]  # the object is seen on 0…4
    assert [mask.frame for mask in tuning_masks(clip, 2, "all")] == [1]  # a person's, not a program's
    assert tuning_masks(clip, 1, "none") == []


def test_a_tuned_clip_is_not_split_and_costs_more(weights):
    plain, tuned = make_engine(weights, finetune="none").needs(), make_engine(weights, finetune_steps=300).needs()

    assert (plain.halo, tuned.halo) == (0, None)
    assert tuned.seconds_per_masked_object > 60 > plain.seconds_per_masked_object
    assert make_engine(weights, finetune="none", seed=3).options() == make_engine(weights, finetune="none").options()
    assert make_engine(weights, seed=3).options() != make_engine(weights).options()
    with pytest.raises(UsageError, match="finetune_steps 0"):
        Box2SegConfig(finetune_steps=0)


def test_gamma_keeps_black_and_white_and_the_order_of_grey():
    for object_id in range(20):
        curve = gamma_curve(object_generator(0, "a", object_id)).astype(int)
        assert (curve[0], curve[255]) == (0, 255)
        assert (np.diff(curve) >= 0).all()
        assert 255 * 0.5**1.23 - 1 <= curve[128] <= 255 * 0.51**0.81 + 1
