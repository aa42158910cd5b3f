import itertools
import subprocess
import sys
import weakref
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvos.annotations.records import Box
from rayvos.engines.base import Engine
from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import load_engine
from rayvos.engines.sta.crops import cut_crop, label_map, paint_box, paste_logits, place_crop
from rayvos.engines.sta.engine import StaConfig, StaEngine
from rayvos.engines.sta.ring import plan_steps
from rayvos.engines.sta.solve import ALONE, FrameInput, Grouping, StaRunner, Window
from rayvos.engines.sta.windows import RECIPES, Sampling, labelled_frames, plan_jobs, window_of
from rayvos.errors import DecodeError, UsageError, WeightsError
from rayvos.models.sta import STA, normalise_bgr
from rayvos.models.sta_checkpoint import load_sta
from rayvos.models.weights import save_weights
from tests.engines.memory_images import Images, box_clip, content, noise_images

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH, NUM_FRAMES = 60, 90, 8
WINDOW, INTERVAL = 3, 2
REACH = (WINDOW - 1) * INTERVAL


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Write weights whose masks are neither empty nor full."""
    torch.manual_seed(5)
    network = STA()
    with torch.no_grad():
        for name in ("target_model", "target_model_segm"):
            getattr(network, name).strength.fill_(0.3)
        for encoder in (network.label_encoder, network.bbox_encoder, network.segm_encoder):
            encoder.samp_w_pred.bias.fill_(1)
            for parameter in encoder.parameters():
                parameter.mul_(1.7 if parameter.ndim == 4 else 1)
        for reduce in (tse.reduce for tse in network.decoder.TSE.values()):
            reduce[0].weight.mul_(0.02)
        network.decoder.project.conv2.weight.mul_(300)
        network.decoder.project.conv2.bias.fill_(0)
    path = str(tmp_path_factory.mktemp("weights") / "random.safetensors")
    centre(network)
    save_weights(path, network.state_dict(), architecture="sta", model={})
    return path


def centre(network):
    """Shift the logits so that about half of a box is drawn."""
    images, boxes = torch.from_numpy(make_images(1))[0].permute(2, 0, 1), torch.zeros(1, 1, 64, 96)
    boxes[..., 15:45, 25:70] = 1
    crop = torch.nn.functional.interpolate(images[None].float(), size=(64, 96))
    with torch.no_grad():
        logits = network(normalise_bgr(crop)[None], boxes, 15).logits2_TSHW
        network.decoder.project.conv2.bias.sub_(logits[0, 0, 15:45, 25:70].median())


@cache
def plain_engine(weights):
    """Load the engine that most tests use; it keeps nothing between clips."""
    return new_engine(weights)


def make_engine(weights, **options):
    return new_engine(weights, **options) if options else plain_engine(weights)


def new_engine(weights, **options):
    given = {"window": WINDOW, "interval": INTERVAL, "height": 64, "width": 96, "iterations": 4} | options
    return StaEngine(StaConfig(**given), weights=weights, device="cpu")


def make_images(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH):
    return noise_images(num_frames, height, width)


def make_clip(boxes, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, num_objects=None):
    return box_clip(boxes, num_frames, height, width, range(1, num_objects + 1) if num_objects else None)


def moving(num_frames=NUM_FRAMES, object_id=1):
    return [Box(object_id, frame, 10.4 + 3 * frame, 12.6, 48.2 + 3 * frame, 50.1) for frame in range(num_frames)]


def two_objects():
    """Object 1 moves over all frames; object 2 overlaps it, appears on frame 1, and is gone on frames 3 and 4."""
    second = [Box(2, frame, 30, 5, 61, 41.5, visible=frame != 4) for frame in (1, 2, 4, 5, 6, 7)]
    return make_clip(moving() + second)


def label(engine, clip, images=None, frames=None):
    reader = Images(make_images(clip.num_frames, clip.height, clip.width)) if images is None else images
    return list(engine.label(clip, reader, range(clip.num_frames) if frames is None else frames))


@pytest.fixture(scope="module")
def whole(weights):
    """Label a clip of two objects at once."""
    torch.set_num_threads(1)
    return label(make_engine(weights), two_objects())


def test_every_frame_and_object_has_a_label_and_absence_is_explicit(weights, whole):
    assert isinstance(make_engine(weights), Engine)
    assert [(found.frame, found.object_id) for found in whole] == list(itertools.product(range(NUM_FRAMES), (1, 2)))
    assert [(found.frame, found.object_id) for found in whole if found.mask is None] == [(0, 2), (3, 2), (4, 2)]
    for found in whole:
        if found.mask is not None:
            assert found.mask.shape == (HEIGHT, WIDTH)
            assert found.mask.dtype == np.bool_
            assert 0 <= found.score <= 1
            assert all(np.isfinite(value) for value in found.quality.values())
    assert sum(found.mask is not None and found.mask.any() for found in whole) >= 8


def test_masks_of_a_frame_do_not_overlap_and_stay_in_their_boxes(whole):
    boxes = {(box.frame, box.object_id): box for box in two_objects().boxes}
    for frame in range(NUM_FRAMES):
        masks = {found.object_id: found.mask for found in whole if found.frame == frame and found.mask is not None}
        assert np.sum([mask for mask in masks.values()], axis=0).max() <= 1
        for object_id, mask in masks.items():
            box, (rows, columns) = boxes[frame, object_id], np.nonzero(mask)
            assert rows.min(initial=HEIGHT) >= np.floor(box.y0)
            assert rows.max(initial=0) <= np.ceil(box.y1)
            assert columns.min(initial=WIDTH) >= np.floor(box.x0)
            assert columns.max(initial=0) <= np.ceil(box.x1)


def plain_logits(network, clip, images, frame, visible, boxes, sampling):
    """Return a frame's logits in its box by the plain schedule: the whole window through the whole network."""
    window = window_of(frame, visible, min(visible), clip.num_frames, sampling)
    crops, painted, places = [], [], []
    for member in window:
        box = boxes[member]
        placed = np.array([box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0])
        crop = place_crop(placed, (clip.height, clip.width), (64, 96), 4.0)
        pixels = torch.from_numpy(cut_crop(images[member], crop)).permute(2, 0, 1)[None].float()
        crops.append(torch.nn.functional.interpolate(pixels, size=crop.size, mode="bilinear"))
        painted.append(paint_box(crop.inside(placed), crop.size))
        places.append((crop, placed))
    with torch.inference_mode():
        given = normalise_bgr(torch.cat(crops))[:, None], torch.from_numpy(np.array(painted)).float()[:, None]
        logits = network(*given, 4).logits2_TSHW[:, 0].numpy()
    position = window.index(frame)
    return paste_logits(logits[position], *places[position], (clip.height, clip.width))


