import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvos.cli.main import main
from rayvos.engines.sta.engine import StaEngine
from rayvos.errors import InputError, UsageError, WeightsError
from rayvos.models.registry import load_model
from rayvos.models.sta import STA, StaModel
from rayvos.training.datasets import ObjectPicture
from rayvos.training.loading import BatchLoader
from rayvos.training.registry import TrainingRequest, plan_training
from rayvos.training.sta_samples import FrameCrop, StaAugmentation, crop_sample, draw_frames, place_frame_crop
from rayvos.training.sta_tracks import generated_sample
from rayvos.training.steps import Trainer
from rayvos.video.synthetic import SynthConfig
from rayvos.video.synthetic_set import SetSettings, write_set

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"height": 64, "width": 96, "num_frames": 2, "iterations": 2}


def plan(**more):
    options = {**SMALL, **more.pop("options", {})}
    return plan_training("sta", TrainingRequest(**{"batch_size": 2, "steps": 3, "options": options, **more}))


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """Write a DAVIS folder of generated clips with one object each."""
    out = str(tmp_path_factory.mktemp("a data set") / "set")
    write_set(out, SetSettings(SynthConfig(num_frames=6, height=64, width=96, num_objects=1), frames_as="png"), 3)
    return out


VISIBLE = st.sets(st.integers(0, 400), min_size=2, max_size=30).map(sorted)


@given(VISIBLE, st.integers(1, 5), st.integers(0, 1000))
@settings(deadline=None)
def test_frames_are_drawn_behind_a_base_frame_and_near_it(visible, num_frames, seed):
    found = draw_frames(visible, num_frames, np.random.default_rng(seed))

    assert len(found) == num_frames
    assert found == sorted(found)
    assert set(found) <= set(visible)
    after = [frame for frame in visible if frame > found[0]]
    assert found[0] != visible[-1]
    assert all(frame == found[0] or frame < max(found[0] + 100, after[0] + 5) for frame in found)


def test_every_frame_but_the_last_is_a_base_and_all_later_ones_follow():
    rng = np.random.default_rng(0)

    pairs = {tuple(draw_frames([3, 5, 9], 2, rng)) for _ in range(200)}

    assert pairs == {(3, 5), (3, 9), (5, 9)}


BOXES = st.tuples(st.floats(-20, 90), st.floats(-20, 60), st.floats(2, 120), st.floats(2, 90)).map(np.array)


@given(BOXES, st.sampled_from([(60, 90), (90, 60), (64, 96)]))
@settings(deadline=None)
def test_a_crop_sticks_out_of_its_frame_along_one_axis_at_most(box, frame_size):
    crop = place_frame_crop(box, frame_size, (64, 96), 5.0)

    out_x = crop.left < 0 or crop.left + crop.width > frame_size[1]
    out_y = crop.top < 0 or crop.top + crop.height > frame_size[0]
    assert not (out_x and out_y)
    assert crop.cut(np.zeros((*frame_size, 3), np.uint8)).shape == (crop.height, crop.width, 3)


def picture(seed=0, height=60, width=90):
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    labels[20:40, 30:55] = 1
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return ObjectPicture(image, labels, np.array([30, 20, 55, 40], np.float32))


def test_a_crop_around_the_exact_box_shows_the_object_inside_its_painted_box():
    sample = crop_sample([picture()] * 2, (64, 96), StaAugmentation.nothing(4.0), np.random.default_rng(0))

    assert sample.crops.shape == (2, 64, 96, 3)
    assert (sample.labels == 1).sum() > 100
    assert sample.boxes[sample.labels == 1].mean() > 0.85  # the painted box is cut to whole pixels
    assert (sample.labels[sample.boxes] == 1).mean() > 0.85
    assert (sample.brightness == 1).all()


