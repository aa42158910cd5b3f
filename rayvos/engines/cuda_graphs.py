"""Records the kernels of a function on a GPU, and launches them as one graph from then on.

Why so: a network of some hundred small layers on one frame keeps a GPU busy for less time than a CPU needs to launch
its kernels one by one. A recording belongs to the shapes of its arguments; frames of a clip share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RecordedCall"]

CALLS_BEFORE = 2  # ordinary calls with the same shapes: libraries choose algorithms and allocate in them
MOST_RECORDINGS = 4  # each keeps its activations


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class RecordedCall:
    """A function of tensors that launches its kernels at once; on a CPU, the function itself.

    The function must do the same for all arguments of the same shapes: no branch on values, nothing that waits for
    the GPU. Results are new tensors, as the function's own would be.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        self._function = function
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the function returns for these arguments, all on one device."""
        if inputs[0].device.type != "cuda":
            return self._function(*inputs)
        settings = (torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"))
        key = (*((given.shape, given.dtype, given.device) for given in inputs), settings)
        if key not in self._recordings:
            self._calls[key] += 1
            if self._calls[key] <= CALLS_BEFORE:
                return self._function(*inputs)
            while len(self._recordings) >= MOST_RECORDINGS:
                del self._recordings[next(iter(self._recordings))]
            with torch.cuda.device(inputs[0].device):
                self._recordings[key] = self._record(inputs)
        recording = self._recordings[key]
        for place, given in zip(recording.inputs, inputs, strict=True):
            place.copy_(given)
        recording.graph.replay()
        return tuple(found.clone() for found in recording.outputs)

    def _record(self, inputs: tuple[Tensor, ...]) -> _Recording:
        places = tuple(given.clone() for given in inputs)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # what libraries allocate per stream must be there before the recording
            self._function(*places)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
            outputs = self._function(*places)
        return _Recording(graph, places, outputs)
