"""The engine `stcn` on the golden clips: the official masks, from images and mask prompts."""

from __future__ import annotations

import numpy as np
import pytest

from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.masks.rle import mask_to_rle
from tests.engines.stcn_clips import Images, make_engine
from tests.goldens.stcn_cases import GOLDENS, case_names, load_case

if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
CASES = [name for name in case_names("near_tie") if not name.startswith("stm")]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CASES)
def test_labels_equal_the_official_masks_outside_near_ties(monkeypatch, name):
    data, meta = load_case(name)
    frames, golden = data["frames"], data["masks"]
    masks = tuple(
        MaskPrompt(i, int(frame), mask_to_rle(data["labels_in"][int(frame)] == i))
        for frame, ids in meta["annotated"].items()
        for i in ids
    )
    objects = tuple(ObjectInfo(i) for i in range(1, meta["num_objects"] + 1))
    clip = Clip("golden", ClipSource("images", "-"), *frames.shape[1:3], len(frames), objects=objects, masks=masks)
    engine = make_engine(
        monkeypatch,
        direction="both" if "bidirectional" in meta["engine"] else "forward",
        memory_every=meta["mem_every"],
        top_k=meta["top_k"],
        remember_last=meta["include_last"],
    )

    labels = np.zeros_like(golden)
    for label in engine.label(clip, Images(frames), range(len(frames))):
        if label.mask is not None:
            labels[label.frame][label.mask] = label.object_id

    near_tie = np.unpackbits(data["near_tie"])[: golden.size].reshape(golden.shape).astype(bool)
    given = [mask.frame for mask in masks]
    near_tie[given] = True  # given masks come back as they are, aggregated or not
    assert not ((labels != golden) & ~near_tie).any()
