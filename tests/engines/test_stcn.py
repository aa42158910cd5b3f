from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rayvos.annotations.records import Box, MaskPrompt, ObjectInfo
from rayvos.engines.base import Engine
from rayvos.engines.labeling import label_clip
from rayvos.engines.stcn.engine import StcnConfig, StcnEngine
from rayvos.engines.stcn.propagation import MemoryRule, pad_to_stride, propagate, unpad
from rayvos.errors import FormatError, InputError, UsageError
from rayvos.masks.rle import mask_to_rle, rle_to_mask
from rayvos.models.stcn import DEVIATION, MEAN, STCN
from tests.engines.stcn_clips import (
    HEIGHT,
    WIDTH,
    Images,
    load_formula,
    make_clip,
    make_engine,
    make_pictures,
    patch_at,
    still,
)

NUM_FRAMES = 8


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return make_pictures(NUM_FRAMES)


def clip_of(masks, num_frames=NUM_FRAMES):
    return make_clip(masks, num_frames, HEIGHT, WIDTH)


def label(engine, clip, pictures, frames=None):
    """Return {(frame, object id): label}; the checks of `label_clip` pass, too."""
    frames = range(clip.num_frames) if frames is None else frames
    return {(found.frame, found.object_id): found for found in engine.label(clip, Images(pictures), frames)}


@torch.inference_mode()
def one_pass(pictures, masks, order) -> dict[int, np.ndarray]:
    """Return probabilities (K + 1, H, W) by frame, straight from the propagation."""
    network, _ = load_formula("formula")

    def encode(frame):
        image = (torch.from_numpy(pictures[frame]).float() / 255 - torch.tensor(MEAN)) / torch.tensor(DEVIATION)
        padded = pad_to_stride(image.permute(2, 0, 1)[None].contiguous())[0]
        return padded, network.encode_key(padded)

    padding = pad_to_stride(torch.empty(HEIGHT, WIDTH))[1]
    annotations = {
        frame: {k: pad_to_stride(torch.from_numpy(mask.astype(np.float32)))[0] for k, mask in given.items()}
        for frame, given in masks.items()
    }
    num_objects = len({k for given in masks.values() for k in given})
    found = propagate(network, encode, order, annotations, num_objects, rule=MemoryRule())
    return {frame: unpad(probability, padding).numpy() for frame, probability in found}


def test_labels_are_the_most_probable_objects_of_the_forward_pass(monkeypatch, pictures):
    clip = clip_of({(0, 1): patch_at(0), (0, 2): still()}, num_frames=4)
    truth = one_pass(pictures, {0: {0: patch_at(0), 1: still()}}, range(4))

    found = label(make_engine(monkeypatch), clip, pictures)

    for frame in range(1, 4):
        winner = truth[frame].argmax(0)
        for object_id in (1, 2):
            mask = found[frame, object_id].mask
            assert np.array_equal(np.zeros_like(still()) if mask is None else mask, winner == object_id)
    assert all(found[1, object_id].mask is not None for object_id in (1, 2))


def test_between_two_masks_both_passes_are_mixed_by_distance(monkeypatch, pictures):
    last = 6
    clip = clip_of({(0, 1): patch_at(0), (last, 1): patch_at(last)})
    masks = {0: {0: patch_at(0)}, last: {0: patch_at(last)}}
    forward, backward = one_pass(pictures, masks, range(last)), one_pass(pictures, masks, range(last, -1, -1))

    found = label(make_engine(monkeypatch), clip, pictures)

    for frame in range(1, last):
        mixed = ((last - frame) * forward[frame] + frame * backward[frame]) / last
        mask = found[frame, 1].mask
        assert ((mixed[1] > mixed[0]) != (mask if mask is not None else False)).mean() < 1e-3  # 16 bits in the spool
        if mask is not None:
            assert "agreement" in found[frame, 1].quality


def test_a_mask_in_the_middle_goes_both_ways(monkeypatch, pictures):
    clip = clip_of({(4, 1): patch_at(4)})
    backward = one_pass(pictures, {4: {0: patch_at(4)}}, range(4, -1, -1))

    found = label(make_engine(monkeypatch), clip, pictures)

    for frame in range(4):
        mask = found[frame, 1].mask
        assert np.array_equal(np.zeros_like(still()) if mask is None else mask, backward[frame].argmax(0) == 1)
    assert {frame for frame, _ in found} == set(range(NUM_FRAMES))


