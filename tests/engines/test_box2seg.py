import itertools
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import torch

from rayvos.annotations.records import Box
from rayvos.engines.base import Engine
from rayvos.engines.box2seg.engine import Box2SegConfig, Box2SegEngine
from rayvos.engines.registry import load_engine
from rayvos.engines.scores import predicted_iou
from rayvos.errors import DecodeError, ShapeError, UsageError, WeightsError
from rayvos.masks.agreement import box_agreement
from rayvos.models.box2seg import normalise_crops
from rayvos.models.registry import build_model, load_model
from rayvos.models.weights import save_weights
from tests.engines.memory_images import Images, box_clip, content, noise_images

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, HEIGHT, WIDTH, NUM_FRAMES = 65, 60, 90, 7


def decisive(network):
    """Turn a random network into one that looks at the box and is sure of itself."""
    with torch.no_grad():
        network.backbone.stem[0].weight[:, 3] = torch.linspace(-0.2, 0.2, 24)[:, None, None]
        network.logits.weight.mul_(60)
    return network


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    model = {"backbone": "tiny", "size": SIZE, "margin": "abs:12"}
    path = str(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
    save_weights(path, decisive(build_model("box2seg", model)).state_dict(), architecture="box2seg", model=model)
    return path


def make_engine(weights, **options):
    return Box2SegEngine(Box2SegConfig(**options), weights=weights, device="cpu")


def make_images(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH):
    return noise_images(num_frames, height, width)


def make_clip(boxes, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH):
    return box_clip(boxes, num_frames, height, width)


def two_objects():
    """Object 1 moves over all frames, object 2 overlaps it, is gone on frames 2 and 3 and leaves after frame 5."""
    first = [Box(1, frame, 10.4 + 3 * frame, 12.6, 38.2 + 3 * frame, 50.1) for frame in range(NUM_FRAMES)]
    second = [Box(2, frame, 30, 5, 61, 31.5, visible=frame != 2) for frame in (0, 1, 2, 4, 5)]
    return make_clip(first + second)


def label(engine, clip, images=None, frames=None):
    reader = Images(make_images()) if images is None else images
    return list(engine.label(clip, reader, range(clip.num_frames) if frames is None else frames))


def test_every_frame_and_object_has_a_label_and_absence_is_explicit(weights):
    engine = make_engine(weights)

    labels = label(engine, two_objects())

    assert isinstance(engine, Engine)
    assert [(found.frame, found.object_id) for found in labels] == list(itertools.product(range(NUM_FRAMES), (1, 2)))
    absent = [(found.frame, found.object_id) for found in labels if found.mask is None]
    assert absent == [(2, 2), (3, 2), (6, 2)]
    for found in labels:
        if found.mask is not None:
            assert found.mask.shape == (HEIGHT, WIDTH)
            assert found.mask.dtype == np.bool_
            assert 0 <= found.score <= 1
    assert sum(found.mask is not None and found.mask.any() for found in labels) >= 8


def test_labels_are_what_the_encoding_says_one_crop_at_a_time(weights):
    clip, images = two_objects(), make_images()
    labels = {(found.frame, found.object_id): found for found in label(make_engine(weights, clip_to_box=False), clip)}
    network, _ = load_model(weights)

    for box in clip.boxes:
        if not box.visible:
            continue
        x0, y0, x1, y1 = (int(np.rint(side)) for side in (box.x0, box.y0, box.x1, box.y1))
        left, top, right, bottom = max(0, x0 - 12), max(0, y0 - 12), min(WIDTH, x1 + 12), min(HEIGHT, y1 + 12)
        painted = np.zeros((HEIGHT, WIDTH), np.uint8)
        painted[y0:y1, x0:x1] = 1
        crop = cv2.resize(images[box.frame][top:bottom, left:right], (SIZE, SIZE))
        at = [np.arange(SIZE) * (high - low) // SIZE for low, high in ((top, bottom), (left, right))]
        guidance = painted[top:bottom, left:right][np.ix_(*at)]
        inputs = normalise_crops(torch.from_numpy(np.dstack([crop, guidance])[None]))
        with torch.inference_mode():
            probability = network(inputs).softmax(dim=1)[0, 1].numpy()
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[top:bottom, left:right] = cv2.resize(probability, (right - left, bottom - top)) >= 0.5

        found = labels[box.frame, box.object_id].mask
        # Folded batch norms round differently: a pixel within 1e-5 of one half may change sides.
        assert (found != expected).sum() <= 2
        assert expected.any()


@pytest.mark.parametrize(("num_threads", "batch_size"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_labels_do_not_depend_on_threads_or_the_split_of_frames(weights, num_threads, batch_size):
    clip = two_objects()
    engine = make_engine(weights, batch_size=batch_size)
    expected = content(label(engine, clip))
    torch.set_num_threads(num_threads)

    parts = [found for part in (range(3), range(3, 4), range(4, 7)) for found in label(engine, clip, frames=part)]

    assert content(parts) == expected


@pytest.mark.parametrize("backbone", ["mobilenet_v3_large", "resnet50"])
def test_labels_of_larger_backbones_do_not_depend_on_their_place_in_the_batch_either(tmp_path, backbone):
    torch.manual_seed(0)
    model = {"backbone": backbone, "size": 65, "margin": "rel:0.2,min16"}
    path = str(tmp_path / "net.safetensors")
    save_weights(path, build_model("box2seg", model).state_dict(), architecture="box2seg", model=model)
    engine = make_engine(path, batch_size=3)

    whole = label(engine, two_objects(), frames=range(5))
    parts = [found for part in (range(2), range(2, 5)) for found in label(engine, two_objects(), frames=part)]

    assert content(whole) == content(parts)


def test_an_object_does_not_depend_on_its_neighbours(weights):
    clip = two_objects()
    alone = make_clip([box for box in clip.boxes if box.object_id == 1])
    engine = make_engine(weights, batch_size=3)

    together = [found for found in label(engine, clip) if found.object_id == 1]

    assert content(together) == content(label(engine, alone))


def test_moving_image_and_box_together_moves_the_mask(weights):
    big = make_images(1, 100, 120)
    box = np.array([40, 35, 70, 64])
    engine = make_engine(weights)
    masks = []
    for shift in ((0, 0), (5, 3)):
        moved = np.roll(big, shift[::-1], axis=(1, 2))
        x0, y0, x1, y1 = (box + np.array([*shift, *shift])).tolist()
        clip = make_clip([Box(1, 0, x0, y0, x1, y1)], 1, 100, 120)
        masks.append(label(engine, clip, Images(moved))[0].mask)

    assert masks[0].any()
    assert np.array_equal(np.roll(masks[0], (3, 5), axis=(0, 1)), masks[1])


def test_masks_stay_near_their_box_and_hold_no_specks(weights):
    clip = two_objects()
    boxes = {(box.frame, box.object_id): box for box in clip.boxes}
    free, clipped = (label(make_engine(weights, clip_to_box=clip_to_box), clip) for clip_to_box in (False, True))

    leaves = 0
    for before, after in zip(free, clipped, strict=True):
        if after.mask is None:
            continue
        box = boxes[after.frame, after.object_id]
        x0, y0, x1, y1 = (int(np.rint(side)) for side in (box.x0, box.y0, box.x1, box.y1))
        grow_x, grow_y = round(0.1 * (x1 - x0)), round(0.1 * (y1 - y0))
        near = np.zeros((HEIGHT, WIDTH), bool)
        near[max(0, y0 - grow_y) : y1 + grow_y, max(0, x0 - grow_x) : x1 + grow_x] = True
        areas = cv2.connectedComponentsWithStats(after.mask.view(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        assert not (after.mask & ~near).any()
        assert not (after.mask & ~before.mask).any()
        assert areas.size == 0 or areas.min() >= 0.1 * areas.max()
        leaves += (before.mask & ~near).any()
    assert leaves > 0


def test_the_score_comes_from_the_agreement_with_the_box_and_the_margin_of_the_probability(weights):
    clip = two_objects()
    boxes = {(box.frame, box.object_id): box for box in clip.boxes}

    for found in label(make_engine(weights), clip):
        if found.mask is not None:
            box = boxes[found.frame, found.object_id]
            corners = np.array([box.x0, box.y0, box.x1, box.y1], np.float32)
            assert found.quality["box_agreement"] == pytest.approx(box_agreement(found.mask, corners), abs=1e-5)
            assert 0 <= found.quality["margin"] <= 1
            assert found.score == predicted_iou(found.quality["box_agreement"], found.quality["margin"])


def test_a_box_outside_the_frame_gives_an_empty_mask_with_its_reason(weights):
    clip = make_clip([Box(1, 0, WIDTH + 1, 5, WIDTH + 20, 30), Box(1, 1, 5, 5, 40, 40)], 2)

    outside, inside = label(make_engine(weights), clip)

    assert not outside.mask.any()
    assert outside.score == 0
    assert outside.quality == {"box_outside": 1.0}
    assert "box_outside" not in inside.quality


@pytest.mark.parametrize("box", [(0, 0, WIDTH, HEIGHT), (-20, -20, 200, 200), (WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT)])
def test_boxes_at_the_edge_of_the_frame_are_labelled(weights, box):
    found = label(make_engine(weights), make_clip([Box(1, 0, *box)], 1))[0]

    assert found.mask.shape == (HEIGHT, WIDTH)
    assert 0 <= found.score <= 1


def test_only_frames_with_boxes_are_read(weights):
    images = Images(make_images())
    clip = make_clip([Box(1, 1, 5, 5, 40, 40), Box(1, 4, 5, 5, 40, 40), Box(1, 6, 5, 5, 40, 40, visible=False)])

    labels = label(make_engine(weights), clip, images)

    assert images.asked == [1, 4]
    assert [found.mask is not None for found in labels] == [False, True, False, False, True, False, False]


def test_a_clip_without_objects_has_no_labels(weights):
    assert label(make_engine(weights), make_clip([])) == []


@pytest.mark.parametrize("num_threads", [1, 3])
def test_no_more_frames_are_read_than_work_is_waiting(weights, num_threads):
    torch.set_num_threads(num_threads)
    images = Images(np.repeat(make_images(1), 40, axis=0))
    clip = make_clip([Box(1, frame, 5, 5, 40, 40) for frame in range(40)], 40)

    ahead = [
        len(images.asked) - (position + 1)
        for position, _ in enumerate(make_engine(weights).label(clip, images, range(40)))
    ]

    assert max(ahead) <= num_threads + 1


def test_long_absence_is_told_without_waiting_for_a_full_batch(weights):
    clip = make_clip([Box(1, 0, 5, 5, 40, 40)], 10_000)
    labels = make_engine(weights, batch_size=4).label(clip, Images(make_images()), range(10_000))

    assert sum(1 for _ in labels) == 10_000


def test_an_unreadable_frame_raises_its_error_and_leaves_no_thread(weights):
    images = Images(make_images(), broken=4)
    before = threading.active_count()
    torch.set_num_threads(2)

    with pytest.raises(DecodeError, match="frame 4"):
        label(make_engine(weights), two_objects(), images)

    assert threading.active_count() == before
    assert torch.get_num_threads() == 2


def test_stopping_early_leaves_no_thread(weights):
    before = threading.active_count()
    labels = make_engine(weights).label(two_objects(), Images(make_images()), range(NUM_FRAMES))
    next(labels)

    labels.close()

    assert threading.active_count() == before


def test_half_precision_hardly_changes_masks(weights):
    clip = two_objects()
    exact, half = (label(make_engine(weights, precision=name), clip) for name in ("float32", "bfloat16"))

    pairs = [(a.mask, b.mask) for a, b in zip(exact, half, strict=True) if a.mask is not None]
    union, overlap = (sum(int(join(a, b).sum()) for a, b in pairs) for join in (np.logical_or, np.logical_and))
    assert overlap / union > 0.9


def test_the_engine_loads_by_name_with_options_as_text(weights):
    engine = load_engine("box2seg", weights=weights, device="cpu", clip_to_box="no", batch_size="2")

    assert engine.options() == {"margin": None, "clip_to_box": False, "precision": "float32", "batch_size": 2}
    with pytest.raises(WeightsError, match="needs --weights FILE"):
        load_engine("box2seg")


def test_without_weights_the_error_says_what_to_do():
    with pytest.raises(WeightsError, match=r"needs --weights FILE.*use --engine cut"):
        Box2SegEngine()


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        Box2SegEngine(weights=str(tmp_path / "none.safetensors"))


def test_another_margin_than_the_trained_one_is_refused(weights):
    assert make_engine(weights, margin="abs:12.0").weights == make_engine(weights).weights
    with pytest.raises(UsageError, match="were trained with 'abs:12'"):
        make_engine(weights, margin="rel:0.2,min16")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"margin": "50"}, ShapeError),
        ({"batch_size": 0}, UsageError),
        ({"precision": "float64"}, UsageError),
    ],
)
def test_impossible_options_are_refused(options, error):
    with pytest.raises(error):
        Box2SegConfig(**options)


def test_an_unknown_device_is_refused(weights):
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        Box2SegEngine(weights=weights, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named_before_any_work(weights):
    engine = Box2SegEngine(weights=weights, device="cuda")

    with pytest.raises(UsageError, match="torch finds no GPU"):
        label(engine, two_objects())


def test_options_are_plain_values_and_weights_a_digest(weights):
    engine = make_engine(weights, clip_to_box=False)

    assert engine.options() == {"margin": None, "clip_to_box": False, "precision": "float32", "batch_size": None}
    assert len(engine.weights) == 64
    assert engine.needs().halo == 0


def test_the_engine_imports_without_ray_pycocotools_s3fs_and_torchvision():
    code = (
        "import sys, rayvos.engines.box2seg.engine\n"
        "print(sorted({'ray', 'pycocotools', 's3fs', 'torchvision', 'timm', 'pyarrow'} & set(sys.modules)))"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "[]"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_labels_on_a_gpu_do_not_depend_on_the_split_of_frames(weights):
    clip = two_objects()
    engine = Box2SegEngine(Box2SegConfig(batch_size=4), weights=weights, device="cuda")

    whole = label(engine, clip)
    parts = [found for part in (range(3), range(3, 4), range(4, 7)) for found in label(engine, clip, frames=part)]

    assert content(whole) == content(parts)
