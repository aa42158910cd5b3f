"""Whole propagations against the official implementation: same masks outside near-ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayvos.engines.stcn.propagation import MemoryRule, pad_to_stride, propagate, unpad
from tests.goldens.stcn_cases import GOLDENS, case_names, formula_network, load_case, normalised

if not GOLDENS.is_dir():
    pytest.skip(f"no golden files at {GOLDENS}; set RAYVOS_GOLDENS", allow_module_level=True)
CASES = [name for name in case_names("near_tie") if not name.startswith("stm")]
PROBABILITY = 2e-3  # the goldens hold float16

pytestmark = pytest.mark.slow


class Case:
    """One golden clip, its features computed once."""

    def __init__(self, name: str) -> None:
        self.data, self.meta = load_case(name)
        self.pad = tuple(self.meta["pad"])
        self.num_frames = len(self.data["frames"])
        self.annotations = {int(frame): self._masks(int(frame), ids) for frame, ids in self.meta["annotated"].items()}
        self.start = min(self.annotations)
        self.rule = MemoryRule(self.meta["mem_every"], self.meta["top_k"], self.meta["include_last"])
        self._features: dict[int, tuple] = {}
        self.encoded: list[int] = []

    def _masks(self, frame: int, ids: list[int]) -> dict[int, torch.Tensor]:
        labels = self.data["labels_in"][frame]
        return {i - 1: pad_to_stride(torch.from_numpy((labels == i).astype(np.float32)))[0] for i in ids}

    def encode(self, frame: int) -> tuple:
        self.encoded.append(frame)
        if frame not in self._features:
            image = pad_to_stride(normalised(self.data, frame))[0][None]
            self._features[frame] = image, formula_network().encode_key(image)
        return self._features[frame]

    @torch.inference_mode()
    def run(self, frames: range, **options) -> dict[int, np.ndarray]:
        options.setdefault("rule", self.rule)
        found = propagate(formula_network(), self.encode, frames, self.annotations, self.meta["num_objects"], **options)
        return {frame: unpad(probability, self.pad).numpy() for frame, probability in found}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    return Case(request.param)


def test_the_golden_folder_holds_cases():
    assert CASES


def test_masks_and_probabilities_equal_the_official_ones(case):
    found = case.run(range(case.start, case.num_frames))
    if "bidirectional" in case.meta["engine"]:
        found |= case.run(range(case.start, -1, -1))
    probability = np.stack([found[frame] for frame in range(case.num_frames)], 1)

    golden = case.data["masks"]
    near_tie = np.unpackbits(case.data["near_tie"])[: golden.size].reshape(golden.shape).astype(bool)
    assert not ((probability.argmax(0) != golden) & ~near_tie).any()
    assert np.abs(probability[:, :, 2::4, 2::4] - case.data["prob_ds4"].astype(np.float32)).max() <= PROBABILITY


def test_frames_that_nobody_asked_for_are_skipped_and_the_others_stay_the_same(case):
    if "req_frames" not in case.data.files:
        pytest.skip("the case asks for all frames")
    wanted = case.data["req_frames"].tolist()
    case.encoded.clear()

    found = case.run(range(case.start, case.num_frames), wanted=set(wanted))

    masks = np.stack([found[frame].argmax(0) for frame in wanted])
    assert np.array_equal(masks, case.data["req_masks"])
    assert len(case.encoded) < case.num_frames


def test_memory_at_absolute_frame_numbers_equals_the_official_davis_script(case):
    if "abs_masks" not in case.data.files:
        pytest.skip("the case holds no absolute variant")
    rule = MemoryRule(case.meta["mem_every"], case.meta["top_k"], phase=case.start)

    found = case.run(range(case.start, case.num_frames), rule=rule)

    masks = np.stack([found[frame].argmax(0) for frame in range(case.start, case.num_frames)])
    assert (masks != case.data["abs_masks"]).mean() < 1e-5
