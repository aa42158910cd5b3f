"""The engine `stcn` with the compact network: an untrained one, which follows the flow, and the packaged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rayvos.engines.registry import load_engine
from rayvos.engines.stcn.engine import StcnConfig, StcnEngine
from rayvos.errors import WeightsError
from rayvos.models.registry import build_model, load_model, packaged_weights
from rayvos.models.stcn_compact import CompactStcn
from tests.engines.stcn_clips import HEIGHT, WIDTH, Images, make_clip, make_pictures, patch_at, still

NUM_FRAMES = 7


@pytest.fixture
def make_untrained(monkeypatch):
    torch.manual_seed(0)
    network = CompactStcn().eval()
    monkeypatch.setattr("rayvos.engines.stcn.engine.load_stcn", lambda _: (network, "digest"))
    return lambda **options: StcnEngine(StcnConfig(**options), weights="untrained", device="cpu")


def label(engine, clip, frames=None):
    pictures = make_pictures(clip.num_frames)
    found = engine.label(clip, Images(pictures), range(clip.num_frames) if frames is None else frames)
    return {(item.frame, item.object_id): item for item in found}


def iou(mask, truth) -> float:
    return 0.0 if mask is None else (mask & truth).sum() / (mask | truth).sum()


def clip_of(masks):
    return make_clip(masks, NUM_FRAMES, HEIGHT, WIDTH)


@pytest.mark.parametrize("start", [0, NUM_FRAMES - 1])
def test_an_untrained_network_carries_the_mask_on_by_the_flow_both_ways(make_untrained, start):
    found = label(make_untrained(), clip_of({(start, 1): patch_at(start)}))

    for frame in range(NUM_FRAMES):
        assert iou(found[frame, 1].mask, patch_at(frame)) > 0.8


def test_objects_may_appear_late_and_do_not_overlap(make_untrained):
    found = label(make_untrained(direction="forward"), clip_of({(0, 1): patch_at(0), (3, 2): still()}))

    assert found[2, 2].mask is None
    for frame in range(4, NUM_FRAMES):
        first, second = found[frame, 1].mask, found[frame, 2].mask
        assert not (first & second).any()


def test_some_frames_have_the_labels_that_all_of_them_have(make_untrained):
    engine = make_untrained(memory_every=2, max_memory_frames=2)
    clip = clip_of({(1, 1): patch_at(1), (5, 1): patch_at(5), (3, 2): still()})
    whole = label(engine, clip)

    for frames in (range(0, 3), range(3, NUM_FRAMES)):
        for place, found in label(engine, clip, frames).items():
            assert found.score == whole[place].score
            assert (found.mask is None) == (whole[place].mask is None)
            assert found.mask is None or np.array_equal(found.mask, whole[place].mask)


def test_the_order_of_objects_changes_nothing(make_untrained):
    masks = {1: patch_at(0), 2: still()}
    plain = label(make_untrained(), clip_of({(0, i): mask for i, mask in masks.items()}))
    swapped = label(make_untrained(), clip_of({(0, 3 - i): mask for i, mask in masks.items()}))

    for (frame, object_id), found in plain.items():
        assert (found.mask ^ swapped[frame, 3 - object_id].mask).mean() < 1e-3


def test_an_object_that_leaves_and_a_frame_without_texture_give_finite_scores(make_untrained):
    clip = clip_of({(0, 1): patch_at(0)})
    blank = np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    found = list(make_untrained().label(clip, Images(blank), range(NUM_FRAMES)))
    assert all(item.score is None or 0 <= item.score <= 1 for item in found)


def test_a_model_of_a_newer_version_is_refused():
    with pytest.raises(WeightsError, match="unknown model keys depth"):
        build_model("stcn_compact", {"depth": 2})


def test_the_packaged_weights_need_no_download_and_say_what_they_are():
    engine = load_engine("stcn", device="cpu")
    _, info = load_model("stcn_compact")

    assert engine.weights == info.digest
    assert info.architecture == "stcn_compact"
    assert info.training
    assert info.metrics
    assert "generated" in info.licence
    assert Path(packaged_weights()["stcn_compact"]).stat().st_size <= 7 << 20


def test_the_packaged_weights_follow_a_moving_object():
    found = label(load_engine("stcn", device="cpu"), clip_of({(0, 1): patch_at(0)}))
    assert np.mean([iou(found[frame, 1].mask, patch_at(frame)) for frame in range(1, NUM_FRAMES)]) > 0.8


@pytest.mark.parametrize("size", [(1, 1), (9, 20), (16, 16)])
def test_tiny_frames_have_labels(make_untrained, size):
    clip = make_clip({(0, 1): np.ones(size, bool)}, 3, *size)
    found = list(make_untrained().label(clip, Images(np.zeros((3, *size, 3), np.uint8)), range(3)))
    assert [item.frame for item in found] == [0, 1, 2]
