from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import MaskPrompt, Point
from rayvos.errors import InputError, UsageError, WeightsError
from rayvos.masks.ignore import IGNORE
from rayvos.masks.rle import mask_to_rle
from rayvos.models.stcn_checkpoint import load_stcn
from rayvos.models.weights import save_weights
from rayvos.training.clip_samples import AnnotatedClip, Warping, draw_clip_sample
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.runs import RunSettings, train_run
from rayvos.training.stcn_task import reach_at
from tests.review.runs import ellipse, make_clip

STILL = Warping(smallest_area=1.0, mirror=0.0, rotation=0.0, shear=0.0, colour=0.0, grey=0.0, reverse=0.0)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plan(name="stcn", options=None, **request):
    own = {"size": "48", "width": "8", **(options or {})}
    return plan_training(name, TrainingRequest(**{"batch_size": 2, "steps": 10, **request, "options": own}))


def annotated(tmp_path, name="a", *, num_frames=6, masks=True, points=True, leave_out=()):
    """Return a clip with ellipses as masks, but for the named (object, frame), and points in their middles."""
    clip = make_clip(tmp_path, name, num_frames=num_frames)
    prompts, places = [], []
    for box in clip.boxes:
        if box.visible and (box.object_id, box.frame) not in leave_out:
            prompts.append(MaskPrompt(box.object_id, box.frame, mask_to_rle(ellipse(box))))
        if box.visible:
            places.append(Point(box.object_id, box.frame, (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2))
            places.append(Point(box.object_id, box.frame, 1, 1, "negative"))
    return dataclasses.replace(clip, masks=tuple(prompts) if masks else (), points=tuple(places) if points else ())


def manifest(tmp_path, *clips):
    path = str(tmp_path / "clips.parquet")
    write_manifest(clips, path)
    return path


def draw(clip, rng_seed=0, *, warping=None, by_points=False, size=48, reach=5):
    frames = tuple(range(clip.num_frames))
    rng = np.random.default_rng(rng_seed)
    return draw_clip_sample(
        AnnotatedClip(clip, frames), rng, size=size, reach=reach, warping=warping or Warping(), by_points=by_points
    )


@pytest.mark.parametrize("name", ["stcn", "point-stcn"])
def test_a_sample_is_a_pure_function_of_its_number(tmp_path, name):
    source = manifest(tmp_path, annotated(tmp_path, "a"), annotated(tmp_path, "b"))
    task = plan(name, data=(source,)).task
    again = pickle.loads(pickle.dumps(task))

    for index in (0, 9, 4):
        first, second = task.sample(index), again.sample(index)
        assert np.array_equal(first.images, second.images)
        assert np.array_equal(first.labels, second.labels)
        assert np.array_equal(first.points, second.points)


def test_an_unmoved_sample_shows_the_middle_of_the_clip(tmp_path):
    clip = annotated(tmp_path)

    sample = draw(clip, warping=STILL, size=48)

    assert sample.num_objects == 2
    for frame_labels in sample.labels:
        assert set(np.unique(frame_labels)) <= {0, 1, 2}
    assert sample.labels.shape == (3, 48, 48)
    assert sample.images.shape == (3, 48, 48, 3)


def test_points_lie_on_their_objects(tmp_path):
    clip = annotated(tmp_path)
    for seed in range(10):
        sample = draw(clip, seed, by_points=True)
        positives = sample.points[sample.points[:, 4] == 1]
        for frame, number, x, y, _ in positives.tolist():
            shown = sample.labels[int(frame), round(y) if y < 47.5 else 47, round(x) if x < 47.5 else 47]
            assert shown in (number, 1)  # where two objects overlap the lower id shows


def test_a_box_without_a_mask_is_ignored(tmp_path):
    clip = annotated(tmp_path, leave_out={(2, frame) for frame in range(1, 5)})

    sample = draw(clip, warping=STILL)

    assert (sample.labels[1:] == IGNORE).any()
    assert not (sample.labels[1:] == 2).any()


def test_frames_of_point_clips_are_in_order_of_time_and_near(tmp_path):
    clip = annotated(tmp_path, num_frames=20)
    for seed in range(20):
        sample = draw(clip, seed, by_points=True, warping=STILL, reach=2)
        x = [sample.points[(sample.points[:, 0] == frame) & (sample.points[:, 1] == 1)][0, 2] for frame in range(3)]
        steps = np.diff(x) * 1.0  # the objects move one pixel a frame
        assert (steps > 0).all()
        assert (steps < 2.5).all()


def test_a_still_picture_is_seen_three_times(tmp_path):
    sample = draw(annotated(tmp_path, num_frames=1))

    assert len(sample.images) == 3
    assert not np.array_equal(sample.images[0], sample.images[1])


def test_the_reach_grows_and_shrinks_with_the_run():
    assert [reach_at(step, 1000) for step in (0, 99, 100, 250, 350, 899, 900, 999)] == [5, 5, 10, 15, 20, 25, 5, 5]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stcn", {}),
        ("stcn", {"loss": "huberised", "tau_warmup": "0"}),
        ("point-stcn", {}),
        ("point-stcn", {"robust_points": "true"}),
        ("point-stcn", {"targets": "masks"}),
    ],
)
def test_every_variant_teaches_all_parts_of_the_network(tmp_path, name, options):
    source = manifest(tmp_path, annotated(tmp_path, "a"), annotated(tmp_path, "b"))
    task = plan(name, options, data=(source,)).task
    model = task.build().train()

    result = task.loss(model, task.collate([task.sample(0), task.sample(1)]), 0)
    result.loss.backward()

    untaught = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert result.loss.isfinite()
    assert untaught in ([], ["key_proj.key_proj.bias"])  # a shift of all keys cancels in their distances


