"""Mines the candidates of one clip: the call that a notebook makes and that every actor of a job makes.

Prompts of a key frame become a mask by a *guide* (any engine that labels a frame from such prompts), the masks become
probabilities by a propagator, and evenly spaced frames of these are mined.

Source: Point-VOS, section 3.2. Differs: the propagator sees all objects of the clip at once, so that they compete.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from rayvos.annotations.manifest import check_clip
from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.annotations.tables import CANDIDATES
from rayvos.annotations.unit_rows import sort_rows
from rayvos.engines.base import Engine, FrameReader, Propagator
from rayvos.engines.candidates.key_prompts import KeyPrompts, key_frames, key_prompts
from rayvos.engines.candidates.selection import Candidate, CandidateRule, candidate_frames, mine_candidates
from rayvos.engines.timing import StageSeconds, TimedReader
from rayvos.errors import EngineError
from rayvos.masks.points import derive_seed

__all__ = ["MiningOptions", "key_masks", "mine_clip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningOptions:
    """What decides the candidates of a clip besides the two engines."""

    rule: CandidateRule = dataclasses.field(default_factory=CandidateRule)
    prompts: KeyPrompts = "auto"
    """What candidates start from."""
    force_key_frame: bool = False
    """The key frame carries candidates in any case; the paper does not say so."""
    dataset: str = ""
    """Name of the data set: a part of the seed."""


def mine_clip(
    engine: Propagator,
    guide: Engine,
    clip: Clip,
    images: FrameReader,
    options: MiningOptions | None = None,
    *,
    frames: range | None = None,
    seconds: StageSeconds | None = None,
) -> pa.Table:
    """Return the candidates of a clip.

    Args:
        engine: gives the probabilities.
        guide: makes masks of boxes, traces and points; not asked where masks are given.
        clip: the clip with its prompts.
        images: its open reader, which stays open.
        options: what else decides; None: the paper's numbers.
        frames: only candidates on these frames; None: all.
        seconds: adds up where the time goes.

    Returns:
        `tables.CANDIDATES`, sorted by frame, object, kind and rank. An object of which nothing is said, or that is
        absent everywhere, has no row.

    Raises:
        InputError: the clip's prompts or frames cannot be used.
        EngineError: an engine failed, or the guide found nothing where a prompt says that the object is.
    """
    options, seconds = options or MiningOptions(), seconds or StageSeconds()
    started, waited = time.perf_counter(), seconds.decode_wait
    clip = key_prompts(check_clip(clip), options.prompts)
    reader = TimedReader(images, seconds)
    masks = (*clip.masks, *key_masks(guide, clip, reader))
    wanted = _wanted_frames(clip, masks, options, range(clip.num_frames) if frames is None else frames)
    rows = []
    asked = sorted({frame for of_object in wanted.values() for frame in of_object})
    if asked:
        masked = dataclasses.replace(clip, masks=masks, boxes=(), traces=(), points=())
        for found in engine.probabilities(masked, reader, asked):
            if found.frame not in wanted[found.object_id]:
                continue
            seed = derive_seed(options.dataset, clip.clip_id, found.object_id, found.frame, "candidate")
            mined = mine_candidates(found.probability, seed, options.rule)
            rows += [_row(clip, found.frame, found.object_id, candidate) for candidate in mined]
    seconds.engine += time.perf_counter() - started - (seconds.decode_wait - waited)
    return sort_rows(pa.Table.from_pylist(rows, schema=CANDIDATES), "candidates")


def key_masks(guide: Engine, clip: Clip, images: FrameReader) -> Iterator[MaskPrompt]:
    """Yield the guide's mask for the key frame of every object that starts from a box, traces or points.

    Args:
        guide: makes the masks.
        clip: as `key_prompts` gives it.
        images: its reader.

    Raises:
        EngineError: the guide found nothing.
    """
    from rayvos.masks.rle import mask_to_rle

    frame_of = key_frames(clip)
    bare = dataclasses.replace(clip, masks=())  # a guide must not see the absence of objects on other frames
    for frame in sorted(set(frame_of.values())):
        for label in guide.label(bare, images, range(frame, frame + 1)):
            if frame_of.get(label.object_id) != frame:
                continue
            if label.mask is None or not label.mask.any():
                raise EngineError(
                    f"clip {clip.clip_id!r} frame {frame} object {label.object_id}: engine {guide.name!r} found "
                    "nothing where the prompt says that the object is; give a mask or a box there, or another --guide"
                )
            yield MaskPrompt(label.object_id, frame, mask_to_rle(label.mask), machine_made=True)


def _wanted_frames(
    clip: Clip, masks: tuple[MaskPrompt, ...], options: MiningOptions, frames: range
) -> Mapping[int, set[int]]:
    """Return the frames that carry candidates, by object."""
    wanted = {}
    for object_id in clip.object_ids():
        starts = [mask.frame for mask in masks if mask.object_id == object_id and mask.rle is not None]
        key = min(starts) if options.force_key_frame and starts else None
        kept = candidate_frames(clip.num_frames, num_kept=options.rule.num_frames, key_frame=key)
        wanted[object_id] = {frame for frame in kept if frame in frames}
    return wanted


def _row(clip: Clip, frame: int, object_id: int, candidate: Candidate) -> dict[str, object]:
    return {"clip_id": clip.clip_id, "frame": frame, "object_id": object_id, **dataclasses.asdict(candidate)}
