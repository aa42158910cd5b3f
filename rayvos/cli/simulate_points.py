"""`rayvos simulate-points`: points from masks, as if annotators had clicked them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from rayvos.cli.progress import Progress

__all__ = ["SimulatePointsOptions", "simulate_points"]

EXIT_DEAD_LETTERS = 3


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatePointsOptions:
    """Options of `rayvos simulate-points`."""

    points: int = 10
    """Points on each object, and points on the background of each frame, at most."""
    frames: int = 10
    """Frames of a clip that carry points, at most, evenly spaced among those with masks."""
    distance: float = 20.0
    """Pixels between the points of an object, and between those of the background, at least."""
    scale_distance: Annotated[bool, Parameter(negative="")] = False
    """Take the distance as meant for 480p and scale it with the frame; the paper does not."""
    dataset: str = ""
    """Name of the data set: another name draws other points."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print the summary as one JSON object."""


DEFAULTS = SimulatePointsOptions()


def simulate_points(
    manifest: str, *, out: Annotated[str, Parameter(name=["-o", "--out"])], options: SimulatePointsOptions = DEFAULTS
) -> int:
    """Draw points from the masks of a manifest, as Point-VOS simulates its annotations.

    The table has one row per point: kind foreground on an object, background (object id 0) on none of the frame's.
    The same masks and clip ids give the same points, anywhere. Example:

        rayvos synth clips --clips 2 --mask-prompts all

        rayvos simulate-points clips/manifest.parquet -o points.parquet

    Args:
        manifest: Manifest with masks, path or URL.
        out: Table to write, path or URL.
        options: the rest; documented by their own fields.
    """
    from rayvos.annotations.manifest import ManifestFile
    from rayvos.annotations.simulated_points import PointRule, write_simulated_points

    rule = PointRule(
        num_points=options.points,
        num_frames=options.frames,
        distance_px=options.distance,
        scale_distance=options.scale_distance,
        dataset=options.dataset,
    )
    with Progress("drawing points", total=len(ManifestFile(manifest)), unit="clips") as progress:
        summary = write_simulated_points(
            manifest, out, rule,
            on_clip=progress.advance,
            on_error=lambda error: print(f"rayvos: left out: {error} [{error.code}]", file=sys.stderr),
        )  # fmt: skip
    if options.as_json:
        print(json.dumps(asdict(summary) | {"path": out}))
    else:
        print(
            f"{out}: {summary.positives} points on objects, {summary.negatives} on backgrounds, "
            f"{summary.frames} frames of {summary.clips} clips"
        )
        if summary.clips_without_masks or summary.skipped:
            print(f"{summary.clips_without_masks} clips without masks, {summary.skipped} left out by errors")
    return EXIT_DEAD_LETTERS if summary.skipped else 0
