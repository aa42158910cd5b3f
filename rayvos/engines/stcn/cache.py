"""What the backward pass computed of frames alone, kept for the forward pass, which begins where that one ends."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rayvos.engines.stcn.steps import Features

__all__ = ["FeatureCache"]


class FeatureCache:
    """Images and features of frames, as many as fit; the last ones that came push out the first."""

    def __init__(self, limit_bytes: int) -> None:
        """Make an empty cache; a limit of 0 keeps nothing."""
        self._limit_bytes = limit_bytes
        self._kept: dict[int, tuple[Tensor, Features]] = {}

    def put(self, frame: int, image: Tensor, features: Features) -> None:
        """Keep a frame; the frames of a clip take the same number of bytes."""
        size = sum(maps.numel() * maps.element_size() for maps in (image, *features))
        if size > self._limit_bytes:
            return
        while (len(self._kept) + 1) * size > self._limit_bytes:
            del self._kept[next(iter(self._kept))]
        self._kept[frame] = (image, features)

    def take(self, frame: int) -> tuple[Tensor, Features] | None:
        """Return and forget what is kept of a frame; None: nothing is."""
        return self._kept.pop(frame, None)

    def without(self, frames: Iterable[int]) -> list[int]:
        """Return the frames of which nothing is kept."""
        return [frame for frame in frames if frame not in self._kept]