def test_the_fast_schedule_gives_the_masks_of_the_plain_one(weights, whole):
    clip, images = two_objects(), make_images()
    network, _ = load_sta(weights)
    boxes = {
        number: {box.frame: box for box in clip.boxes if box.object_id == number and box.visible} for number in (1, 2)
    }
    masks = {(found.frame, found.object_id): found.mask for found in whole}
    for frame in (0, 2, 5, 7):
        shown = [number for number in (1, 2) if frame in boxes[number]]
        parts = [
            plain_logits(network, clip, images, frame, set(boxes[n]), boxes[n], Sampling(WINDOW, INTERVAL))
            for n in shown
        ]

        merged = label_map(parts, (HEIGHT, WIDTH))

        for position, number in enumerate(shown, start=1):
            assert (masks[frame, number] != (merged == position)).sum() <= 1  # a logit of zero but for rounding


@pytest.mark.parametrize("cuts", [(4,), (1, 2, 5, 7), (3, 6)])
def test_units_give_the_bytes_of_the_whole_clip(weights, whole, cuts):
    engine, clip = make_engine(weights), two_objects()
    edges = [0, *cuts, NUM_FRAMES]

    parts = [label(engine, clip, frames=range(*edge)) for edge in itertools.pairwise(edges)]

    assert content(itertools.chain.from_iterable(parts)) == content(whole)


def test_too_little_memory_for_a_window_changes_nothing(weights, whole):
    assert content(label(make_engine(weights, memory_gb=1e-6), two_objects())) == content(whole)


def test_threads_change_nothing(weights, whole):
    torch.set_num_threads(3)

    assert content(label(make_engine(weights), two_objects())) == content(whole)
    assert torch.get_num_threads() == 3


def test_a_unit_reads_frames_within_its_halo_only(weights):
    engine, clip = make_engine(weights), make_clip(moving(20), num_frames=20)
    images = Images(make_images(20))

    label(engine, clip, images, range(9, 11))

    assert engine.needs().halo == REACH
    assert images.asked == sorted(set(images.asked))
    assert min(images.asked) >= 9 - REACH
    assert max(images.asked) < 11 + REACH


