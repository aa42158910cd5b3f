"""The order in which STA solves windows, so that a bounded ring of frames' codes serves them all.

Every window needs the codes of its frames, and a code costs about a quarter of a label. All windows are known
beforehand, so the ring can drop the code that is needed last (or never again), which no other rule beats.

Why so: in the order of time a code is needed for as long as a window reaches, which is 120 frames and 2 GB per object
by the authors' settings for YouTube-VOS. Where the ring is smaller than that, blocks of frames are taken object by
object and, as windows hold every n-th frame only, residue by residue: then few codes are alive at a time, and only
those at a block's edges are computed twice. Labels are the same either way.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from rayvos.engines.sta.windows import Sampling, WindowJob

__all__ = ["BLOCK_REACHES", "Key", "Step", "plan_steps"]

Key = tuple[int, int]  # (object_id, frame)
BLOCK_REACHES = 2  # frames of a block, in reaches of a window: a longer one holds more pictures and scores


@dataclass(frozen=True, slots=True)
class Step:
    """Windows that are solved together."""

    jobs: tuple[WindowJob, ...]
    encode: tuple[Key, ...]
    """Codes to compute first, by frame."""
    forget: tuple[Key, ...]
    """Codes to drop before that."""


def plan_steps(jobs: Sequence[WindowJob], sampling: Sampling, *, capacity: int, together: int) -> list[Step]:
    """Return the steps that solve all windows, with as few codes computed twice as the ring allows.

    Args:
        jobs: as `sta_windows.plan_jobs` gives them.
        sampling: how their windows were made.
        capacity: codes in the ring; a step that needs more of them gets them.
        together: windows of a step.
    """
    distinct = len({(job.object_id, frame) for job in jobs for frame in job.frames})
    steps = _simulate(sorted(jobs, key=_by_time), capacity, together)
    if _num_encoded(steps) > distinct:
        block = max(1, BLOCK_REACHES * sampling.reach)

        def by_block(job: WindowJob) -> tuple[int, ...]:
            frame = min(job.labels + job.checks)
            return frame // block, job.object_id, job.frames[0] % sampling.interval, frame

        blocked = _simulate(sorted(jobs, key=by_block), capacity, together)
        if _num_encoded(blocked) < _num_encoded(steps):
            return blocked
    return steps


def _by_time(job: WindowJob) -> tuple[int, int]:
    return min(job.labels + job.checks), job.object_id


def _num_encoded(steps: Sequence[Step]) -> int:
    return sum(len(step.encode) for step in steps)


def _simulate(jobs: Sequence[WindowJob], capacity: int, together: int) -> list[Step]:
    groups = [tuple(jobs[start : start + together]) for start in range(0, len(jobs), together)]
    needs = [{(job.object_id, frame) for job in group for frame in job.frames} for group in groups]
    uses: dict[Key, list[int]] = defaultdict(list)
    for position, needed in enumerate(needs):
        for key in needed:
            uses[key].append(position)
    held: set[Key] = set()
    steps = []
    for position, (group, needed) in enumerate(zip(groups, needs, strict=True)):

        def next_use(key: Key, position: int = position) -> int:
            later = bisect.bisect_left(uses[key], position)
            return uses[key][later] if later < len(uses[key]) else len(groups)

        idle = sorted(held - needed, key=lambda key: (next_use(key), key))
        room = max(0, capacity - len(needed))
        kept = [key for key in idle[:room] if next_use(key) < len(groups)]
        forget = tuple(sorted(held - needed - set(kept)))
        missing = sorted(needed - held, key=lambda key: (key[1], key[0]))
        steps.append(Step(group, tuple(missing), forget))
        held = needed | set(kept)
    return steps
