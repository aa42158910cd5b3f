"""Points drawn from the masks of a manifest, as the PV-DAVIS and PV-YT annotations were made from dense masks.

Source: Point-VOS, section 3.1: at most 10 evenly spaced frames of those that have masks, on each 10 positives per
object and 10 negatives per frame, 20 px apart. A clip's points depend on its masks and its id alone: any worker, any
order and any rerun give the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile, check_clip
from rayvos.annotations.records import Clip, MaskPrompt, Point
from rayvos.annotations.tables import CANDIDATES, COMPRESSION
from rayvos.errors import FormatError, InputError, UsageError
from rayvos.masks.points import derive_seed, evenly_spaced_frames, simulate_points

__all__ = ["PointRule", "PointSummary", "reference_clip", "simulate_clip", "write_simulated_points"]

BACKGROUND_ID = 0  # negatives belong to a frame, not to one of its objects
ROWS_PER_GROUP = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PointRule:
    """How many points, where."""

    num_points: int = 10
    """Positives of an object and negatives of a frame, at most."""
    num_frames: int = 10
    """Frames of a clip that carry points, at most; evenly spaced among those that have masks, the first one kept."""
    distance_px: float = 20.0
    """Between the points of one object, and between negatives."""
    scale_distance: bool = False
    """Take the distance as meant for 480p and scale it with the frame; the paper does not."""
    dataset: str = ""
    """Name of the data set: a part of the seed."""

    def __post_init__(self) -> None:
        if self.num_points < 0 or self.num_frames < 1 or self.distance_px < 0:
            raise UsageError("points: expected counts and a distance of 0 or more, and at least 1 frame")


@dataclass(frozen=True, slots=True)
class PointSummary:
    """What was written."""

    clips: int
    """Clips with points."""
    clips_without_masks: int
    """Clips that give no points, since they have no masks."""
    skipped: int
    """Clips that cannot be used."""
    frames: int
    """Frames with points."""
    positives: int
    """Points on objects."""
    negatives: int
    """Points on backgrounds."""


def simulate_clip(clip: Clip, rule: PointRule | None = None) -> list[dict[str, Any]]:
    """Return the rows of a clip in the columns of `tables.CANDIDATES`, ordered by frame, object and rank.

    Positives have the kind `foreground` and probability 1, negatives `background`, probability 0 and object id 0:
    they are drawn once per frame, from what no mask of the frame covers. Frames should therefore have the masks of
    all objects that are seen there.

    Args:
        clip: its `masks` are used; those that say `absent` cover nothing.
        rule: how many points; None: the paper's numbers.

    Raises:
        IdError: an object has two masks on one frame, or is not listed.
        FormatError: a mask is damaged or belongs to another size.
    """
    from rayvos.masks.rle import rle_to_mask

    rule = rule or PointRule()
    check_clip(clip)
    by_frame: dict[int, list[MaskPrompt]] = {}
    for prompt in clip.masks:
        by_frame.setdefault(prompt.frame, []).append(prompt)
    rows: list[dict[str, Any]] = []
    annotated = sorted(frame for frame, prompts in by_frame.items() if any(p.rle is not None for p in prompts))
    for index in evenly_spaced_frames(len(annotated), rule.num_frames):
        frame = annotated[index]
        masks = {}
        for prompt in by_frame[frame]:
            if prompt.rle is not None:
                try:
                    masks[prompt.object_id] = rle_to_mask(prompt.rle, clip.height, clip.width)
                except FormatError as error:
                    place = f"clip {clip.clip_id!r} frame {frame} object {prompt.object_id}"
                    raise FormatError(f"{place}: {error}") from error
        seeds = {i: derive_seed(rule.dataset, clip.clip_id, i, frame, "positive") for i in masks}
        seeds[BACKGROUND_ID] = derive_seed(rule.dataset, clip.clip_id, BACKGROUND_ID, frame, "negative")
        found = simulate_points(
            masks, seeds,
            num_points=rule.num_points, distance_px=rule.distance_px, scale_distance=rule.scale_distance,
        )  # fmt: skip
        for object_id, points in {BACKGROUND_ID: found.negatives, **found.positives}.items():
            kind, probability = ("foreground", 1.0) if object_id else ("background", 0.0)
            rows += [
                {
                    "clip_id": clip.clip_id, "frame": frame, "object_id": object_id, "x": x, "y": y,
                    "kind": kind, "probability": probability, "rank": rank,
                }
                for rank, (x, y) in enumerate(points.tolist())
            ]  # fmt: skip
    return rows


def reference_clip(clip: Clip, num_points: int, rule: PointRule | None = None) -> Clip:
    """Return a clip whose only prompts are points on the objects of its first frame with masks.

    Fewer points are a prefix of more. Source: Point-VOS, section 4.1: what a method of the benchmark is given.

    Args:
        clip: its `masks` are used.
        num_points: of each object, at most.
        rule: how points are drawn; `num_points` of it are drawn, at most.

    Raises:
        UsageError: the rule draws fewer points than are asked for.
        IdError, FormatError: see `simulate_clip`.
    """
    rule = rule or PointRule()
    if not 1 <= num_points <= rule.num_points:
        raise UsageError(f"reference points: expected 1 to {rule.num_points}, found {num_points}")
    rows = simulate_clip(clip, replace(rule, num_frames=1))
    points = [
        Point(row["object_id"], row["frame"], row["x"], row["y"])
        for row in rows
        if row["object_id"] != BACKGROUND_ID and row["rank"] < num_points
    ]
    return replace(clip, boxes=(), masks=(), points=tuple(points), traces=())


def write_simulated_points(
    manifest: str,
    path: str,
    rule: PointRule | None = None,
    *,
    on_clip: Callable[[], None] = lambda: None,
    on_error: Callable[[InputError], None] | None = None,
) -> PointSummary:
    """Write the points of a manifest's clips as one table, `tables.CANDIDATES`; it appears when it is complete.

    Args:
        manifest: path or URL of a manifest with masks.
        path: the table, path or URL.
        rule: see `simulate_clip`.
        on_clip: told of each clip that is done.
        on_error: told of clips that cannot be used, which are left out; None raises.

    Raises:
        InputError: a clip cannot be used, or no clip has masks.
        StorageError: the manifest cannot be read, or the table not be written.
    """
    counts = dict.fromkeys(("clips", "clips_without_masks", "skipped", "frames", "positives", "negatives"), 0)

    def tables() -> Iterator[pa.Table]:
        waiting: list[dict[str, Any]] = []
        for clip in ManifestFile(manifest):
            try:
                rows = simulate_clip(clip, rule)
            except InputError as error:
                if on_error is None:
                    raise
                on_error(error)
                counts["skipped"] += 1
                continue
            finally:
                on_clip()
            counts["clips" if rows else "clips_without_masks"] += 1
            counts["frames"] += len({row["frame"] for row in rows})
            positives = sum(row["object_id"] != BACKGROUND_ID for row in rows)
            counts["positives"] += positives
            counts["negatives"] += len(rows) - positives
            waiting += rows
            if len(waiting) >= ROWS_PER_GROUP:
                yield pa.Table.from_pylist(waiting, schema=CANDIDATES)
                waiting = []
        if not counts["clips"] and not counts["skipped"]:
            raise InputError(
                f"{manifest}: no clip has masks to draw points from; import a data set with masks, "
                "or generate clips with rayvos synth --mask-prompts all"
            )
        yield pa.Table.from_pylist(waiting, schema=CANDIDATES)

    with storage.open_output(path) as file, pq.ParquetWriter(file, CANDIDATES, compression=COMPRESSION) as writer:
        for table in tables():
            writer.write_table(table)
    return PointSummary(**counts)
