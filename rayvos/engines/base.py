"""What an engine is: a pure per-clip algorithm, frames and prompts in, labels out.

The same call gives the same labels in a notebook and in an actor: an engine holds its options and weights, draws
randomness only from `(seed, clip_id, object_id)`, reads frames through the reader it is given, and never depends on
which other frames were asked for before. That last rule lets the planner cut a long clip into units: labels of
`frames` may look at images up to `needs().halo` frames to each side, and at nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Clip

__all__ = ["Engine", "EngineNeeds", "FrameReader", "Label", "ObjectProbability", "Propagator"]


class FrameReader(Protocol):
    """Gives the images of one clip; `rayvos.video.source.open_clip` makes one."""

    num_frames: int
    height: int
    width: int

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, image) for ascending, different frames; image: RGB uint8 (height, width, 3).

        Decoding runs ahead in threads; memory stays bounded however many frames are asked for.

        Raises:
            FrameMissingError, FrameSizeError, DecodeError, ImageTooLargeError: naming clip and frame.
        """
        ...

    def close(self) -> None:
        """Stop the threads and close the files."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineNeeds:
    """What the planner and the scheduler must know of an engine."""

    halo: int | None
    """Frames of context on each side of a frame range; None: a clip cannot be split."""
    seconds_per_frame: float
    """Rough cost of a 480x854 frame without its objects (decode, flow), on one CPU core (or on the GPU it needs)."""
    seconds_per_label: float
    """Rough cost of one object on one such frame; of larger frames, more."""
    seconds_per_crop: float = 0.0
    """Rough cost of one object on one frame of any size: where the network sees a crop of its own size."""
    seconds_per_clip: float = 0.0
    """Rough cost of a clip, whatever its length: adaptation."""
    seconds_per_masked_object: float = 0.0
    """Rough cost of an object of which a person gave masks, once per clip: fine-tuning."""
    separate_objects: bool = False
    """Labels of an object do not depend on what is said of the clip's others: a correction leaves theirs alone."""
    num_cpus: float = 1
    num_gpus: float = 0
    memory_bytes: int = 1 << 30
    """Peak of a worker at 1080p, the interpreter included."""


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """What an engine says of one object on one frame."""

    frame: int
    object_id: int
    mask: NDArray[np.bool_] | None
    """(height, width), True on the object; None: absent."""
    score: float | None = None
    """Predicted IoU in [0, 1]; None where absent."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """The score's terms by name, each a finite number."""


@runtime_checkable
class Engine(Protocol):
    """A labeler. A user's own engine is named `package.module:Class` and is called with its options as keywords."""

    name: str
    weights: str
    """Digest of the weights; empty for an engine without any."""

    def options(self) -> Mapping[str, Any]:
        """Return everything besides the weights that labels depend on, as plain JSON values."""
        ...

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know."""
        ...

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame of `frames` and every object of the clip, ordered by (frame, object_id).

        An object without a visible box (or another prompt the engine uses) on a frame is absent there.
        Memory is bounded however long `frames` is.

        Raises:
            InputError: the clip's prompts or frames cannot be used.
            EngineError: the algorithm failed.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ObjectProbability:
    """Where an engine believes one object to be on one frame."""

    frame: int
    object_id: int
    probability: NDArray[np.float32]
    """(height, width) of the clip, in [0, 1]; zero everywhere where nothing is known of the object."""


@runtime_checkable
class Propagator(Engine, Protocol):
    """An engine that also gives probabilities, on frames far from its prompts, too: what candidates are mined from."""

    def probabilities(self, clip: Clip, images: FrameReader, frames: Sequence[int]) -> Iterator[ObjectProbability]:
        """Yield one map for every frame of `frames` (ascending) and every object, ordered by (frame, object_id).

        Which frames are asked for changes no map. Memory is bounded however many there are.

        Raises:
            InputError: the clip's prompts or frames cannot be used.
            EngineError: the algorithm failed.
        """
        ...
