from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvos.annotations.manifest import check_clip
from rayvos.annotations.records import ClipSource
from rayvos.errors import UsageError
from rayvos.video.synthetic import SynthConfig, SyntheticClip, generate_clip
from rayvos.video.synthetic_shapes import FAMILIES
from rayvos.video.synthetic_textures import PROGRAMS

SMALL = SynthConfig(num_frames=10, height=96, width=160, num_objects=2)
SOURCE = ClipSource("images", "/nowhere")


def digest(clip: SyntheticClip) -> str:
    truth = repr((clip.clip_id, clip.objects, clip.boxes, clip.points, clip.traces))
    return hashlib.sha256(clip.images.tobytes() + clip.labels.tobytes() + truth.encode()).hexdigest()


def several(count: int, config: SynthConfig = SMALL) -> list[SyntheticClip]:
    return [generate_clip(11, index, config) for index in range(count)]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_the_same_seed_and_index_give_the_same_bytes(seed, index):
    assert digest(generate_clip(seed, index, SMALL)) == digest(generate_clip(seed, index, SMALL))


def test_another_process_gives_the_same_bytes():
    program = (
        "from tests.video.test_synthetic import *;"
        "generate_clip(1, 1, SMALL); np.random.seed(5); print(digest(generate_clip(3, 7, SMALL)))"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == digest(generate_clip(3, 7, SMALL))


def test_clips_of_other_seeds_and_indexes_differ():
    digests = {digest(generate_clip(seed, index, SMALL)) for seed in range(3) for index in range(3)}

    assert len(digests) == 9


def test_boxes_are_tight_around_the_visible_part_and_absence_is_stated():
    absent = 0
    for clip in several(8):
        assert [(box.frame, box.object_id) for box in clip.boxes] == [(f, o) for f in range(10) for o in (1, 2)]
        for box in clip.boxes:
            mask = clip.mask(box.object_id, box.frame)
            assert box.visible == mask.any()
            absent += not box.visible
            if box.visible:
                ys, xs = np.nonzero(mask)
                found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                assert (box.x0, box.y0, box.x1, box.y1) == found
    assert absent < 40


def test_every_object_is_seen_in_the_first_frame_and_of_reasonable_size():
    for clip in several(12):
        for known in clip.objects:
            share = clip.mask(known.object_id, 0).mean()
            assert 0.002 <= share <= 0.5


def test_some_objects_leave_and_some_of_them_return():
    left = returned = 0
    for clip in several(24, SynthConfig(num_frames=20, height=64, width=96, num_objects=2)):
        for object_id in (1, 2):
            seen = [box.visible for box in clip.boxes if box.object_id == object_id]
            gone = seen.index(False) if False in seen else None
            left += gone is not None
            returned += gone is not None and any(seen[gone:])
    assert left >= 4
    assert returned >= 2


def test_images_are_no_flat_colours_and_change_over_time():
    for clip in several(10):
        assert clip.images.std(axis=(1, 2)).max() > 4
        assert (clip.images[0] != clip.images[-1]).mean() > 0.05


def test_points_lie_on_what_their_label_says():
    for clip in several(4):
        kept = sorted({point.frame for point in clip.points})
        assert kept[0] == 0
        assert kept[-1] == 9
        for point in clip.points:
            found = clip.labels[point.frame, int(point.y), int(point.x)]
            assert found == (point.object_id if point.label == "positive" else 0)


def test_a_trace_stays_on_its_object():
    for clip in several(4):
        assert [trace.object_id for trace in clip.traces] == [1, 2]
        for trace in clip.traces:
            mask = clip.mask(trace.object_id, trace.frame)
            assert all(mask[int(y), int(x)] for x, y in zip(trace.x, trace.y, strict=True))
            assert len(trace.x) > 10


def test_the_record_passes_the_manifests_checks_and_holds_masks_on_request():
    clip = generate_clip(2, 0, SMALL)

    plain, full = check_clip(clip.record(SOURCE)), check_clip(clip.record(SOURCE, masks=True))

    assert (plain.height, plain.width, plain.num_frames, plain.masks) == (96, 160, 10, ())
    assert [mask.rle is not None for mask in full.masks] == [box.visible for box in full.boxes]


@pytest.mark.parametrize(
    "config",
    [
        SynthConfig(num_frames=1, height=64, width=64, num_objects=1),
        SynthConfig(num_frames=2, height=65, width=131, num_objects=50),
        SynthConfig(num_frames=3, height=200, width=90, num_objects=5),
    ],
)
def test_extreme_sizes_give_clips_of_that_size(config):
    clip = generate_clip(0, 0, config)

    assert clip.images.shape == (config.num_frames, config.height, config.width, 3)
    assert clip.labels.max() <= config.num_objects
    check_clip(clip.record(SOURCE))


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_texture_program_serves_alone(program):
    clip = generate_clip(1, 0, SynthConfig(num_frames=1, height=64, width=96, programs=(program,)))

    assert clip.images.std() > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_every_shape_family_serves_alone_and_names_the_category(family):
    clip = generate_clip(1, 0, SynthConfig(num_frames=2, height=96, width=128, families=(family,)))

    assert {known.category for known in clip.objects} == {family}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "frames"),
        ({"height": 10}, "10x432"),
        ({"num_objects": 51}, "1 to 50"),
        ({"programs": ("strips",)}, "did you mean 'stripes'"),
        ({"families": ()}, "no family"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        SynthConfig(**options)


def test_the_generator_needs_neither_ray_nor_pycocotools_nor_torch():
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['ray', 'pycocotools', 'torch', 'av', 's3fs']));"
        "from rayvos.video.synthetic import *; generate_clip(0, 0, SynthConfig(num_frames=1))"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
