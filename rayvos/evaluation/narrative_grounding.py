"""Video narrative grounding: a mask track for each marked noun of a text.

    truth    meta_expressions.json and one or more YouTube-VIS-like files with the masks of its `obj_id`s
    results  <video>/<expression>/<frame number>.png, anything drawn is foreground; numbers count from 0 or from 1

Score: mean over expressions of the mean J (F) over the frames that have a true mask, first and last included.
Source: video-localized-narratives, `eval_vng.py`; Point-VOS paper, Table 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayvos.errors import FormatError, FrameMissingError, InputError
from rayvos.evaluation.frame_scores import score_objects
from rayvos.evaluation.json_source import read_json, to_rle
from rayvos.evaluation.mask_frames import RleFrame, check_sizes
from rayvos.evaluation.outlines import BOUND_TH, boundary_radius
from rayvos.evaluation.png_source import PngClip, PngSource
from rayvos.evaluation.results import Evaluation, ObjectScores
from rayvos.evaluation.statistics import mean_of_numbers
from rayvos.evaluation.tasks import TaskMap, run_here

__all__ = ["Expression", "evaluate_expressions", "read_expressions"]


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """One marked noun of one video."""

    clip_id: str
    """`<video>/<expression>`, as the results name its folder."""
    size: tuple[int, int]
    """Height and width."""
    rles: Mapping[int, bytes]
    """True masks by frame, counted from 0; frames without a mask are not scored."""
    num_frames: int


def read_expressions(meta: str, masks: Sequence[str]) -> list[Expression]:
    """Read the expressions of a data set and their true masks.

    Args:
        meta: path or URL of `meta_expressions.json`.
        masks: paths or URLs of the mask files: the data set's own, and the extra one.

    Raises:
        FormatError: a file is not of its form, or an expression's object has no masks.
    """
    annotations: dict[int, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {}
    for path in masks:
        found = read_json(path)
        try:
            videos = {video["id"]: video for video in found["videos"]}
            for annotation in found["annotations"]:
                annotations.setdefault(annotation["id"], (annotation, videos[annotation["video_id"]], path))
        except (KeyError, TypeError) as error:
            raise FormatError(f"{path}: expected videos and annotations, failed at {error!r}") from error
    try:
        videos_by_name = read_json(meta)["videos"]
        return [
            _expression(f"{name}/{number}", known["obj_id"], annotations, videos_by_name[name]["frames"])
            for name in sorted(videos_by_name)
            for number, known in sorted(videos_by_name[name]["expressions"].items(), key=lambda item: int(item[0]))
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{meta}: expected videos with frames and expressions, failed at {error!r}") from error


def _expression(
    clip_id: str,
    object_id: int,
    annotations: Mapping[int, tuple[Mapping[str, Any], Mapping[str, Any], str]],
    frames: Sequence[str],
) -> Expression:
    if object_id not in annotations:
        raise FormatError(f"expression {clip_id}: no masks of object {object_id}; pass every mask file with --masks")
    annotation, video, path = annotations[object_id]
    place = f"{path} annotation {object_id}"
    segmentations = annotation["segmentations"]
    # UVO (its videos carry `ytid`) annotates some frames and names them; OVIS lists every frame.
    numbers = [_frame_number(name) for name in video["file_names"]] if "ytid" in video else range(len(segmentations))
    if len(numbers) != len(segmentations):
        raise FormatError(f"{place}: {len(segmentations)} masks for {len(numbers)} frames; expected one per frame")
    given = {number: mask for number, mask in zip(numbers, segmentations, strict=True) if mask is not None}
    if not given:
        raise FormatError(f"{place}: no mask on any frame, so expression {clip_id} cannot be scored; remove it")
    height, width = (video["height"], video["width"]) if "height" in video else next(iter(given.values()))["size"]
    rles = {number: to_rle(mask, height, width, place) for number, mask in sorted(given.items())}
    return Expression(clip_id, (height, width), rles, len(frames))


def _frame_number(name: str) -> int:
    digits = re.findall(r"\d+", name.rsplit("/", 1)[-1])
    if not digits:
        raise ValueError(f"file name {name!r} holds no frame number")
    return int(digits[-1])


@dataclass(frozen=True, slots=True, eq=False)
class _ExpressionScorer:
    expressions: Mapping[str, Expression]
    prediction: PngSource
    bound_th: float

    def __call__(self, clip_id: str) -> ObjectScores:
        (clip,) = self.prediction.open_clips([clip_id])
        return _score(self.expressions[clip_id], clip, self.bound_th)


def _score(expression: Expression, clip: PngClip, bound_th: float) -> ObjectScores:
    numbers = [_frame_number(name) for name in clip.names]
    first = 0 if 0 in numbers else 1  # the official tool counts from 1 where no file is numbered 0
    place = {number - first: position for position, number in enumerate(numbers)}
    radius = boundary_radius(expression.size[0], expression.size[1], bound_th)
    scores = []
    for frame, rle in expression.rles.items():
        if frame not in place:
            raise FrameMissingError(
                f"{clip.place(-1)}: no result for frame {frame} of expression {expression.clip_id}; write every frame"
            )
        truth, mask = RleFrame(expression.size, {1: rle}), clip.read(place[frame]).merged()
        check_sizes(truth, mask, f"expression {expression.clip_id} frame {frame}", clip.place(place[frame]))
        scores += score_objects(truth, mask, (1,), radius)
    return ObjectScores(
        expression.clip_id,
        1,
        expression.clip_id,
        tuple(f"{frame:05d}" for frame in expression.rles),
        tuple(score.j for score in scores),
        tuple(score.f for score in scores),
        tuple(expression.rles),
        expression.num_frames,
    )


def evaluate_expressions(
    expressions: Sequence[Expression],
    prediction: PngSource,
    *,
    truth: str = "",
    bound_th: float = BOUND_TH,
    run: TaskMap = run_here,
    on_clips: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score results of narrative grounding.

    Args:
        expressions: see `read_expressions`.
        prediction: folder or zip of results.
        truth: what the result calls the truth.
        bound_th: see `boundary_radius`.
        run: where expressions are scored.
        on_clips: called with the number of expressions that are newly done.

    Raises:
        InputError: an expression or frame is missing, or a size differs; naming it.
    """
    by_id = {expression.clip_id: expression for expression in expressions}
    missing = [clip_id for clip_id in by_id if clip_id not in prediction.num_frames]
    if missing or not by_id:
        what = f"no results for expression {missing[0]!r}" if missing else "no expressions to score"
        raise InputError(f"{prediction.path}: {what}; expected <video>/<expression>/<frame>.png")
    order = list(by_id)
    found: dict[str, ObjectScores] = {}
    for position, scores in run(_ExpressionScorer(by_id, prediction, bound_th), order):
        found[order[position]] = scores
        if on_clips is not None:
            on_clips(1)
    objects = tuple(found[clip_id] for clip_id in order)
    j = mean_of_numbers([scores.j_statistics.mean for scores in objects])
    f = mean_of_numbers([scores.f_statistics.mean for scores in objects])
    return Evaluation("narrative-grounding", truth, prediction.path, objects, {"J&F": (j + f) / 2, "J": j, "F": f})
