"""Labels one clip with an engine: the call that a notebook makes and that every actor of a job makes.

The engine runs in the caller's thread; masks are encoded in a thread behind it, and frames are decoded ahead of it
by the reader. What the engine yields is checked here once, for built-in engines and users' own alike: one label for
every frame and object, in order, with a mask of the clip's size. Masks that people gave stay as they are.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.prompts import Prompts, select_prompts
from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import Engine, FrameReader, Label
from rayvos.engines.timing import StageSeconds, TimedReader
from rayvos.errors import EngineError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from rayvos.annotations.label_rows import EncodedMask, LabelRow

__all__ = ["label_clip"]

MASKS_BEHIND = 32  # masks waiting for their encoding: 13 MB at 480x854, 66 MB at 1080p


def label_clip(
    engine: Engine,
    clip: Clip,
    *,
    frames: range | None = None,
    images: FrameReader | None = None,
    prompts: Prompts = "all",
    seconds: StageSeconds | None = None,
) -> pa.Table:
    """Return the labels of a clip, or of some of its frames, as a label table.

    Args:
        engine: what labels; see `rayvos.engines.registry.load_engine`.
        clip: the clip with its prompts.
        frames: consecutive frames; None: all of the clip.
        images: the clip's open reader, which stays open; None opens the clip's source and closes it again.
        prompts: `all`, or `boxes` to leave out masks, points and traces.
        seconds: adds up where the time goes.

    Returns:
        `tables.LABELS`, sorted by (frame, object_id), with one row for every frame and object. A mask prompt is kept
        as it is (provenance `human`, score 1; absent where the prompt says so). `fingerprint` and `unit_id` are
        empty: a run fills them in.

    Raises:
        InputError: the clip or its frames cannot be used.
        EngineError: the engine failed, or yields something else than it promises.
        UsageError: `frames` are not consecutive frames of the clip.
    """
    from rayvos.annotations.label_rows import rows_to_table
    from rayvos.annotations.manifest import check_clip

    clip = check_clip(select_prompts(clip, prompts))
    frames = range(clip.num_frames) if frames is None else frames
    if frames.step != 1 or frames.start < 0 or frames.stop > clip.num_frames:
        raise UsageError(
            f"clip {clip.clip_id!r}: frames {frames}: expected consecutive frames inside 0…{clip.num_frames - 1}"
        )
    seconds = seconds or StageSeconds()
    with _reading(clip, images) as reader:
        rows = list(_label_rows(engine, clip, TimedReader(reader, seconds), frames, seconds))
    return rows_to_table(clip, rows, engine=engine.name, weights=engine.weights)


def _reading(clip: Clip, images: FrameReader | None) -> AbstractContextManager[FrameReader]:
    if images is not None:
        return nullcontext(images)
    from rayvos.video.source import open_clip

    return open_clip(clip)


def _label_rows(
    engine: Engine, clip: Clip, images: FrameReader, frames: range, seconds: StageSeconds
) -> Iterator[LabelRow]:
    """Yield the rows in order, their masks encoded by a thread that runs behind the engine."""
    from rayvos.annotations.label_rows import LabelRow, encode_mask, read_mask

    given = {(mask.frame, mask.object_id): mask for mask in clip.masks if not mask.machine_made}

    def encode(mask: NDArray[np.bool_]) -> EncodedMask:
        started = time.perf_counter()
        encoded = encode_mask(mask)
        seconds.encode += time.perf_counter() - started
        return encoded

    def human_row(prompt: MaskPrompt) -> LabelRow:
        mask = None if prompt.rle is None else read_mask(prompt.rle, clip.height, clip.width)
        return LabelRow(prompt.frame, prompt.object_id, mask, None if mask is None else 1.0, human=True)

    def engine_row(label: Label, mask: Future[EncodedMask] | None) -> LabelRow:
        encoded = None if mask is None else mask.result()
        return LabelRow(label.frame, label.object_id, encoded, label.score, label.quality)

    waiting: deque[tuple[Label, Future[EncodedMask] | None]] = deque()
    # One thread: rows keep their order without any sorting, and an actor is planned with one core beside the engine.
    with ThreadPoolExecutor(1, "encode") as encoder:
        for label in _checked_labels(engine, clip, images, frames, seconds):
            prompt = given.get((label.frame, label.object_id))
            if prompt is not None:
                while waiting:
                    yield engine_row(*waiting.popleft())
                yield human_row(prompt)
                continue
            # The copy frees the engine to use its array again while the encoder still reads.
            mask = None if label.mask is None else encoder.submit(encode, label.mask.copy())
            waiting.append((Label(label.frame, label.object_id, None, label.score, label.quality), mask))
            if len(waiting) > MASKS_BEHIND:
                yield engine_row(*waiting.popleft())
        while waiting:
            yield engine_row(*waiting.popleft())


def _checked_labels(
    engine: Engine, clip: Clip, images: FrameReader, frames: range, seconds: StageSeconds
) -> Iterator[Label]:
    """Yield the engine's labels while they are what `Engine.label` promises."""
    expected = ((frame, object_id) for frame in frames for object_id in clip.object_ids())
    where = f"engine {engine.name!r} on clip {clip.clip_id!r}"
    with closing(_timed_labels(engine, clip, images, frames, seconds)) as labels:
        for frame, object_id in expected:
            label = next(labels, None)
            place = f"{where} frame {frame} object {object_id}"
            if label is None or (label.frame, label.object_id) != (frame, object_id):
                found = "nothing" if label is None else f"frame {label.frame} object {label.object_id}"
                raise EngineError(
                    f"{place}: expected a label, found {found}; "
                    "an engine yields one for every frame and object, ordered by (frame, object_id)"
                )
            _check_label(label, clip, place)
            yield label
        if (extra := next(labels, None)) is not None:
            raise EngineError(f"{where}: expected no further label, found frame {extra.frame}; see `Engine.label`")


def _timed_labels(
    engine: Engine, clip: Clip, images: FrameReader, frames: range, seconds: StageSeconds
) -> Generator[Label, None, None]:
    labels = iter(engine.label(clip, images, frames))
    while True:
        started, waited = time.perf_counter(), seconds.decode_wait
        label = next(labels, None)
        seconds.engine += time.perf_counter() - started - (seconds.decode_wait - waited)
        if label is None:
            return
        yield label


def _check_label(label: Label, clip: Clip, place: str) -> None:
    mask = label.mask
    if mask is None:
        return
    if mask.dtype != np.bool_ or mask.shape != (clip.height, clip.width):
        raise EngineError(
            f"{place}: expected a bool mask of {clip.height}x{clip.width}, found {mask.dtype} {mask.shape}"
        )
    if label.score is None or not 0 <= label.score <= 1:
        raise EngineError(f"{place}: expected a score in [0, 1], found {label.score}")
    for name, value in label.quality.items():
        if not math.isfinite(value):
            raise EngineError(f"{place}: quality {name!r}: expected a finite number, found {value}")