@pytest.mark.parametrize(("direction", "unknown"), [("forward", range(3)), ("backward", range(4, NUM_FRAMES))])
def test_an_object_is_absent_where_its_pass_does_not_know_it(monkeypatch, pictures, direction, unknown):
    clip = clip_of({(3, 1): patch_at(3)})

    found = label(make_engine(monkeypatch, direction=direction), clip, pictures)

    assert all(found[frame, 1].mask is None for frame in unknown)
    assert any(found[frame, 1].mask is not None for frame in range(NUM_FRAMES) if frame not in (3, *unknown))


def test_an_object_may_appear_late(monkeypatch, pictures):
    masks = {(0, 2): still(), (4, 1): patch_at(4)}

    found = label(make_engine(monkeypatch, direction="forward"), clip_of(masks), pictures)

    assert all(found[frame, 1].mask is None for frame in range(4))
    truth = one_pass(pictures, {0: {1: still()}, 4: {0: patch_at(4)}}, range(NUM_FRAMES))
    winner = truth[NUM_FRAMES - 1].argmax(0)
    for object_id in (1, 2):
        mask = found[NUM_FRAMES - 1, object_id].mask
        assert np.array_equal(np.zeros_like(still()) if mask is None else mask, winner == object_id)


def test_given_masks_come_back_as_they_are(monkeypatch, pictures):
    odd = patch_at(3) ^ still()
    clip = clip_of({(0, 1): patch_at(0), (3, 1): odd, (5, 1): None, (6, 1): np.zeros_like(odd)})

    found = label(make_engine(monkeypatch), clip, pictures)

    assert np.array_equal(found[3, 1].mask, odd)
    assert found[3, 1].score == 1
    assert found[5, 1].mask is None
    assert not found[6, 1].mask.any()


@pytest.mark.parametrize("direction", ["both", "forward"])
def test_some_frames_have_the_labels_that_all_of_them_have(monkeypatch, pictures, direction):
    clip = clip_of({(1, 1): patch_at(1), (5, 1): patch_at(5), (3, 2): still()})
    engine = make_engine(monkeypatch, direction=direction, memory_every=2, max_memory_frames=1)
    whole = label(engine, clip, pictures, range(7))

    parts = {}
    for frames in (range(0, 2), range(2, 7)):
        parts |= label(engine, clip, pictures, frames)

    assert parts.keys() == whole.keys()
    for place, found in whole.items():
        assert (found.mask is None) == (parts[place].mask is None)
        assert found.mask is None or np.array_equal(found.mask, parts[place].mask)
        assert (found.score, found.quality) == (parts[place].score, parts[place].quality)


def test_masks_stay_near_the_boxes_of_their_objects(monkeypatch, pictures):
    free = clip_of({(0, 1): patch_at(0), (0, 2): still()})
    boxes = (Box(1, 2, 2, 4, 22, 24), Box(2, 4, 0, 0, 0, 0, visible=False))
    boxed = replace(free, boxes=boxes)

    found, roaming = (label(make_engine(monkeypatch), clip, pictures) for clip in (boxed, free))
    unbound = label(make_engine(monkeypatch, clip_to_box=False), boxed, pictures)

    allowed = np.zeros((HEIGHT, WIDTH), bool)
    allowed[2:26, 0:24] = True  # a tenth of 20 pixels further than the box
    assert (roaming[2, 1].mask & ~allowed).any()
    assert found[2, 1].mask.any()
    assert not (found[2, 1].mask & ~allowed).any()
    assert roaming[4, 2].mask is not None
    assert found[4, 2].mask is None
    assert found[1, 1].mask.tobytes() == roaming[1, 1].mask.tobytes()
    assert all(unbound[key].score == roaming[key].score for key in roaming)


def test_frames_are_computed_only_where_they_are_needed(monkeypatch, pictures):
    clip = clip_of({(0, 1): patch_at(0)})
    images = Images(pictures)
    list(make_engine(monkeypatch).label(clip, images, range(0, 3)))
    assert images.asked == [0, 1, 2]


