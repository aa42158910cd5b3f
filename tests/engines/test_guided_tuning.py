from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rayvos.annotations.records import Box, MaskPrompt
from rayvos.engines.finetune import object_generator
from rayvos.engines.guided.engine import GuidedConfig, GuidedEngine
from rayvos.engines.guided.tuning import GuidedSamples, MaskCrop, mirror_planes, relight_planes
from rayvos.masks.rle import mask_to_rle
from rayvos.models.guided import PLANES
from tests.engines.test_guided import Images, disc, make_clip, pictures, tight_boxes
from tests.engines.test_guided import weights as weights

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_FRAMES = 6


def clip_of(masks):
    """Return a clip of a moving disc and a still part of the background, with masks given as (object_id, frame)."""
    boxes = (*tight_boxes(NUM_FRAMES), *(Box(2, frame, 60, 4, 84, 24) for frame in range(NUM_FRAMES)))
    still = np.zeros(disc(0).shape, bool)
    still[6:20, 62:80] = True
    given = tuple(MaskPrompt(o, f, mask_to_rle(disc(f) if o == 1 else still)) for o, f in masks)
    return make_clip(NUM_FRAMES, num_objects=2, boxes=boxes, masks=given)


def labels_of(weights, clip, object_id, **options):
    config = {"finetune": "all", "finetune_steps": 3, "finetune_rate": 3e-3, "neighbours": False, **options}
    engine = GuidedEngine(GuidedConfig(**config), weights=weights, device="cpu")
    found = engine.label(clip, Images(pictures(NUM_FRAMES)), range(NUM_FRAMES))
    return [(label.score, label.quality, label.mask.tobytes()) for label in found if label.object_id == object_id]


def mean_iou(labels):
    pairs = [(np.frombuffer(mask, bool).reshape(disc(0).shape), disc(f)) for f, (_, _, mask) in enumerate(labels)]
    return np.mean([(found & truth).sum() / (found | truth).sum() for found, truth in pairs])


def test_an_objects_labels_do_not_depend_on_whether_others_are_tuned(weights):
    alone = labels_of(weights, clip_of([(1, 2)]), 1)
    beside = labels_of(weights, clip_of([(2, 4), (1, 2), (2, 0)]), 1)

    untouched = labels_of(weights, clip_of([(2, 2)]), 1)
    base = labels_of(weights, clip_of([(1, 2)]), 1, finetune="none")
    assert alone == beside
    assert untouched == base
    assert alone != base


def test_tuning_on_one_mask_mends_the_other_frames(weights):
    clip = clip_of([(1, 2)])

    found = labels_of(weights, clip, 1, finetune_steps=120, finetune_rate=5e-3)

    base = labels_of(weights, clip, 1, finetune="none")
    assert mean_iou(found) > mean_iou(base) + 0.2
    assert mean_iou(found) > 0.6


def test_masks_propagated_through_the_clip_vote(weights):
    clip = clip_of([(1, 2)])

    alone = labels_of(weights, clip, 1, finetune_propagate=False)
    both = labels_of(weights, clip, 1)

    assert alone != both
    assert mean_iou(both) > mean_iou(alone)


def test_a_tuned_clip_is_not_split_and_its_options_are_remembered(weights):
    plain = GuidedEngine(GuidedConfig(seed=3), weights=weights, device="cpu")
    tuned = GuidedEngine(GuidedConfig(finetune="middle", seed=3), weights=weights, device="cpu")

    assert "seed" not in plain.options()
    assert tuned.options()["finetune"] == "middle"
    assert len(tuned.options()["propagator"]) == 64
    assert tuned.needs().halo is None
    assert tuned.needs().seconds_per_masked_object > 0


def test_an_object_without_a_box_on_its_masks_frame_is_tuned_by_the_masks_own(weights):
    clip = clip_of([(1, 2)])
    clip = replace(clip, boxes=tuple(box for box in clip.boxes if (box.object_id, box.frame) != (1, 2)))

    found = labels_of(weights, clip, 1)

    base = labels_of(weights, clip, 1, finetune="none")
    assert found[3] != base[3]


def test_a_mirrored_crop_mirrored_again_is_the_crop():
    planes = np.random.default_rng(0).integers(-127, 128, (len(PLANES), 8, 8)).astype(np.int8)

    once = mirror_planes(planes)

    assert (mirror_planes(once) == planes).all()
    position = PLANES.index("near_after_x")
    assert (once[position] == -planes[position, :, ::-1]).all()
    assert (once[0] == planes[0, :, ::-1]).all()


def test_samples_change_light_and_sides_but_no_cue():
    planes = np.random.default_rng(0).integers(-127, 128, (len(PLANES), 8, 8)).astype(np.int8)
    truth = (planes[3] > 0).astype(np.uint8)
    draw = GuidedSamples([[MaskCrop(planes, truth)]])

    for number in range(8):
        sample = draw(0, object_generator(number, "c", 1))
        box = PLANES.index("box")
        assert ((sample.inputs_CHW[box] > 0) == (sample.truth_HW > 0)).all()
    relit = relight_planes(planes, object_generator(0, "c", 1))
    assert (relit[3:] == planes[3:]).all()
    order = np.argsort(planes[:3], axis=None, kind="stable")
    assert (np.diff(relit[:3].ravel()[order].astype(int)) >= 0).all()


def test_the_best_masks_of_an_object_are_propagated_without_anybodys_mask(weights):
    clip = clip_of([])

    plain, twice = (labels_of(weights, clip, 1, finetune="none", propagate=propagate) for propagate in (False, True))
    alone = labels_of(weights, clip.with_objects([1]), 1, finetune="none", propagate=True)

    assert len(plain) == len(twice) == NUM_FRAMES
    assert plain != twice
    assert alone == twice
    engine = GuidedEngine(GuidedConfig(propagate=True), weights=weights, device="cpu")
    assert engine.needs().halo is None
    assert engine.options().keys() - GuidedEngine(weights=weights, device="cpu").options().keys() == {
        "propagate", "propagator"
    }  # fmt: skip


def test_objects_with_a_persons_mask_are_propagated_from_it_alone(weights):
    clip = clip_of([(1, 2)])

    sharpened, both = (labels_of(weights, clip, 1, propagate=propagate) for propagate in (False, True))

    assert [mask for _, _, mask in sharpened] == [mask for _, _, mask in both]
