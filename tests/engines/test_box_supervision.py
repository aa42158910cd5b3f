from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rayvos.engines.guided import adapt
from rayvos.engines.guided.adapt import adapt_segmenter, box_score
from rayvos.engines.guided.box_supervision import (
    BOX,
    NEIGHBOURS,
    BoxBatch,
    BoxLossWeights,
    box_losses,
    box_pairs,
    read_box_crops,
    stack_crops,
    total_loss,
)
from rayvos.engines.guided.engine import GuidedConfig, GuidedEngine
from rayvos.engines.guided.network import GuidedSegmenter
from rayvos.errors import UsageError
from rayvos.models.guided import PLANES, GuidedOutput
from tests.engines.test_guided import Images, disc, make_clip, network, pictures, tight_boxes
from tests.engines.test_guided import weights as weights

NUM_FRAMES, SIZE = 8, 16
ONES = BoxLossWeights(projection=1, negatives=1, pairwise=1, temporal=1, anchor=1)


class Says(nn.Module):
    """A network that says the same of everything."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float32))

    def forward(self, planes_BCHW):
        return GuidedOutput(self.logits.expand(len(planes_BCHW), -1, -1), torch.zeros(len(planes_BCHW)))


def batch(*, same_color=True):
    """Return two crops with a box on rows 4…11 and columns 2…13, whose next frame is the same one.

    The box has one colour and its surroundings another, or no two neighbours have the same.
    """
    planes = torch.zeros(2, len(PLANES), SIZE, SIZE, dtype=torch.int8)
    planes[:, BOX, 4:12, 2:14] = 127
    places = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=2).astype(np.float32)
    grid = torch.from_numpy((2 * places + 1) / SIZE - 1)[None].repeat(2, 1, 1, 1)
    inside = planes[0, BOX].numpy() > 0
    neighbours = [np.roll(inside, (-down, -right), axis=(0, 1)) for down, right in NEIGHBOURS]
    alike = torch.from_numpy(np.stack([inside == other for other in neighbours]) & same_color)
    return BoxBatch(planes, planes, grid, alike[None].repeat(2, 1, 1, 1))


def terms_of(mask, *, start=None, sure=20.0):
    logits = np.where(mask, sure, -sure)
    found = box_losses(Says(logits), Says(logits if start is None else start), batch(), ONES)
    return {name: float(term.detach()) for name, term in found.items()}


def filled(rows, columns):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[rows, columns] = True
    return mask


BOXED = filled(slice(4, 12), slice(2, 14))


def test_a_filled_box_breaks_no_rule():
    assert terms_of(BOXED) == pytest.approx(dict.fromkeys(ONES.__dataclass_fields__, 0), abs=1e-4)


def test_each_term_sees_its_own_mistake():
    short = terms_of(BOXED & filled(slice(4, 8), slice(2, 14)))
    outside = terms_of(BOXED | filled(slice(13, 15), slice(2, 14)))
    other = terms_of(BOXED, start=np.full((SIZE, SIZE), -20.0))

    assert short["projection"] > 0.1 > terms_of(BOXED)["projection"]
    assert short["pairwise"] > 0.1  # an edge where no colour changes
    assert outside["negatives"] > 0.1
    assert outside["projection"] == pytest.approx(0, abs=1e-4)
    assert other["anchor"] > 1


def test_the_anchor_does_not_pull_where_the_network_started():
    learner = Says(np.random.default_rng(0).normal(0, 1, (SIZE, SIZE)))
    start = Says(learner.logits.detach())
    weights = BoxLossWeights(projection=0, negatives=0, pairwise=0, temporal=0, anchor=1)

    total_loss(box_losses(learner, start, batch(), weights)).backward()

    assert learner.logits.grad.abs().max() < 1e-6


def test_colours_that_differ_are_not_held_together():
    half = np.where(BOXED & filled(slice(4, 8), slice(2, 14)), 20.0, -20.0)

    found = box_losses(Says(half), Says(half), batch(same_color=False), ONES)

    assert float(found["pairwise"].detach()) == 0


def test_pairs_are_spread_evenly_and_need_the_next_frame():
    boxes = [box for box in tight_boxes() if box.frame != 6]
    clip = make_clip(boxes=tuple(boxes))

    assert [frame for frame, _ in box_pairs(clip, 100)] == [0, 1, 2, 3, 4, 7, 8, 9, 10]
    assert [frame for frame, _ in box_pairs(clip, 3)] == [1, 4, 9]
    assert box_pairs(make_clip(), 5) == []


def clip_and_images():
    return make_clip(NUM_FRAMES, boxes=tight_boxes(NUM_FRAMES)), Images(pictures(NUM_FRAMES))


def test_crops_know_where_their_pixels_go():
    clip, images = clip_and_images()

    crop = next(read_box_crops(clip, images, [(3, 1)], 64))

    inside = crop.planes[BOX] > 0
    columns = np.flatnonzero(inside.any(axis=0))
    assert abs(crop.box[0] - columns[0]) <= 1
    assert abs(crop.box[2] - columns[-1] - 1) <= 1
    y, x = 32, 32  # the disc's middle: its crop moves along with it, so it stays where it is
    assert np.abs(crop.places[y, x] - (x, y)).max() < 3
    corner = crop.places[2, 2] - (2, 2)  # the background does not, so it goes to the left
    assert corner[0] < -1
    batch = stack_crops([crop])
    assert batch.grid_BHW2.shape == (1, 64, 64, 2)
    assert crop.same_color.shape == (4, 64, 64)


def adapted(steps=2, seed=0, share=0.5, **options):
    clip, images = clip_and_images()
    base = GuidedSegmenter(network(), digest="d")
    found = adapt_segmenter(base, clip, images, steps=steps, learning_rate=1e-3, share=share, seed=seed, **options)
    return base, found


def test_adapting_is_the_same_every_time_and_leaves_the_base_alone():
    before = [value.clone() for value in GuidedSegmenter(network()).network.state_dict().values()]

    (base, first), (_, second) = adapted(), adapted()

    assert (first.score_before, first.score_after) == (second.score_before, second.score_after)
    assert all((a == b).all() for a, b in zip(base.network.state_dict().values(), before, strict=True))
    assert first.score_before != first.score_after


def test_a_share_stops_on_the_way(monkeypatch):
    scores = iter([*[0.1] * 3, *[0.2] * 3, *[0.1] * 3, *[0.2] * 3])
    monkeypatch.setattr(adapt, "box_score", lambda *_: next(scores))

    (base, half), (_, whole) = adapted(), adapted(share=1.0)

    ways = [
        (to - start, through - start)
        for start, through, to in zip(
            *(found.network.parameters() for found in (base, half.segmenter, whole.segmenter)), strict=True
        )
    ]
    assert any(way.abs().max() > 1e-4 for way, _ in ways)
    assert all(torch.allclose(part, way / 2, atol=1e-6) for way, part in ways)


def test_the_better_score_wins(monkeypatch):
    base, worse = adapted()
    assert (worse.segmenter is base) == (worse.score_after <= worse.score_before)
    scores = iter([*[0.5] * 3, *[0.4] * 3])
    monkeypatch.setattr(adapt, "box_score", lambda *_: next(scores))

    base, found = adapted()

    assert not found.kept
    assert found.segmenter is base


def test_a_clip_with_hardly_a_box_is_left_alone():
    base = GuidedSegmenter(network())
    clip = make_clip(NUM_FRAMES, boxes=tight_boxes(3))

    found = adapt_segmenter(base, clip, Images(pictures(NUM_FRAMES)), steps=2, learning_rate=1e-3, share=0.5, seed=0)

    assert found.segmenter is base


def test_scores_are_shares():
    clip, images = clip_and_images()
    segmenter = GuidedSegmenter(network())

    crops = list(read_box_crops(clip, images, box_pairs(clip, 3), 64))

    assert all(0 <= box_score(segmenter.network, crop, segmenter.device) <= 1 for crop in crops)


def test_the_engine_adapts_whole_clips_and_says_so(weights):
    plain = GuidedEngine(GuidedConfig(adapt_steps=3), weights=weights, device="cpu")
    engine = GuidedEngine(GuidedConfig(adapt=True, adapt_steps=3, adapt_rate=1e-2), weights=weights, device="cpu")
    clip = replace(make_clip(6, boxes=tight_boxes(6)), clip_id="other")

    labels = list(engine.label(clip, Images(pictures(6)), range(6)))

    assert "adapt_steps" not in plain.options()
    assert engine.options()["adapt_steps"] == 3
    assert engine.needs().halo is None
    assert engine.needs().seconds_per_clip > 0
    assert len(labels) == 6
    assert all(label.mask.shape == disc(0).shape for label in labels)
    with pytest.raises(UsageError, match="adapt_steps 0"):
        GuidedConfig(adapt_steps=0)