@pytest.mark.parametrize("antialias", [False, True])
def test_large_frames_are_scaled_down_and_their_labels_up_again(monkeypatch, antialias):
    large = make_pictures(2).repeat(2, axis=1).repeat(2, axis=2)
    mask = patch_at(0).repeat(2, axis=0).repeat(2, axis=1)
    clip = make_clip({(0, 1): mask}, 2, 2 * HEIGHT, 2 * WIDTH)

    found = label(make_engine(monkeypatch, max_size=HEIGHT, antialias=antialias), clip, large)

    assert found[1, 1].mask.shape == mask.shape
    assert (found[1, 1].mask & mask).sum() / (found[1, 1].mask | mask).sum() > 0.4


@pytest.mark.parametrize("options", [{"remember_last": True}, {"precision": "bfloat16"}])
def test_options_that_change_the_arithmetic_give_labels(monkeypatch, pictures, options):
    clip = clip_of({(0, 1): patch_at(0)})
    found = label(make_engine(monkeypatch, **options), clip, pictures)
    assert any(found[frame, 1].mask is not None for frame in range(1, NUM_FRAMES))


def test_scores_are_probabilities_and_fall_where_the_passes_disagree(monkeypatch, pictures):
    engine = make_engine(monkeypatch)
    agreeing = label(engine, clip_of({(0, 1): patch_at(0), (6, 1): patch_at(6)}), pictures)
    fighting = label(engine, clip_of({(0, 1): patch_at(0), (6, 1): still()}), pictures)

    scores = [[found[frame, 1].score or 0.0 for frame in range(1, 6)] for found in (agreeing, fighting)]
    assert all(0 <= score <= 1 for row in scores for score in row)
    assert sum(scores[1]) < sum(scores[0])


def test_settings_of_the_process_stay_as_they_were(monkeypatch, pictures):
    torch.set_num_threads(2)
    before = torch.get_num_threads(), torch.is_inference_mode_enabled()
    labels = make_engine(monkeypatch).label(clip_of({(0, 1): patch_at(0)}), Images(pictures), range(NUM_FRAMES))
    for _ in range(3):
        next(labels)
        assert (torch.get_num_threads(), torch.is_inference_mode_enabled()) == before
    labels.close()
    torch.set_num_threads(1)


def test_a_clip_of_one_frame_has_its_given_mask_and_nothing_else(monkeypatch, pictures):
    clip = clip_of({(0, 1): patch_at(0), (0, 2): np.zeros((HEIGHT, WIDTH), bool)}, num_frames=1)
    found = label(make_engine(monkeypatch), clip, pictures[:1])
    assert np.array_equal(found[0, 1].mask, patch_at(0))
    assert found[0, 2].mask is None


def test_objects_whose_masks_hold_no_pixel_are_absent_everywhere(monkeypatch, pictures):
    images = Images(pictures)
    clip = clip_of({(0, 1): np.zeros((HEIGHT, WIDTH), bool), (2, 2): None})
    found = list(make_engine(monkeypatch).label(clip, images, range(NUM_FRAMES)))
    assert len(found) == 2 * NUM_FRAMES
    assert all(item.mask is None for item in found)
    assert not images.asked


def test_a_clip_without_any_mask_is_refused(monkeypatch, pictures):
    clip = clip_of({(0, 1): None})
    bare = type(clip)(**{name: getattr(clip, name) for name in clip.__slots__} | {"masks": ()})
    with pytest.raises(InputError, match="clip 'c': expected at least one mask to propagate, found none"):
        label(make_engine(monkeypatch), bare, pictures)


def test_a_mask_of_another_size_is_refused_with_its_place(monkeypatch, pictures):
    clip = clip_of({(2, 1): np.ones((HEIGHT + 1, WIDTH), bool)})
    with pytest.raises(FormatError, match="clip 'c' frame 2 object 1"):
        label(make_engine(monkeypatch), clip, pictures)


