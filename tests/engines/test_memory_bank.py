"""The memory of a propagation against a slow twin that keeps one list of frames per object."""

from __future__ import annotations

import pytest
import torch

from rayvos.engines.stcn import memory_bank
from rayvos.engines.stcn.memory_bank import MemoryBank
from rayvos.models.stcn import KEY_CHANNELS

SIZE = 6  # positions of a frame
NUM_VALUES = 512


def frame(generator: torch.Generator, num_objects: int) -> tuple[torch.Tensor, torch.Tensor]:
    key = torch.randn(SIZE, KEY_CHANNELS, generator=generator)
    return key, torch.randn(num_objects, SIZE, NUM_VALUES, generator=generator)


def slow_read(keys: list[torch.Tensor], values: list[torch.Tensor], query: torch.Tensor, top_k: int) -> torch.Tensor:
    key, value = torch.cat(keys), torch.cat(values)
    affinity = -torch.cdist(query.double(), key.double()).square() / KEY_CHANNELS**0.5
    best, index = affinity.topk(min(top_k, len(key)), 1)
    weight = torch.zeros_like(affinity).scatter(1, index, torch.softmax(best, 1))
    return (weight @ value.double()).float()


@pytest.mark.parametrize(("num_bytes", "least_frames"), [(1, 1), (400, 100), (1 << 20, 1)])
@pytest.mark.parametrize("top_k", [1, 5, 1000])
def test_objects_read_what_entered_since_they_were_known(monkeypatch, num_bytes, least_frames, top_k):
    monkeypatch.setitem(memory_bank.AFFINITY_BYTES, "cpu", num_bytes)
    monkeypatch.setattr(memory_bank, "LEAST_FRAMES", least_frames)
    generator = torch.Generator().manual_seed(top_k)
    bank = MemoryBank(2)
    keys, values = [], []
    for position in range(7):
        objects = [0] if position < 3 else [0, 1]
        key, value = frame(generator, len(objects))
        bank.add(key, value, objects)
        keys.append(key)
        values.append(value)
    query = torch.randn(4, KEY_CHANNELS, generator=generator)

    found = bank.read(query, [0, 1], top_k)

    assert torch.allclose(found[0], slow_read(keys, [v[0] for v in values], query, top_k), atol=1e-4)
    assert torch.allclose(found[1], slow_read(keys[3:], [v[1] for v in values[3:]], query, top_k), atol=1e-4)


def test_a_temporary_frame_is_replaced_by_the_next_one():
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(1)
    kept, dropped, last = (frame(generator, 1) for _ in range(3))
    bank.add(*kept, [0], permanent=True)
    bank.add(*dropped, [0], temporary=True)
    bank.add(*last, [0])
    query = torch.randn(3, KEY_CHANNELS, generator=generator)

    assert len(bank) == 2
    expected = slow_read([kept[0], last[0]], [kept[1][0], last[1][0]], query, 100)
    assert torch.allclose(bank.read(query, [0], 100)[0], expected, atol=1e-4)


def test_a_full_memory_forgets_its_oldest_prediction_and_no_annotation():
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(1, max_frames=2)
    frames = [frame(generator, 1) for _ in range(6)]
    for position, (key, value) in enumerate(frames):
        bank.add(key, value, [0], permanent=position in (0, 3))
    query = torch.randn(3, KEY_CHANNELS, generator=generator)

    assert len(bank) == 4
    held = [frames[position] for position in (0, 3, 4, 5)]
    expected = slow_read([key for key, _ in held], [value[0] for _, value in held], query, 100)
    assert torch.allclose(bank.read(query, [0], 100)[0], expected, atol=1e-4)


def test_a_budget_holds_for_annotated_frames_too_but_never_forgets_an_objects_first():
    generator = torch.Generator().manual_seed(2)
    bank = MemoryBank(2, max_frames=2)
    frames = [frame(generator, 2) for _ in range(7)]
    bank.add(frames[0][0], frames[0][1][:1], [0], permanent=True)
    for key, value in frames[1:]:
        bank.add(key, value, [0, 1], permanent=True)
    query = torch.randn(3, KEY_CHANNELS, generator=generator)

    found = bank.read(query, [0, 1], 1000)

    kept = [frames[position] for position in (0, 1, 5, 6)]
    assert len(bank) == 4
    assert torch.allclose(found[0], slow_read([k for k, _ in kept], [v[0] for _, v in kept], query, 100), atol=1e-4)
    late = kept[1:]
    assert torch.allclose(found[1], slow_read([k for k, _ in late], [v[1] for _, v in late], query, 100), atol=1e-4)
