"""What a planned run will take: time, masks and bytes, at rates that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayvos.pipelines.plan import RunPlan

__all__ = ["Forecast", "forecast"]

# Two objects a frame, DAVIS-like masks at 480p: 1.2 kB of RLE a mask after zstd, and the rest of the row.
BYTES_PER_LABEL = 1300.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is left of a run."""

    clips: int
    frames: int
    units: int
    units_left: int
    frames_left: int
    actors: int
    busy_s: float
    """Seconds of one actor that they take."""
    seconds_left: float
    """Wall time with `actors` actors."""
    output_bytes: float
    """Of the labels that are left."""
    basis: str
    """Where the rates come from."""


def forecast(plan: RunPlan, labels_per_frame: float, actors: int, measured: Mapping[str, Any] | None) -> Forecast:
    """Return what a plan's uncommitted units will take.

    Args:
        plan: the plan.
        labels_per_frame: objects of a clip, on average.
        actors: how many actors will work side by side.
        measured: `throughput` of a `run.json` made with the same engine; None takes the rates the engine states.
    """
    todo = plan.todo
    frames_left = sum(piece.frame_stop - piece.frame_start for unit in todo for piece in unit.pieces)
    stated_s = sum(unit.cost_s for unit in todo)
    busy_s, bytes_per_label, basis = stated_s, BYTES_PER_LABEL, "rates measured for the engine when it was built"
    if measured and measured.get("frames"):
        busy_s = frames_left * measured["busy_s"] / measured["frames"]
        basis = f"an earlier start: {measured['frames']} frames in {measured['busy_s']:.0f} actor seconds"
        if measured.get("labels") and measured.get("bytes"):
            bytes_per_label = measured["bytes"] / measured["labels"]
    # The last units finish one by one: on average half a unit's time is spent by part of the actors.
    tail_s = 0.5 * busy_s / len(todo) if todo and actors > 1 else 0.0
    return Forecast(
        clips=plan.num_clips,
        frames=plan.num_frames,
        units=len(plan.units),
        units_left=len(todo),
        frames_left=frames_left,
        actors=actors,
        busy_s=busy_s,
        seconds_left=busy_s / actors + tail_s,
        output_bytes=frames_left * labels_per_frame * bytes_per_label,
        basis=basis,
    )