def test_colour_and_mirror_are_drawn_for_the_whole_sample():
    grey = dataclasses.replace(StaAugmentation.nothing(4.0), grey_share=1.0)
    mirrored = dataclasses.replace(StaAugmentation.nothing(4.0), flip_share=1.0)
    plain, found, flipped = (
        crop_sample([picture(), picture(1)], (64, 96), kind, np.random.default_rng(0))
        for kind in (StaAugmentation.nothing(4.0), grey, mirrored)
    )

    assert (found.crops == found.crops[..., :1]).all()
    for name in ("crops", "labels", "boxes"):
        assert np.array_equal(getattr(flipped, name), getattr(plain, name)[:, :, ::-1])


def test_a_box_keeps_its_place_when_its_crop_is_resized():
    crop = FrameCrop(left=10, top=-5, width=48, height=32)

    inside = crop.inside(np.array([22.0, 3.0, 12.0, 8.0]), (64, 96))

    assert inside.tolist() == [24, 16, 24, 16]


def test_a_sample_is_a_function_of_its_number():
    task, again = plan().task, plan().task
    again.sample(13)

    first, second = task.sample(5), again.sample(5)

    assert np.array_equal(first.crops, second.crops)
    assert np.array_equal(first.labels, second.labels)
    assert not np.array_equal(first.crops, task.sample(6).crops)
    assert not np.array_equal(first.crops, plan(seed=1).task.sample(5).crops)


def test_neighbouring_samples_are_of_different_clips_and_each_clip_gives_several():
    clips = [id(generated_sample(0, index, 2)[0].image.base) for index in range(9)]

    assert len(set(clips[:8])) == 8
    assert clips[8] == clips[0]


