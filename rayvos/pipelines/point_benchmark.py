"""The labelling side of the Point-VOS benchmark: one run of `point-stcn` per number of reference points.

    OUT/points-<n>/clips.parquet    the clips with n reference points per object, nothing else
    OUT/points-<n>/                 the run, as `rayvos label` makes it: a restarted benchmark goes on where it was
    OUT/truth.parquet               PV-Oops: the masks that are scored

PV-DAVIS: points are drawn from the masks of each clip's first frame with masks. PV-Oops: people gave them, an object's
reference is the first frame where they gave enough, its masks after that are the truth; objects without a reference
are left out. Fewer points are the first of more.
Source: Point-VOS, section 4.1 and appendix B: sets of 1, 2, 5 and 10 points per object, propagated forwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Clip
from rayvos.annotations.simulated_points import PointRule, reference_clip
from rayvos.engines.registry import EngineChoice
from rayvos.errors import InputError
from rayvos.evaluation.points import MIN_REFERENCE_POSITIVES
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.run import run_job

__all__ = ["POINT_SETS", "PointSets", "given_reference_clip", "label_point_sets", "scored_clip"]

POINT_SETS = (1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class PointSets:
    """Labels from several numbers of points."""

    truth: str
    """Manifest with the masks to score by, path or URL."""
    runs: Mapping[int, str]
    """Points per object → run folder."""


def label_point_sets(
    manifest: str,
    out: str,
    engine: EngineChoice,
    *,
    counts: Sequence[int] = POINT_SETS,
    rule: PointRule | None,
    address: str = "",
    on_set: Callable[[], None] = lambda: None,
) -> PointSets:
    """Label clips from each number of points.

    Args:
        manifest: clips with masks.
        out: folder, path or URL.
        engine: what propagates points.
        counts: points per object.
        rule: how points are drawn from masks; None: they are given, as in PV-Oops.
        address: of Ray, see `pipelines.job.Job`.
        on_set: called whenever a run is done.

    Raises:
        InputError: no clip has masks, or none has enough points; or clips failed, and the message tells how to see
            which.
        RayvosError: see `pipelines.run.run_job`.
    """
    truth = manifest
    if rule is None:
        truth = storage.join(out, "truth.parquet")
        write_manifest((scored_clip(clip) for clip in ManifestFile(manifest)), truth)
    chosen = {clip.clip_id for clip in ManifestFile(truth) if any(mask.rle is not None for mask in clip.masks)}
    if not chosen:
        wanted = "masks" if rule is not None else f"masks after a frame with {MIN_REFERENCE_POSITIVES} positive points"
        raise InputError(f"{manifest}: expected clips with {wanted}, found none; import a data set that has them")
    runs = {count: storage.join(out, f"points-{count}") for count in counts}
    for count, folder in runs.items():
        path = storage.join(folder, "clips.parquet")
        clips = (clip for clip in ManifestFile(manifest) if clip.clip_id in chosen)
        write_manifest(
            (
                given_reference_clip(clip, count) if rule is None else reference_clip(clip, count, rule)
                for clip in clips
            ),
            path,
        )
        summary = run_job(LabelJob(path, folder, engine, address=address))
        if summary.dead_letters:
            raise InputError(
                f"{folder}: {sum(summary.dead_letters.values())} clips failed, which no score can make up for; see "
                f"rayvos status {folder} --dead-letters"
            )
        on_set()
    return PointSets(truth, runs)


def given_reference_clip(clip: Clip, num_points: int) -> Clip:
    """Return a clip whose only prompts are the first positive points of each object on its reference frame."""
    references, taken, points = _references(clip), Counter[int](), []
    for point in clip.points:
        if point.label == "positive" and references.get(point.object_id) == point.frame:
            taken[point.object_id] += 1
            if taken[point.object_id] <= num_points:
                points.append(point)
    return replace(clip, boxes=(), masks=(), points=tuple(points), traces=())


def scored_clip(clip: Clip) -> Clip:
    """Return a clip with the masks that PV-Oops scores: those of objects with a reference, after it."""
    references = _references(clip)
    masks = [mask for mask in clip.masks if mask.frame > references.get(mask.object_id, clip.num_frames)]
    return replace(clip, boxes=(), masks=tuple(masks), points=(), traces=())


def _references(clip: Clip) -> dict[int, int]:
    """Return each object's first frame with enough positive points; objects without one are left out."""
    counts = Counter((point.object_id, point.frame) for point in clip.points if point.label == "positive")
    found: dict[int, int] = {}
    for (object_id, frame), count in sorted(counts.items()):
        if count >= MIN_REFERENCE_POSITIVES:
            found.setdefault(object_id, frame)
    return found
