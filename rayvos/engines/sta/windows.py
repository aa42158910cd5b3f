"""Which frames STA looks at together: windows around labelled frames, and which windows a range of frames needs.

Source: STA, evaluation code, and the appendix on annotating data sets. An object's frames count from its first one;
a window is the labelled frame and its neighbours every `interval` frames, as many to one side as are missing on the
other; frames without the object are left out, not replaced. At the ends of a clip many frames share a window.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["RECIPES", "Recipe", "Sampling", "WindowJob", "plan_jobs", "window_of"]

Recipe = Literal["davis", "got10k", "lasot", "youtube-vos"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How windows are made, and which frames get labels."""

    window: int
    """Frames of a window; an even number acts as the odd one below it."""
    interval: int
    """Frames between neighbours in a window."""
    label_every: int = 1
    """Every so many frames from an object's first one get a label."""
    max_labels: int | None = None
    """Labels of an object at most, its first ones; None: no limit."""

    @property
    def reach(self) -> int:
        """Frames between the first and the last of a window."""
        return (self.window - 1) // 2 * 2 * self.interval


RECIPES: dict[Recipe, Sampling] = {
    "davis": Sampling(window=9, interval=5),
    "got10k": Sampling(window=5, interval=15),
    "lasot": Sampling(window=5, interval=15, label_every=5, max_labels=200),
    "youtube-vos": Sampling(window=9, interval=15),
}
"""The authors' settings by data set; frames count as in the videos, not as annotated."""


@dataclass(frozen=True, slots=True)
class WindowJob:
    """One window to solve, and what for."""

    object_id: int
    frames: tuple[int, ...]
    """Ascending; a window's identity."""
    labels: tuple[int, ...]
    """Frames that get their label from it."""
    checks: tuple[int, ...]
    """Frames whose label, from another window, is compared with what this one says."""


def window_of(frame: int, visible: Collection[int], first: int, num_frames: int, sampling: Sampling) -> tuple[int, ...]:
    """Return the frames of the window for `frame`, ascending.

    Args:
        frame: where the object is visible.
        visible: all frames where it is; a set is fast.
        first: frame where the object appears; windows do not reach before it.
        num_frames: of the clip; windows do not reach behind its end.
        sampling: window and interval.
    """
    step = sampling.interval
    before = after = (sampling.window - 1) // 2
    while frame - before * step < first:
        before, after = before - 1, after + 1
    while frame + after * step >= num_frames:
        before, after = before + 1, after - 1
    members = range(frame - before * step, frame + after * step + 1, step)
    return tuple(member for member in members if member in visible)


def labelled_frames(visible: Collection[int], sampling: Sampling) -> frozenset[int]:
    """Return the frames of an object that get a label."""
    if not visible:
        return frozenset()
    first, every = min(visible), sampling.label_every
    stop = None if sampling.max_labels is None else first + every * sampling.max_labels
    return frozenset(frame for frame in visible if (frame - first) % every == 0 and (stop is None or frame < stop))


def plan_jobs(
    visible: Mapping[int, Collection[int]], frames: range, num_frames: int, sampling: Sampling
) -> tuple[list[WindowJob], dict[tuple[int, int], bool]]:
    """Return the windows that labels of `frames` need, each once, and those labels.

    Args:
        visible: the frames where each object is visible, by object.
        frames: the frames to label.
        num_frames: of the clip.
        sampling: window and interval.

    Returns:
        the windows in no particular order, and {(frame, object_id): whether a second window checks the label}.
    """
    jobs: list[WindowJob] = []
    labels: dict[tuple[int, int], bool] = {}
    for object_id, shown in visible.items():
        wanted = labelled_frames(shown, sampling)
        first = min(shown, default=0)
        tasks: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
        for frame in sorted(wanted.intersection(frames)):
            own = window_of(frame, shown, first, num_frames, sampling)
            tasks.setdefault(own, ([], []))[0].append(frame)
            second = None
            for neighbour in (frame - sampling.interval, frame + sampling.interval):
                if second is None and neighbour in wanted:
                    window = window_of(neighbour, shown, first, num_frames, sampling)
                    second = window if window != own and frame in window else None
            if second is not None:
                tasks.setdefault(second, ([], []))[1].append(frame)
            labels[frame, object_id] = second is not None
        jobs += [WindowJob(object_id, window, tuple(own), tuple(checks)) for window, (own, checks) in tasks.items()]
    return jobs, labels