def test_more_than_254_objects_are_refused(monkeypatch, pictures):
    masks = tuple(MaskPrompt(i, 0, mask_to_rle(still())) for i in range(1, 256))
    clip = clip_of({(0, 1): still()})
    objects = tuple(ObjectInfo(i) for i in range(1, 256))
    crowd = type(clip)(**{name: getattr(clip, name) for name in clip.__slots__} | {"masks": masks, "objects": objects})
    with pytest.raises(InputError, match="expected at most 254 objects with masks, found 255"):
        label(make_engine(monkeypatch), crowd, pictures)


@pytest.mark.slow
def test_254_objects_are_told_apart(monkeypatch):
    height, width = 64, 80
    blocks = {}
    for number in range(254):
        y, x = divmod(number, 19)
        mask = np.zeros((height, width), bool)
        mask[4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = True
        blocks[0, number + 1] = mask
    torch.manual_seed(0)
    small = STCN(width=8).eval()  # the whole network takes 254 objects 11 s of CPU
    monkeypatch.setattr("rayvos.engines.stcn.engine.load_stcn", lambda path: (small, "digest"))
    engine = StcnEngine(StcnConfig(), weights="small", device="cpu")
    found = label(engine, make_clip(blocks, 2, height, width), np.zeros((2, height, width, 3), np.uint8))
    covered = sum(found[1, i].mask.astype(int) for i in range(1, 255) if found[1, i].mask is not None)
    assert np.max(covered) <= 1


def test_both_passes_read_a_frame_once(monkeypatch, pictures):
    images = Images(pictures)
    clip = clip_of({(0, 1): patch_at(0), (6, 1): patch_at(6)})

    list(make_engine(monkeypatch).label(clip, images, range(NUM_FRAMES)))

    assert sorted(images.asked) == list(range(NUM_FRAMES))


def test_what_both_passes_share_changes_no_label(monkeypatch, pictures):
    clip = clip_of({(0, 1): patch_at(0), (6, 1): patch_at(6)})
    shared = label(make_engine(monkeypatch), clip, pictures)
    monkeypatch.setattr("rayvos.engines.stcn.engine.FEATURE_BYTES", 0)

    alone = label(make_engine(monkeypatch), clip, pictures)

    assert all(found.score == alone[place].score for place, found in shared.items())


@pytest.mark.parametrize(
    "options",
    [
        {"direction": "up"},
        {"precision": "int8"},
        {"memory_every": 0},
        {"top_k": 0},
        {"max_memory_frames": 0},
        {"threads": 0},
    ],
)
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(UsageError):
        StcnConfig(**options)


def test_the_engine_is_an_engine_with_plain_options(monkeypatch):
    engine = make_engine(monkeypatch, max_memory_frames=None)
    assert isinstance(engine, Engine)
    assert engine.options()["max_memory_frames"] is None
    assert engine.needs().halo is None


def test_the_table_of_a_clip_holds_human_masks_as_they_are(monkeypatch, pictures):
    clip = clip_of({(2, 1): patch_at(2)})
    table = label_clip(make_engine(monkeypatch, direction="forward"), clip, images=Images(pictures))
    row = table.to_pylist()[2]
    assert row["provenance"] == "human"
    assert np.array_equal(rle_to_mask(row["rle"], HEIGHT, WIDTH), patch_at(2))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_clip():
    peaks = [peak_megabytes(num_frames) for num_frames in (20, 80)]
    assert peaks[1] - peaks[0] < 10


def peak_megabytes(num_frames: int) -> float:
    """Return the peak of a process that labels a clip between two masks, its memory frames capped."""
    program = f"""
import resource, numpy as np, rayvos.engines.stcn.engine as module
from rayvos.engines.stcn.engine import StcnConfig, StcnEngine
from tests.engines.stcn_clips import make_clip
n, h, w = {num_frames}, 64, 96
mask = np.zeros((h, w), bool); mask[20:40, 30:60] = True
class Frames:
    num_frames, height, width = n, h, w
    def read(self, frames):
        for frame in frames:
            yield frame, np.random.default_rng(frame).integers(0, 256, (h, w, 3), dtype=np.uint8)
module.FEATURE_BYTES = 1 << 20
engine = StcnEngine(StcnConfig(max_memory_frames=4), device="cpu")
for label in engine.label(make_clip({{(0, 1): mask, (n - 1, 1): mask}}, n, h, w), Frames(), range(n)):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])
