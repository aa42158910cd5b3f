"""The probabilities of the engine `stcn` agree with its labels, for any frames that are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from rayvos.engines.base import Propagator
from tests.engines.stcn_clips import HEIGHT, WIDTH, Images, make_clip, make_engine, make_pictures, patch_at, still

NUM_FRAMES = 8
MASKS = {(3, 1): patch_at(3), (5, 2): still(), (0, 3): None}


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return make_pictures(NUM_FRAMES)


def probabilities(engine, pictures, frames, **more) -> dict[tuple[int, int], np.ndarray]:
    clip = make_clip(MASKS, NUM_FRAMES, HEIGHT, WIDTH)
    return {
        (found.frame, found.object_id): found.probability
        for found in engine.probabilities(clip, Images(pictures), frames)
    }


def test_the_most_probable_object_has_the_label(monkeypatch, pictures):
    engine = make_engine(monkeypatch)
    clip = make_clip(MASKS, NUM_FRAMES, HEIGHT, WIDTH)

    found = probabilities(engine, pictures, range(NUM_FRAMES))

    assert isinstance(engine, Propagator)
    assert list(found) == [(frame, object_id) for frame in range(NUM_FRAMES) for object_id in (1, 2, 3)]
    labels = {
        (label.frame, label.object_id): label.mask for label in engine.label(clip, Images(pictures), range(NUM_FRAMES))
    }
    for frame in {*range(NUM_FRAMES)} - {3, 5}:  # where a mask is given, the label is that mask
        maps = np.stack([found[frame, object_id] for object_id in (1, 2, 3)])
        assert maps.dtype == np.float32
        assert 0 <= maps.min() <= maps.max() <= 1
        winners = np.concatenate([np.clip(1 - maps.sum(0), 0, 1)[None], maps]).argmax(0)
        for object_id in (1, 2, 3):
            mask = labels[frame, object_id]
            expected = np.zeros((HEIGHT, WIDTH), bool) if mask is None else mask
            assert ((winners == object_id) == expected).all()


def test_given_masks_are_certain(monkeypatch, pictures):
    found = probabilities(make_engine(monkeypatch), pictures, [3, 5])

    assert (found[3, 1] == patch_at(3)).all()
    assert (found[5, 2] == still()).all()


def test_which_frames_are_asked_for_changes_no_map(monkeypatch, pictures):
    engine = make_engine(monkeypatch)

    few, all_of_them = (probabilities(engine, pictures, frames) for frames in ([1, 6], range(NUM_FRAMES)))

    assert {frame for frame, _ in few} == {1, 6}
    for key, probability in few.items():
        assert (probability == all_of_them[key]).all()
