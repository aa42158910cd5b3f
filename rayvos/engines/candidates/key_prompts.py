"""Where the candidates of an object start from: its masks, or the one prompt of its key frame.

Source: Point-VOS, section 3.2 (a trace on its key frame). Differs: the paper leaves open what "the largest area" of a
trace is; here it counts the pixels of the drawn line. Masks, boxes and points start candidates, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from rayvos.annotations.records import Box, Clip, MaskPrompt, Point, Trace
from rayvos.engines.keyframes import middle_frame
from rayvos.errors import FormatError, InputError, choose
from rayvos.masks.rle import rle_area
from rayvos.masks.traces import render_trace

__all__ = ["KeyPrompts", "key_frames", "key_prompts", "trace_key_frame"]

KeyPrompts = Literal["auto", "masks", "boxes", "traces", "points"]
"""Which prompts candidates start from; `auto` takes, object by object, the first of them that is given."""

_Kind = Literal["masks", "boxes", "traces", "points"]


@dataclass(frozen=True, slots=True)
class _Prompts:
    """The prompts of one object."""

    masks: tuple[MaskPrompt, ...] = ()
    boxes: tuple[Box, ...] = ()
    traces: tuple[Trace, ...] = ()
    points: tuple[Point, ...] = ()


def key_prompts(clip: Clip, prompts: KeyPrompts = "auto") -> Clip:
    """Return the clip with what its candidates start from, and the objects that have something to start from.

    An object with masks keeps all of them. Any other keeps the prompts of its key frame: of boxes the middle one in
    time, of traces the frame with the most drawn pixels, of points the one with the most positives; the earlier of
    two. Statements that the object is absent (masks that are none) are kept in any case.

    Args:
        clip: a clip; `check_clip` holds for it.
        prompts: the kind to start from.

    Raises:
        InputError: nothing is said of any object, not even that it is absent.
        FormatError: a trace or a point that is used lies outside the frame; a mask is of another size.
    """
    choose("prompts", prompts, get_args(KeyPrompts))
    kinds: tuple[_Kind, ...] = get_args(_Kind) if prompts == "auto" else (prompts,)
    started, kept = [], list[_Prompts]()
    for known in sorted(clip.objects, key=lambda known: known.object_id):
        found = _start(clip, _prompts_of(clip, known.object_id), kinds)
        if found is not None:
            started.append(known)
            kept.append(found)
    if clip.objects and not started and not _says_absent(clip):
        what = "masks, boxes, traces or points" if prompts == "auto" else prompts
        raise InputError(f"clip {clip.clip_id!r}: expected {what} of an object to start from, found none")
    return replace(
        clip,
        objects=tuple(started),
        masks=tuple(mask for of_object in kept for mask in of_object.masks),
        boxes=tuple(box for of_object in kept for box in of_object.boxes),
        traces=tuple(trace for of_object in kept for trace in of_object.traces),
        points=tuple(point for of_object in kept for point in of_object.points),
    )


def key_frames(clip: Clip) -> dict[int, int]:
    """Return the key frame of every object that starts from a box, traces or points; of what `key_prompts` gives."""
    prompts: tuple[Box | Trace | Point, ...] = (*clip.boxes, *clip.traces, *clip.points)
    return {prompt.object_id: prompt.frame for prompt in prompts}


def trace_key_frame(traces: Sequence[Trace], height: int, width: int) -> int:
    """Return the frame on which an object's traces cover most pixels; of two that with more positions, or earlier.

    Raises:
        InputError: there is no trace.
    """
    by_frame: dict[int, list[Trace]] = {}
    for trace in traces:
        by_frame.setdefault(trace.frame, []).append(trace)
    if not by_frame:
        raise InputError("key frame: expected traces, found none")

    def rank(frame: int) -> tuple[int, int, int]:
        parts = [np.stack([np.array(part.x, float), np.array(part.y, float)], axis=1) for part in by_frame[frame]]
        area = int(render_trace(parts, height, width).sum())
        return -area, -sum(len(part) for part in parts), frame

    return min(by_frame, key=rank)


def _prompts_of(clip: Clip, object_id: int) -> _Prompts:
    return _Prompts(
        tuple(mask for mask in clip.masks if mask.object_id == object_id),
        tuple(box for box in clip.boxes if box.object_id == object_id),
        tuple(trace for trace in clip.traces if trace.object_id == object_id and trace.x),
        tuple(point for point in clip.points if point.object_id == object_id),
    )


def _start(clip: Clip, given: _Prompts, kinds: tuple[_Kind, ...]) -> _Prompts | None:
    """Return what an object starts from; None where nothing of these kinds says where it is."""
    absent = tuple(mask for mask in given.masks if mask.rle is None)
    visible = [box for box in given.boxes if box.visible]
    clicks = Counter(point.frame for point in given.points if point.label == "positive")
    for kind in kinds:
        if kind == "masks" and any(_has_pixels(clip, mask) for mask in given.masks):
            return _Prompts(masks=given.masks)
        if kind == "boxes" and visible:
            key = middle_frame([box.frame for box in visible])
            return _Prompts(absent, boxes=tuple(box for box in visible if box.frame == key))
        if kind == "traces" and given.traces:
            for trace in given.traces:
                _check_inside(clip, trace, zip(trace.x, trace.y, strict=True))
            key = trace_key_frame(given.traces, clip.height, clip.width)
            return _Prompts(absent, traces=tuple(trace for trace in given.traces if trace.frame == key))
        if kind == "points" and clicks:
            for point in given.points:
                _check_inside(clip, point, [(point.x, point.y)])
            key = min(clicks, key=lambda frame: (-clicks[frame], frame))
            return _Prompts(absent, points=tuple(point for point in given.points if point.frame == key))
    return None


def _has_pixels(clip: Clip, mask: MaskPrompt) -> bool:
    try:
        return mask.rle is not None and rle_area(mask.rle, clip.height, clip.width) > 0
    except FormatError as error:
        raise FormatError(f"clip {clip.clip_id!r} frame {mask.frame} object {mask.object_id}: {error}") from error


def _check_inside(clip: Clip, prompt: Trace | Point, positions: Iterable[tuple[float, float]]) -> None:
    for x, y in positions:
        if not (math.isfinite(x) and math.isfinite(y) and 0 <= x < clip.width and 0 <= y < clip.height):
            raise FormatError(
                f"clip {clip.clip_id!r} frame {prompt.frame} object {prompt.object_id}: "
                f"{type(prompt).__name__.lower()} position ({x:g}, {y:g}) lies outside the "
                f"{clip.width}x{clip.height} frame; was the clip re-scaled?"
            )


def _says_absent(clip: Clip) -> bool:
    return any(mask.rle is None for mask in clip.masks) or any(not box.visible for box in clip.boxes)
