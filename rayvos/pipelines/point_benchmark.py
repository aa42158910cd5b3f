"""The labelling side of the Point-VOS benchmark: one run of `point-stcn` per number of reference points.

    OUT/points-<n>/clips.parquet    the clips with n points per object on their first frame with masks, nothing else
    OUT/points-<n>/                 the run, as `rayvos label` makes it: a restarted benchmark goes on where it was

Source: Point-VOS, section 4.1: sets of 1, 2, 5 and 10 points per object, propagated forwards; fewer are a prefix of
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.simulated_points import PointRule, reference_clip
from rayvos.engines.registry import EngineChoice
from rayvos.errors import InputError
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.run import run_job

__all__ = ["POINT_SETS", "label_point_sets"]

POINT_SETS = (1, 2, 5, 10)


def label_point_sets(
    manifest: str,
    out: str,
    engine: EngineChoice,
    *,
    counts: Sequence[int] = POINT_SETS,
    rule: PointRule | None = None,
    address: str = "",
    on_set: Callable[[], None] = lambda: None,
) -> Mapping[int, str]:
    """Label clips from each number of points; return the run folders by number.

    Args:
        manifest: clips with masks, of which the first frame's tell where points lie.
        out: folder, path or URL.
        engine: what propagates points.
        counts: points per object.
        rule: how points are drawn; None: the paper's.
        address: of Ray, see `pipelines.job.Job`.
        on_set: called whenever a run is done.

    Raises:
        InputError: no clip has masks, or clips failed; the message tells how to see which.
        RayvosError: see `pipelines.run.run_job`.
    """
    folders = {count: storage.join(out, f"points-{count}") for count in counts}
    for count, folder in folders.items():
        path = storage.join(folder, "clips.parquet")
        annotated = (clip for clip in ManifestFile(manifest) if any(mask.rle is not None for mask in clip.masks))
        if not write_manifest((reference_clip(clip, count, rule) for clip in annotated), path):
            raise InputError(f"{manifest}: expected clips with masks, found none; import a data set with masks")
        summary = run_job(LabelJob(path, folder, engine, address=address))
        if summary.dead_letters:
            raise InputError(
                f"{folder}: {sum(summary.dead_letters.values())} clips failed, which no score can make up for; see "
                f"rayvos status {folder} --dead-letters"
            )
        on_set()
    return folders
