"""Which frame of an object is worth a person's mask."""

from __future__ import annotations

from collections.abc import Collection

from rayvos.errors import UsageError

__all__ = ["middle_frame"]


def middle_frame(frames: Collection[int]) -> int:
    """Return the middle one of the frames in which an object appears, the later of two.

    The middle of the object's own frames looks most like all the others; the middle of the clip may not even show
    it. Source: Box2Seg (fine-tuning on the middle frame's mask: 87.6 mean IoU, on the first frame's: 86.7).

    Args:
        frames: in any order, without gaps or with.

    Raises:
        UsageError: there is no frame.
    """
    if not frames:
        raise UsageError("middle frame: expected frames in which the object appears, found none")
    return sorted(set(frames))[len(set(frames)) // 2]
