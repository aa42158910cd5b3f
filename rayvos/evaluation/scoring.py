"""Scores all clips of a prediction by a protocol, wherever the clips are worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayvos.errors import InputError
from rayvos.evaluation.protocols import VosProtocol
from rayvos.evaluation.results import Evaluation, ObjectScores
from rayvos.evaluation.sources import FrameMatch, MaskSource, check_clips, match_frames
from rayvos.evaluation.tasks import TaskMap, run_here

__all__ = ["ClipScorer", "evaluate", "group_clips", "matches", "score_clips"]

FRAMES_PER_TASK = 5000  # of RLE masks, some 2 kB each and object


@dataclass(frozen=True, slots=True, eq=False)
class ClipScorer:
    """Scores clips by a protocol; survives pickling."""

    truth: MaskSource
    prediction: MaskSource
    protocol: VosProtocol

    def __call__(self, clip_ids: Sequence[str]) -> list[list[ObjectScores]]:
        """Return the objects of each clip."""
        return [self.protocol.score_clip(match) for match in matches(self.truth, self.prediction, clip_ids)]


def matches(truth: MaskSource, prediction: MaskSource, clip_ids: Sequence[str]) -> Iterator[FrameMatch]:
    """Yield the clips of both sources with their frames matched."""
    pairs = zip(truth.open_clips(clip_ids), prediction.open_clips(clip_ids), strict=True)
    for true_clip, predicted_clip in pairs:
        yield match_frames(true_clip, predicted_clip)


def score_clips(
    worker: Callable[[Sequence[str]], list[Any]],
    truth: MaskSource,
    prediction: MaskSource,
    clip_ids: Sequence[str] | None,
    *,
    run: TaskMap = run_here,
    on_clips: Callable[[int], None] | None = None,
) -> list[Any]:
    """Apply a worker to all clips, some neighbouring ones at a time, the longest tasks first.

    Args:
        worker: clip ids in, one result per clip out; survives pickling.
        truth: names the clips.
        prediction: must have them.
        clip_ids: which clips; None is all that the truth has.
        run: where to.
        on_clips: called with the number of clips that are newly done.

    Returns:
        One result per clip, in the order of the clips.
    """
    chosen = list(truth.num_frames if clip_ids is None else clip_ids)
    unknown = [clip_id for clip_id in chosen if clip_id not in truth.num_frames]
    if unknown:
        raise InputError(
            f"{truth.path}: no annotated clip {unknown[0]!r}; it has {', '.join(list(truth.num_frames)[:5])}"
        )
    check_clips(truth, prediction, chosen)
    tasks = group_clips(chosen, truth.num_frames, max(truth.clips_per_task, prediction.clips_per_task))
    tasks.sort(key=lambda task: -sum(truth.num_frames[clip_id] for clip_id in task))
    found: dict[str, Any] = {}
    for position, results in run(worker, tasks):
        found.update(zip(tasks[position], results, strict=True))
        if on_clips is not None:
            on_clips(len(results))
    return [found[clip_id] for clip_id in chosen]


def group_clips(clip_ids: Sequence[str], num_frames: Mapping[str, int], most: int) -> list[tuple[str, ...]]:
    """Return neighbouring clips in groups of at most `most` clips and some thousand frames.

    The limit of frames bounds the memory of a task; a longer clip is a group of its own.
    """
    groups: list[tuple[str, ...]] = []
    group: list[str] = []
    frames = 0
    for clip_id in clip_ids:
        if group and (len(group) == most or frames + num_frames[clip_id] > FRAMES_PER_TASK):
            groups.append(tuple(group))
            group, frames = [], 0
        group.append(clip_id)
        frames += num_frames[clip_id]
    return [*groups, tuple(group)] if group else groups


def evaluate(
    truth: MaskSource,
    prediction: MaskSource,
    protocol: VosProtocol,
    *,
    clip_ids: Sequence[str] | None = None,
    run: TaskMap = run_here,
    on_clips: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score a prediction by a protocol.

    Args:
        truth: the true masks.
        prediction: masks of the same clips, with the truth's ids.
        protocol: the benchmark.
        clip_ids: which clips; None is all that the truth has.
        run: where clips are scored: here, `run_in_processes(n)`, or a cluster's map.
        on_clips: called with the number of clips that are newly done.

    Raises:
        InputError: what was given cannot be scored by this protocol; naming the file.
        StorageError: a file cannot be read.
    """
    worker = ClipScorer(truth, prediction, protocol)
    per_clip = score_clips(worker, truth, prediction, clip_ids, run=run, on_clips=on_clips)
    objects = tuple(scores for clip in per_clip for scores in clip)
    if not objects:
        raise InputError(f"{truth.path}: no object to score in {len(per_clip)} clips; is this the right truth?")
    summary = protocol.summarize(objects)
    return Evaluation(protocol.name, truth.path, prediction.path, objects, summary, protocol.scale)
