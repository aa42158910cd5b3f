"""Digests of all that rows depend on: equal digests, equal rows, wherever and whenever they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rayvos.annotations.records import Clip

__all__ = ["clip_fingerprint", "digest_of", "job_fingerprint", "object_fingerprints"]


def job_fingerprint(configuration: Mapping[str, Any]) -> str:
    """Return the digest of all that rows depend on besides the clip: engine, options, weights, prompts used."""
    return digest_of(json.dumps(configuration, sort_keys=True, default=str).encode())


def clip_fingerprint(clip: Clip, job: str) -> str:
    """Return the digest of all that a clip's rows depend on.

    Categories and source ids are left out: correcting them changes no row. Where the import recorded the identity
    of the frames (names, sizes, times), that stands for their place, so that a moved data set is not done again.
    """
    source = clip.source
    place = source.identity or source.uri
    facts = (
        job,
        clip.clip_id,
        (source.kind, place, source.frame_names, source.video_frames),
        (clip.height, clip.width, clip.num_frames, clip.object_ids()),
        [(b.object_id, b.frame, b.x0, b.y0, b.x1, b.y1, b.visible) for b in clip.boxes],
        [(m.object_id, m.frame, m.rle, m.machine_made) for m in clip.masks],
        [(p.object_id, p.frame, p.x, p.y, p.label) for p in clip.points],
        [(t.object_id, t.frame, t.x, t.y) for t in clip.traces],
    )
    return digest_of(repr(facts).encode())


def object_fingerprints(clip: Clip, job: str) -> dict[int, str]:
    """Return, by object id, the digest of all that its rows depend on where objects do not depend on each other."""
    return {object_id: clip_fingerprint(clip.with_objects((object_id,)), job) for object_id in clip.object_ids()}


def digest_of(data: bytes) -> str:
    """Return a short digest."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
