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

AFFINITY_BYTES = {"cpu": 12 << 20, "cuda": 256 << 20}  # held at once: bounds the peak, and stays in a CPU's cache
LEAST_FRAMES = 4  # whose best places are found in two steps; in fewer, one is as fast


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
        """Return the weights and the rows of the best positions in `slots`, some queries at a time."""
        key_NC, half_norm_N, row_N = self._key_NC, self._half_norm_N, None
        if slots == list(range(len(slots))):
            key_NC, half_norm_N = key_NC[: len(slots) * self._size], half_norm_N[: len(slots) * self._size]
        else:
            first_T1 = torch.tensor(slots, device=key_NC.device)[:, None] * self._size
            row_N = (first_T1 + torch.arange(self._size, device=key_NC.device)).flatten()
            key_NC, half_norm_N = key_NC[row_N], half_norm_N[row_N]
        scaled_QC = query_QC.float() * (2 * query_QC.shape[1] ** -0.5)
        at_once = max(1, AFFINITY_BYTES[query_QC.device.type] // (4 * len(key_NC)))
        best, index = [], []
        for part_QC in scaled_QC.split(at_once):
            with torch.autocast(query_QC.device.type, enabled=False):
                affinity_QN = torch.addmm(half_norm_N[None], part_QC, key_NC.T, beta=-1)
            best_QT, index_QT = _largest(affinity_QN, top_k, self._size)
            best.append(best_QT)
            index.append(index_QT)
        index_QT = torch.cat(index)
        return torch.softmax(torch.cat(best), 1), index_QT if row_N is None else row_N[index_QT]


def _largest(affinity_QN: Tensor, top_k: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the largest similarities of each query and their columns; memory frames have `size` columns each.

    The best places of the frame are those with the largest similarity in any memory frame, and hold all that is
    looked for: a reduction and two short selections take half the time of one long selection.
    """
    num_frames = affinity_QN.shape[1] // size
    top_k = min(top_k, affinity_QN.shape[1])
    if num_frames < LEAST_FRAMES or top_k > size:
        best_QT, index_QT = affinity_QN.topk(top_k, 1)
        return best_QT, index_QT
    place_QT = affinity_QN.view(-1, num_frames, size).amax(1).topk(top_k, 1, sorted=False).indices
    first_T1 = torch.arange(num_frames, device=affinity_QN.device)[:, None] * size
    column_QN = (place_QT[:, None] + first_T1).flatten(1)
    best_QT, index_QT = affinity_QN.gather(1, column_QN).topk(top_k, 1)
    return best_QT, column_QN.gather(1, index_QT)