def test_brightness_is_a_factor_of_each_frame_before_the_mean_is_subtracted():
    task = plan(options={"brightness": 0.5}).task
    sample = task.sample(0)

    images = task.collate([sample]).images()

    lit = np.clip(sample.crops[1].astype(np.float32) * sample.brightness[1], 0, 255)
    expected = lit[..., ::-1] - np.array([102.9801, 115.9465, 122.7717], np.float32)
    np.testing.assert_allclose(images[1, 0].permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_the_paper_recipe_learns_all_but_the_backbone_at_the_authors_rates(tmp_path):
    path = str(tmp_path / "backbone.pth")
    torch.manual_seed(1)
    network = STA(StaModel(variant="compact"))
    torch.save(network.feature_extractor.state_dict(), path)

    found = plan(recipe="paper", options={"variant": "compact", "backbone_weights": path})
    built = found.task.build()
    rates = {
        id(parameter): group.get("lr_factor", 1.0) * found.optimisation.learning_rate
        for group in found.task.parameter_groups(built)
        for parameter in group["params"]
    }

    by_name = {name: rates.get(id(parameter)) for name, parameter in built.named_parameters()}
    assert by_name["target_model.filter_optimizer.residual_module.filter_reg"] == pytest.approx(1e-4)
    assert by_name["target_model.feature_extractor.0.weight"] == pytest.approx(2e-5)
    assert by_name["decoder.project.conv2.weight"] == pytest.approx(1e-4)
    assert by_name["segm_encoder.label_pred.0.weight"] == pytest.approx(2e-4)
    assert {name for name, rate in by_name.items() if rate is None} == {
        *(name for name in by_name if name.startswith("feature_extractor.")),
        "label_encoder.samp_w_pred.weight",
        "label_encoder.samp_w_pred.bias",
    }
    for name, value in network.feature_extractor.state_dict().items():
        assert torch.equal(built.feature_extractor.state_dict()[name], value)
    assert found.optimisation.batch_size == 2
    assert (found.task.config.context, found.task.config.place_jitter) == (5.0, 3.0)


def test_codes_weigh_alike_at_the_start_and_the_backbones_statistics_are_measured():
    network = plan().task.build()

    assert (network.bbox_encoder.samp_w_pred.bias == 1).all()
    assert not network.bbox_encoder.samp_w_pred.weight.any()
    assert float(network.feature_extractor.bn1.running_mean.abs().max()) > 0
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("step", [0, 1])  # of three: the first one is cross entropy
def test_the_loss_does_not_depend_on_pieces_where_samples_are_sorted_alone(step):
    task = plan().task
    network, samples = task.build(), [task.sample(index) for index in range(3)]

    with torch.no_grad():
        whole = task.loss(network, task.collate(samples), step).loss
        parts = [task.loss(network, task.collate([sample]), step).loss for sample in samples]

    assert float(whole) == pytest.approx(float(sum(parts)) / 3, rel=1e-4)


def train(found, steps):
    trainer = Trainer(found.task, found.optimisation, device="cpu")
    with BatchLoader(found.task, found.optimisation, trainer.share) as loader:
        losses = [trainer.advance(loader.next_step()).loss for _ in range(steps)]
    return trainer, losses


def test_weights_that_are_trained_on_a_data_set_label_clips(data_set, tmp_path):
    found = plan(data=(data_set,), folder=str(tmp_path / "run"))
    path = str(tmp_path / "weights.safetensors")

    trainer, losses = train(found, 2)
    metrics = trainer.validate()
    trainer.export(path, metrics=metrics)

    assert all(np.isfinite(loss) for loss in losses)
    assert 0 <= metrics["mean_iou"] <= 1
    engine = StaEngine(weights=path, device="cpu")
    assert (engine.options()["height"], engine.options()["width"]) == (64, 96)


def test_the_command_trains_and_exports(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rayvos.training.sta_task.VALIDATED_OBJECTS", 2)
    words = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    code = main(
        ["train", "sta", "--in-process", "--loaders", "0", "--device", "cpu", "--steps", "1", "--batch-size", "1"]
        + ["--validate-every", "5", "-o", str(tmp_path), *words]
    )

    assert code == 0
    assert "1 of 1 steps" in capsys.readouterr().out
    _, info = load_model(str(tmp_path / "weights.safetensors"), architecture="sta")
    assert info.model == {"variant": "compact", "height": 64, "width": 96}


@pytest.mark.slow
def test_the_loss_falls_on_generated_clips():
    found = plan(steps=20, batch_size=4, options={"entropy_warmup": 1.0})

    _, losses = train(found, 20)

    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 10


def test_weights_of_the_same_variant_are_gone_on_with(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    trainer, _ = train(plan(steps=1), 0)
    trainer.export(path)

    found = plan(weights=path)

    for name, value in found.task.build().state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    with pytest.raises(WeightsError, match="give --variant compact"):
        plan(weights=path, recipe="paper")


def test_data_sets_are_drawn_by_their_odds(data_set, tmp_path):
    found = plan(data=(data_set, data_set), folder=str(tmp_path), options={"odds": "1:0"})

    assert found.task.odds == (1, 0)
    assert found.task.options()["odds"] == "1:0"
    assert found.task.sample(0).crops.shape == (2, 64, 96, 3)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"recipe": "papr"}, UsageError, "did you mean 'paper'"),
        ({"recipe": "paper"}, UsageError, "give backbone_weights"),
        ({"options": {"odds": "6:1"}}, UsageError, "expected 0 numbers"),
        ({"options": {"odds": "six"}}, UsageError, "such as 6:1"),
        ({"options": {"height": 70}}, UsageError, "multiple of 32"),
        ({"options": {"iterations": 0}}, UsageError, "iterations 0"),
        ({"options": {"widht": 96}}, UsageError, "did you mean 'width'"),
    ],
)
def test_impossible_plans_are_refused(more, error, message):
    with pytest.raises(error, match=message):
        plan(**more)


def test_objects_that_are_seen_too_seldom_are_named(data_set, tmp_path):
    with pytest.raises(InputError, match="on more than 6 frames"):
        plan(data=(data_set,), folder=str(tmp_path), options={"num_frames": 3})