@pytest.fixture
def calls(monkeypatch):
    """Count frames that the network's stages see."""
    seen = SimpleNamespace(encode=0, decode=0, solve=0)
    stages = {name: getattr(STA, stage) for name, stage in
              {"encode": "encode", "decode": "decode", "solve": "aggregate"}.items()}  # fmt: skip

    def counted(name, argument, stage):
        def run(self, *args, **options):
            setattr(seen, name, getattr(seen, name) + args[argument].shape[0])
            return stages[name](self, *args, **options)

        monkeypatch.setattr(STA, stage, run)

    counted("encode", 0, "encode")
    counted("decode", 2, "decode")
    counted("solve", 0, "aggregate")
    return seen


def test_frames_are_encoded_once_windows_solved_once_and_only_labels_drawn_twice(weights, calls):
    clip = make_clip(moving(6), num_frames=6)

    label(make_engine(weights), clip)

    # Windows of 3 frames, 2 apart, in 6 frames: (0, 2, 4) and (1, 3, 5) serve all of them.
    assert calls.encode == 6
    assert calls.solve == 2 * 2
    assert calls.decode == 2 * 3 + 6


def test_an_object_boxed_on_one_frame_only_is_labelled_there(weights):
    found = label(make_engine(weights), make_clip([Box(1, 3, 20, 15, 60, 45)]))

    assert [label.frame for label in found if label.mask is not None] == [3]
    assert set(found[3].quality) == {"box_agreement", "margin", "pass_agreement", "solver_loss"}


def test_the_other_window_of_a_frame_is_a_second_opinion(weights, whole):
    agreement = [found.quality.get("window_agreement") for found in whole if found.object_id == 1]

    # 8 frames: (0, 2, 4) is the window of 0 and 2, (2, 4, 6) of 4 and 6: only 2 and 4 are in both as labels or checks.
    assert [value is not None for value in agreement] == [False, False, True, True, True, True, False, False]
    assert all(0 <= value <= 1 for value in agreement if value is not None)


@pytest.mark.parametrize("given", [{"window": 9, "interval": 15}, {"window": 1}, {"window": 2}, {"interval": 50}])
def test_windows_longer_than_the_clip_shrink_to_what_there_is(weights, given):
    found = label(make_engine(weights, **given), make_clip(moving(3), num_frames=3))

    assert [label.mask is not None for label in found] == [True] * 3


def test_boxes_outside_the_frame_give_empty_masks_and_are_in_no_window(weights):
    inside = moving(5)
    outside = [Box(1, 2, 200, 10, 240, 50), Box(1, 3, -50, -40, -10, 0)]
    clip = make_clip([*inside[:2], *outside, inside[4]], num_frames=5)
    images = Images(make_images(5))

    found = label(make_engine(weights), clip, images)

    for frame in (2, 3):
        assert found[frame].score == 0
        assert not found[frame].mask.any()
        assert found[frame].quality == {"box_outside": 1.0}
    assert images.asked == [0, 1, 4]


@pytest.mark.parametrize(
    "box", [(-40, -30, 200, 150), (-20, 10, 15, 50), (80, 50, 130, 90), (10, 10, 10.4, 40), (89.8, 10, 95, 30)]
)
def test_boxes_that_stick_out_or_are_tiny_are_labelled(weights, box):
    found = label(make_engine(weights), make_clip([Box(1, 0, *box), Box(1, 2, *box)], num_frames=3))

    assert [label.mask is not None for label in found] == [True, False, True]
    assert all(0 <= label.score <= 1 for label in found if label.mask is not None)


def test_objects_and_clips_without_boxes_are_absent(weights):
    clip = make_clip([Box(1, 1, 10, 10, 40, 40, visible=False)], num_frames=3, num_objects=2)
    images = Images(make_images(3))

    assert [label.mask for label in label(make_engine(weights), clip, images)] == [None] * 6
    assert images.asked == []


def test_neighbouring_objects_do_not_change_what_is_seen_of_an_object(weights, whole):
    alone = label(make_engine(weights), make_clip(moving()))

    for lone, shared in zip(alone, (found for found in whole if found.object_id == 1), strict=True):
        assert lone.quality["solver_loss"] == shared.quality["solver_loss"]
        assert lone.quality["pass_agreement"] == shared.quality["pass_agreement"]


def test_a_recipe_that_skips_frames_leaves_them_absent(weights):
    clip = make_clip([box for box in moving() if box.frame >= 1])

    found = label(make_engine(weights, label_every=3, max_labels=2), clip)

    assert [label.frame for label in found if label.mask is not None] == [1, 4]


