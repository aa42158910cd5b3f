from __future__ import annotations

from dataclasses import replace

import pytest

from rayvos.annotations.records import ObjectInfo, Point
from rayvos.engines.registry import load_engine
from rayvos.engines.stcn.point_stcn import PointStcnConfig, PointStcnEngine, points_as_masks
from rayvos.errors import InputError, WeightsError
from rayvos.masks.rle import rle_to_mask
from rayvos.models.stcn import STCN
from rayvos.models.weights import save_weights
from tests.engines.stcn_clips import HEIGHT, WIDTH, Images, load_formula, make_clip, make_pictures

NUM_FRAMES = 4


def clip_of(*points: Point):
    clip = make_clip({}, NUM_FRAMES, HEIGHT, WIDTH)
    return replace(clip, points=points, objects=tuple(ObjectInfo(i) for i in sorted({p.object_id for p in points})))


def grid(object_id: int, frame: int, x: int, y: int) -> list[Point]:
    """Return nine points on the patch whose corner is (x, y)."""
    return [Point(object_id, frame, x + dx, y + dy) for dx in (6, 16, 26) for dy in (6, 16, 26)]


def test_points_of_the_reference_frame_become_a_map_of_points():
    points = [
        Point(2, 1, 7.9, 3.2), Point(2, 1, 0, 0, "negative"), Point(2, 3, 9, 9),
        Point(1, 2, 79, 63), Point(2, 1, 1, 1, "ambiguous"),
    ]  # fmt: skip
    masks = {mask.object_id: mask for mask in points_as_masks(clip_of(*points)).masks}

    assert {object_id: mask.frame for object_id, mask in masks.items()} == {1: 2, 2: 1}
    for object_id, (y, x) in {1: (63, 79), 2: (3, 7)}.items():
        found = rle_to_mask(masks[object_id].rle, HEIGHT, WIDTH)
        assert found[y, x]
        assert found.sum() == 1


@pytest.mark.parametrize("place", [(-1, 0), (80, 10), (10, 64)])
def test_a_point_outside_the_frame_is_refused_with_its_place(place):
    with pytest.raises(InputError, match="clip 'c' frame 2 object 1: expected points within 80x64"):
        points_as_masks(clip_of(Point(1, 2, *place)))


def test_a_clip_without_positive_points_is_refused():
    with pytest.raises(InputError, match="at least one positive point"):
        points_as_masks(clip_of(Point(1, 0, 3, 3, "negative")))


def test_every_frame_is_predicted_the_reference_frame_too(monkeypatch):
    monkeypatch.setattr("rayvos.engines.stcn.engine.load_stcn", load_formula)
    engine = PointStcnEngine(PointStcnConfig(), weights="formula", device="cpu")
    clip = clip_of(*grid(1, 1, 2, 4), *grid(2, 2, 46, 28))

    found = list(engine.label(clip, Images(make_pictures(NUM_FRAMES)), range(NUM_FRAMES)))

    assert [(item.frame, item.object_id) for item in found] == [(f, i) for f in range(NUM_FRAMES) for i in (1, 2)]
    assert not any("given" in item.quality for item in found)
    assert all(item.mask is None or item.mask.sum() != 9 for item in found), "points are no masks"


def test_weights_must_be_given():
    with pytest.raises(WeightsError, match="needs --weights FILE of an STCN trained with points"):
        load_engine("point-stcn", device="cpu")


def test_the_compact_network_knows_no_points():
    with pytest.raises(WeightsError, match="knows no points"):
        load_engine("point-stcn", weights="stcn_compact", device="cpu")


def test_points_become_the_discs_that_the_weights_were_trained_with(tmp_path):
    path = str(tmp_path / "points.safetensors")
    network = STCN(width=8)
    save_weights(
        path, network.state_dict(), architecture="stcn", model=network.configuration(),
        training={"task": {"radius_px": 2}},
    )  # fmt: skip

    assert PointStcnEngine(weights=path, device="cpu").options()["radius_px"] == 2
    assert PointStcnEngine(PointStcnConfig(radius_px=0), weights=path, device="cpu").options()["radius_px"] == 0
    (mask,) = points_as_masks(clip_of(Point(1, 2, 10, 10)), 2).masks
    assert rle_to_mask(mask.rle, HEIGHT, WIDTH).sum() == 13
