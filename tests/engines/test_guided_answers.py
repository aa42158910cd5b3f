import numpy as np

from rayvos.engines.base import Label
from rayvos.engines.cut.crop_cuts import Crop
from rayvos.engines.cut.frame_flows import FrameFlows
from rayvos.engines.guided.answers import AnsweredFrame, KeptAnswers, best_masks
from rayvos.engines.guided.network import Found
from rayvos.engines.stcn.spool import ProbabilitySpool

CROP = Crop(pixels=(1, 1, 3, 3), area=(0, 0, 4, 4), inner=(1, 1, 3, 3), size=(4, 4))
IMAGE = np.zeros((4, 4, 3), np.uint8)


def label(frame, object_id, score, pixels=4):
    mask = np.zeros((4, 4), bool)
    mask.flat[:pixels] = True
    return Label(frame, object_id, mask, score)


def test_the_best_mask_of_each_third_of_an_objects_own_frames_is_chosen():
    frames = [10, 11, 12, 20, 21, 22]
    scores = [0.2, 0.9, 0.5, 0.5, 0.1, 0.3]
    labels = [label(frame, 2, score) for frame, score in zip(frames, scores, strict=True)]

    found = best_masks(labels, lambda object_id: frames if object_id == 2 else [])

    assert [(mask.object_id, mask.frame) for mask in found] == [(2, 11), (2, 12), (2, 22)]
    assert all(mask.machine_made for mask in found)


def test_absent_objects_and_empty_masks_are_no_anchors():
    labels = [Label(0, 1, None), label(1, 1, 0.9, pixels=0), label(2, 1, 0.4), label(0, 2, 0.9, pixels=0)]

    found = best_masks(labels, lambda object_id: [1, 2] if object_id == 1 else [0])

    assert [(mask.object_id, mask.frame) for mask in found] == [(1, 2)]


def test_kept_answers_come_back_as_they_were():
    generator = np.random.default_rng(0)
    frames = {
        3: {1: Found(generator.random((4, 4), np.float32), 0.5, CROP), 7: Found(np.eye(4, dtype="f"), 0.25, CROP)},
        5: {},
    }
    answers = [
        (frame, AnsweredFrame(IMAGE, {}, found, dict.fromkeys(found, 0.5), {}, 1.0)) for frame, found in frames.items()
    ]

    with ProbabilitySpool() as spool:
        kept = KeptAnswers(spool)
        assert [frame for frame, _ in kept.keep(answers)] == [3, 5]
        for frame, found in frames.items():
            again = kept.on(FrameFlows(frame, IMAGE, {}, 1.0), {})
            assert again.found.keys() == found.keys() == again.fits.keys()
            for object_id, expected in found.items():
                assert np.abs(again.found[object_id].probability - expected.probability).max() < 1e-5
                assert again.found[object_id].quality == expected.quality
                assert again.found[object_id].crop == expected.crop