def test_recipes_are_the_authors():
    settings = {name: (recipe.window, recipe.interval) for name, recipe in RECIPES.items()}

    assert settings == {"davis": (9, 5), "got10k": (5, 15), "lasot": (5, 15), "youtube-vos": (9, 15)}
    assert sorted(labelled_frames(range(3, 2000), RECIPES["lasot"])) == list(range(3, 1003, 5))
    assert StaConfig(recipe="lasot", interval=5).sampling() == Sampling(5, 5, label_every=5, max_labels=200)


def test_options_hold_what_labels_depend_on_and_nothing_else(weights):
    options = make_engine(weights).options()

    assert options == make_engine(weights, recipe="davis", memory_gb=1).options()
    assert (options["window"], options["interval"], options["label_every"]) == (WINDOW, INTERVAL, 1)
    assert options != make_engine(weights, iterations=5).options()


def test_a_broken_frame_is_named(weights):
    images = Images(make_images(), broken=2)

    with pytest.raises(DecodeError, match="frame 2"):
        label(make_engine(weights), make_clip(moving()), images)


def test_labels_make_a_table(weights):
    clip = make_clip(moving(3), num_frames=3)

    table = label_clip(make_engine(weights), clip, images=Images(make_images(3)))

    assert table.num_rows == 3
    assert set(table["engine"].to_pylist()) == {"sta"}


def test_weights_must_be_given():
    with pytest.raises(WeightsError, match="needs --weights"):
        load_engine("sta")


def test_the_engine_loads_by_name_with_options_as_text(weights):
    engine = load_engine("sta", weights=weights, device="cpu", recipe="davis", height="64", width="96", window="none")

    assert engine.options()["window"] == 9
    assert engine.weights == load_sta(weights)[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "davsi"}, "did you mean 'davis'"),
        ({"window": 0}, "window: expected at least 1"),
        ({"height": 100}, "height: expected a multiple of 32"),
        ({"width": 32}, "width: expected a multiple of 32 from 64"),
        ({"context": 0.5}, "context: expected 1 to 20"),
        ({"memory_gb": 0}, "memory_gb: expected more than 0"),
        ({"precision": "int8"}, "unknown precision"),
    ],
)
def test_impossible_options_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        StaConfig(**given)


def test_the_engine_imports_without_ray_and_pycocotools():
    code = "import sys; sys.modules |= dict.fromkeys(('ray', 'pycocotools', 's3fs')); import rayvos.engines.sta.engine"

    subprocess.run([sys.executable, "-c", code], check=True)


SAMPLINGS = st.builds(Sampling, st.integers(1, 9), st.integers(1, 6), st.integers(1, 3))
VISIBLE = st.dictionaries(st.integers(1, 3), st.sets(st.integers(0, 39)), max_size=3)


@given(VISIBLE, SAMPLINGS, st.integers(1, 30), st.integers(1, 4))
@settings(deadline=None)
def test_steps_solve_every_window_once_with_the_codes_they_hold(visible, sampling, capacity, together):
    jobs, _ = plan_jobs(visible, range(40), 40, sampling)

    steps = plan_steps(jobs, sampling, capacity=capacity, together=together)

    held = set()
    for step in steps:
        held = held - set(step.forget) | set(step.encode)
        needed = {(job.object_id, frame) for job in step.jobs for frame in job.frames}
        assert needed <= held
        assert len(held) <= max(capacity, len(needed))
    assert sorted((job for step in steps for job in step.jobs), key=repr) == sorted(jobs, key=repr)


@given(VISIBLE, SAMPLINGS, st.integers(0, 39), st.integers(1, 10))
@settings(deadline=None)
def test_windows_of_a_range_are_those_of_the_clip_and_stay_in_its_halo(visible, sampling, start, length):
    frames = range(start, min(40, start + length))
    everything, labels = plan_jobs(visible, range(40), 40, sampling)
    windows = {(job.object_id, frame): job.frames for job in everything for frame in job.labels}
    checks = {(job.object_id, frame): job.frames for job in everything for frame in job.checks}

    jobs, own = plan_jobs(visible, frames, 40, sampling)

    assert own == {key: checked for key, checked in labels.items() if key[0] in frames}
    for job in jobs:
        assert all(windows[job.object_id, frame] == job.frames for frame in job.labels)
        assert all(checks[job.object_id, frame] == job.frames for frame in job.checks)
        assert frames.start - sampling.reach <= job.frames[0] <= job.frames[-1] < frames.stop + sampling.reach


