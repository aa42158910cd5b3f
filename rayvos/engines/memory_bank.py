"""The memory of a propagation: keys and values of the frames that later frames read.

Every frame that enters is encoded for all objects known then, so that an object's memory is what came in since it was
first annotated. Keys are shared by all objects; objects first annotated on the same frame share the affinity, too.

Layouts: K objects, N memory positions, Q query positions, S positions of a frame, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MemoryBank"]

CHUNK_FRAMES = 16  # of memory whose affinity is held at once: bounds the peak; below it nothing is chunked


@dataclass(slots=True)
class _Slot:
    order: int
    """Counts what entered the bank."""
    permanent: bool
    temporary: bool


class MemoryBank:
    """Holds memory frames; grows by doubling, or forgets its oldest prediction when it is full."""

    def __init__(self, num_objects: int, *, max_frames: int | None = None) -> None:
        """Make an empty bank.

        Args:
            num_objects: number of objects that may enter.
            max_frames: predicted frames kept at most, and annotated ones (besides each object's first, which are
                never forgotten); None: all, as the official implementation.
        """
        self._num_objects = num_objects
        self._max_frames = max_frames
        self._slots: list[_Slot] = []
        self._entered = 0
        self._since: dict[int, int] = {}  # object -> order of its first frame
        self._size = 0
        self._key_NC = torch.empty(0)
        self._half_norm_N = torch.empty(0)
        self._value_KNC = torch.empty(0)

    def __len__(self) -> int:
        """Return the number of frames held."""
        return len(self._slots)

    def add(
        self,
        key_SC: Tensor,
        value_KSC: Tensor,
        objects: Sequence[int],
        *,
        permanent: bool = False,
        temporary: bool = False,
    ) -> None:
        """Let a frame enter.

        Args:
            key_SC: (S, C) the frame's keys.
            value_KSC: (len(objects), S, C) its values, in the order of `objects`.
            objects: the objects known by now, all that entered before among them.
            permanent: an annotated frame.
            temporary: replaced by whatever enters next.
        """
        slot = self._take_slot(key_SC, value_KSC, permanent)
        rows = slice(slot * self._size, (slot + 1) * self._size)
        self._slots[slot] = _Slot(self._entered, permanent, temporary)
        for position in objects:
            self._since.setdefault(position, self._entered)
        self._entered += 1
        self._key_NC[rows] = key_SC
        self._half_norm_N[rows] = key_SC.float().square().sum(1) / key_SC.shape[1] ** 0.5
        # An index of all objects would be copied, and a GPU waited for.
        self._value_KNC[slice(None) if len(objects) == self._num_objects else list(objects), rows] = value_KSC

    def _take_slot(self, key_SC: Tensor, value_KSC: Tensor, permanent: bool) -> int:
        for index, slot in enumerate(self._slots):
            if slot.temporary:
                return index
        firsts = set(self._since.values())
        alike = [
            index for index, slot in enumerate(self._slots) if slot.permanent == permanent and slot.order not in firsts
        ]
        if self._max_frames is not None and len(alike) >= max(1, self._max_frames):
            return min(alike, key=lambda index: self._slots[index].order)
        if (len(self._slots) + 1) * len(key_SC) > self._key_NC.shape[0]:
            self._grow(key_SC, value_KSC)
        self._slots.append(_Slot(0, permanent=False, temporary=False))
        return len(self._slots) - 1

    def _grow(self, key_SC: Tensor, value_KSC: Tensor) -> None:
        size, key_channels = key_SC.shape
        capacity = size * max(4, 2 * len(self._slots))
        held = len(self._slots) * size
        # Similarities need float32, also where the network computes in half precision.
        key_NC = key_SC.new_empty(capacity, key_channels, dtype=torch.float32)
        half_norm_N = key_SC.new_empty(capacity, dtype=torch.float32)
        # Values of objects that a frame did not know are never read, but must not be NaN where they are multiplied.
        value_KNC = value_KSC.new_zeros(self._num_objects, capacity, value_KSC.shape[2])
        if held:
            key_NC[:held], half_norm_N[:held] = self._key_NC[:held], self._half_norm_N[:held]
            value_KNC[:, :held] = self._value_KNC[:, :held]
        self._size, self._key_NC, self._half_norm_N, self._value_KNC = size, key_NC, half_norm_N, value_KNC

    def read(self, query_QC: Tensor, objects: Sequence[int], top_k: int) -> Tensor:
        """Return what each query position reads for each object: (len(objects), Q, C).

        A query reads the values of its `top_k` most similar positions of the object's memory, softmax-weighted.
        Similarity is the negative squared distance over the root of the key's length; the query's own norm shifts
        all alike and is left out.
        """
        readout_KQC = self._value_KNC.new_empty(len(objects), query_QC.shape[0], self._value_KNC.shape[2])
        groups: dict[int, list[int]] = {}
        for position, known in enumerate(objects):
            groups.setdefault(self._since[known], []).append(position)
        for since, positions in groups.items():
            slots = [index for index, slot in enumerate(self._slots) if slot.order >= since]
            weight_QT, index_QT = self._most_similar(query_QC, slots, top_k)
            for position in positions:
                value_NC = self._value_KNC[objects[position]]
                readout_KQC[position] = F.embedding_bag(
                    index_QT, value_NC, per_sample_weights=weight_QT.to(value_NC.dtype), mode="sum"
                )
        return readout_KQC

    def _most_similar(self, query_QC: Tensor, slots: list[int], top_k: int) -> tuple[Tensor, Tensor]:
        """Return the weights and the rows of the best positions in `slots`, some frames of memory at a time."""
        best: list[Tensor] = []
        rows: list[Tensor] = []
        scaled_QC = query_QC.float() * (2 * query_QC.shape[1] ** -0.5)
        for run in _runs(slots):
            start, stop = run.start * self._size, run.stop * self._size
            with torch.autocast(query_QC.device.type, enabled=False):
                affinity_QN = torch.addmm(
                    self._half_norm_N[None, start:stop], scaled_QC, self._key_NC[start:stop].T, beta=-1
                )
            found, index = affinity_QN.topk(min(top_k, affinity_QN.shape[1]), 1)
            best.append(found)
            rows.append(index + start)
        best_QT, index_QT = torch.cat(best, 1), torch.cat(rows, 1)
        if best_QT.shape[1] > top_k:
            best_QT, place = best_QT.topk(top_k, 1)
            index_QT = index_QT.gather(1, place)
        return torch.softmax(best_QT, 1), index_QT


def _runs(slots: list[int]) -> list[range]:
    """Return the ascending slots as runs of neighbours, `CHUNK_FRAMES` long at most."""
    runs: list[range] = []
    for slot in slots:
        if runs and runs[-1].stop == slot and len(runs[-1]) < CHUNK_FRAMES:
            runs[-1] = range(runs[-1].start, slot + 1)
        else:
            runs.append(range(slot, slot + 1))
    return runs