@pytest.mark.slow
def test_a_clip_can_be_learnt_by_heart_and_the_weights_load(tmp_path):
    source = manifest(tmp_path, annotated(tmp_path, "a"))
    short = plan("stcn", {"loss": "ce"}, data=(source,), steps=30, learning_rate=2e-3)
    losses = []

    train_run(
        short,
        RunSettings(out=str(tmp_path / "run"), device="cpu", processes=0, validate_every=30),
        watch=lambda note: losses.append(note.loss),
    )

    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:3])
    network, _ = load_stcn(str(tmp_path / "run" / "last.safetensors"))
    assert network.model == {"attention": True, "width": 8}


def test_data_without_what_is_needed_is_refused(tmp_path):
    bare = manifest(tmp_path, annotated(tmp_path, "a", points=False))
    with pytest.raises(InputError, match="expected clips with positive points"):
        plan("point-stcn", data=(bare,))
    with pytest.raises(InputError, match="expected clips with masks"):
        plan("stcn", data=(manifest(tmp_path, annotated(tmp_path, "b", masks=False)),))
    with pytest.raises(InputError, match="masks and positive points on the same frames, found none in 1 clips"):
        plan("point-stcn", {"targets": "masks"}, data=(manifest(tmp_path, annotated(tmp_path, "c", masks=False)),))


def test_wrong_options_and_weights_are_refused(tmp_path):
    with pytest.raises(UsageError, match="task 'stcn' learns from masks"):
        plan("stcn", {"targets": "points"})
    with pytest.raises(UsageError, match="a multiple of 16"):
        plan("stcn", {"size": "50"})
    with pytest.raises(UsageError, match="did you mean 'kinetics'"):
        plan("point-stcn", recipe="kinetic")
    other = plan("stcn", {"width": "16"}).task
    save_weights(
        str(tmp_path / "w.safetensors"),
        other.build().state_dict(),
        architecture="stcn",
        model=other.model_config(),
    )
    with pytest.raises(WeightsError, match="expected an stcn network of width 8"):
        plan("stcn", weights=str(tmp_path / "w.safetensors"))