@pytest.mark.parametrize("capacity", [20, 200])
def test_a_long_clip_holds_no_more_codes_and_pictures_than_a_short_one(capacity):
    def peaks(num_frames):
        sampling = Sampling(9, 5)
        jobs, _ = plan_jobs({1: range(num_frames), 2: range(7, num_frames)}, range(num_frames), num_frames, sampling)
        steps = plan_steps(jobs, sampling, capacity=capacity, together=1)
        coming = sorted({frame for step in steps for _, frame in step.encode})
        last = {frame: place for place, step in enumerate(steps) for _, frame in step.encode}
        held, codes, pictures, num_encoded, read = set(), 0, 0, 0, 0
        for place, step in enumerate(steps):
            held = held - set(step.forget) | set(step.encode)
            read = max([read, *(coming.index(frame) + 1 for _, frame in step.encode)])
            codes = max(codes, len(held))
            pictures = max(pictures, sum(last[frame] >= place for frame in coming[:read]))
            num_encoded += len(step.encode)
        return codes, pictures, num_encoded / len({key for step in steps for key in step.encode})

    short, long = peaks(200), peaks(600)

    assert long[0] <= short[0] <= capacity
    assert long[1] <= short[1]
    assert long[2] == 1 if capacity == 200 else long[2] < 2


@pytest.mark.slow
def test_codes_alive_do_not_grow_with_the_clip(weights, monkeypatch):
    alive, peak = set(), []
    encode = STA.encode

    def watched(self, *args):
        code = encode(self, *args)
        alive.add(id(code.x_BDhw))
        weakref.finalize(code.x_BDhw, alive.discard, id(code.x_BDhw))
        peak.append(len(alive))
        return code

    monkeypatch.setattr(STA, "encode", watched)
    peaks = []
    for num_frames in (15, 60):
        peak.clear()
        clip = make_clip([Box(1, frame, 20, 10, 60, 50) for frame in range(num_frames)], num_frames=num_frames)
        engine = make_engine(weights)
        for _ in engine.label(clip, Images(make_images(num_frames)), range(num_frames)):
            pass
        peaks.append(max(peak))

    assert peaks[0] == peaks[1] <= REACH + 2


def test_groups_filled_up_give_what_frames_and_windows_alone_give(weights):
    clip, images = make_clip(moving(5), num_frames=5), make_images(5)
    placed = [np.array([box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0]) for box in clip.boxes]
    crops = [place_crop(box, (HEIGHT, WIDTH), (64, 96), 4.0) for box in placed]
    inputs = [
        FrameInput(cut_crop(image, crop), paint_box(crop.inside(box), (64, 96)))
        for image, crop, box in zip(images, crops, placed, strict=True)
    ]
    members = [((0, 2, 4), [0], [1]), ((1, 3), [0, 1], [])]

    def answers(grouping):
        runner = StaRunner(load_sta(weights)[0], size=(64, 96), steps=4, precision="float32")
        runner.move_to(torch.device("cpu"), longest=3, grouping=grouping)
        size = runner.grouping.frames
        codes = [code for start in range(0, 5, size) for code in runner.encode(inputs[start : start + size])]
        windows = [Window([codes[frame] for frame in frames], *wanted) for frames, *wanted in members]
        size = runner.grouping.windows
        return [found for start in range(0, 2, size) for found in runner.solve(windows[start : start + size])]

    for alone, grouped in zip(answers(ALONE), answers(Grouping(frames=4, windows=3)), strict=True):
        assert alone.loss == pytest.approx(grouped.loss, rel=1e-4)
        assert alone.logits.keys() == grouped.logits.keys()
        assert alone.first.keys() == grouped.first.keys()
        for position, logits in alone.logits.items():
            scale = np.abs(logits).max()
            np.testing.assert_allclose(grouped.logits[position], logits, atol=1e-4 * scale)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_units_give_the_bytes_of_the_whole_clip_on_a_gpu(weights, precision):
    config = StaConfig(window=WINDOW, interval=INTERVAL, height=64, width=96, precision=precision)
    engine, clip = StaEngine(config, weights=weights, device="cuda"), two_objects()

    parts = [label(engine, clip, frames=range(*edge)) for edge in ((0, 3), (3, 4), (4, NUM_FRAMES))]

    assert content(itertools.chain.from_iterable(parts)) == content(label(engine, clip))
