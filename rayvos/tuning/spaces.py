"""What sweeps vary: tau and the filter, annotated frames of a clip, points of a frame.

The papers' central questions, one sweep each. A setting is a few words that a training task takes as options, and what
an annotator spends on it, so that quality can be drawn against time.
Source: Box2Seg, section on robust training (tau, with and without filtering); Point-VOS, ablations of points and
frames, training against reference counts, and its times: 0.95 s a point, about 80 s a mask. No paper here times a box:
7 s are those of four extreme points (Papadopoulos et al., Extreme clicking for efficient object annotation, ICCV 2017;
boxes drawn by their corners took 35 s: Su et al., Crowdsourcing annotations for visual object detection, 2012).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rayvos.errors import UsageError, choose

__all__ = ["SWEEPS", "Costs", "Setting", "Space", "space_of"]

SweepName = Literal["tau", "frames", "points"]
SWEEPS: tuple[SweepName, ...] = ("tau", "frames", "points")
TAUS = (1.5, 2.0, 3.0, 5.0, 10.0, float("inf"))
FRAMES = (2, 3, 5, 7, 10)
POINTS = (1, 2, 5, 10, 20)
REFERENCE_POINTS = (10,)
POINT_FRAMES = 10  # Point-VOS: annotated frames of a clip
SOURCES = {"point": "Point-VOS", "box": "extreme clicking, 2017", "mask": "Point-VOS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds an annotator spends."""

    point_s: float = 0.95
    """A verified point. Source: Point-VOS."""
    box_s: float = 7.0
    """A box. Source: Extreme clicking, 2017."""
    mask_s: float = 80.0
    """A mask. Source: Point-VOS."""

    def __post_init__(self) -> None:
        for name in ("point_s", "box_s", "mask_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}: expected a number above 0, found {getattr(self, name)}")

    def told(self, *kinds: str) -> str:
        """Return the times of some kinds (`point`, `box`, `mask`) and where they come from, for a plot's axis."""
        published = Costs()
        parts = []
        for kind in kinds:
            seconds = getattr(self, f"{kind}_s")
            source = SOURCES[kind] if seconds == getattr(published, f"{kind}_s") else "as given"
            parts.append(f"{kind} {seconds:g} s: {source}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One point of a sweep."""

    varied: Mapping[str, float]
    """What is varied → its value; infinity stands for cross entropy."""
    options: Mapping[str, str]
    """Options of the training task, as a command line writes them."""
    seconds: float | None
    """An annotator's seconds per object of a training clip; None where they are not known, or not yet (`effort`)."""
    finetuned: bool = False
    """Whether trials learn from labels made with fine-tuning, the sweep's second data."""

    @property
    def name(self) -> str:
        """What tables, plots and folders call it."""
        return ",".join(f"{axis}={value:g}" for axis, value in self.varied.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A sweep: its settings, and how they are drawn."""

    sweep: SweepName
    task: str
    """The training task, unless another is asked for."""
    axis: str
    """What is varied along the plot."""
    series: tuple[str, ...]
    """What its lines differ in; none: there is one line."""
    settings: tuple[Setting, ...]
    times: str
    """What an annotator's seconds are made of, and where they come from."""


def space_of(
    sweep: str,
    *,
    values: Sequence[float] = (),
    series: Sequence[float] = (),
    finetuned: bool = False,
    costs: Costs | None = None,
) -> Space:
    """Return a sweep.

    Args:
        sweep: `tau`, `frames` or `points`.
        values: along its axis; none: the papers'.
        series: `tau`: minimum scores below which labels are ignored; `points`: reference points in training and
            validation; `frames`: not taken. None: a single one.
        finetuned: `tau`: cross all with labels made without and with fine-tuning.
        costs: seconds an annotator spends.

    Raises:
        UsageError: the sweep is unknown, or a value is not possible.
    """
    name = choose("sweep", sweep, SWEEPS)
    costs = costs or Costs()
    if name == "tau":
        sharper = (False, True) if finetuned else (False,)
        return _tau_space(tuple(values) or TAUS, tuple(series) or (0.0,), sharper, costs)
    if finetuned:
        raise UsageError(f"sweep {name!r}: labels made with fine-tuning are compared by sweep 'tau'; leave them out")
    if name == "frames":
        if series:
            raise UsageError("sweep 'frames': it has one axis; leave the second one out")
        return _frames_space(_whole("frames", tuple(values) or FRAMES, least=2), costs)
    reference = _whole("reference points", tuple(series) or REFERENCE_POINTS, least=1)
    return _points_space(_whole("points", tuple(values) or POINTS, least=1), reference, costs)


def _tau_space(
    taus: tuple[float, ...], min_scores: tuple[float, ...], finetuned: tuple[bool, ...], costs: Costs
) -> Space:
    for tau in taus:
        if not tau >= 1:
            raise UsageError(f"tau: expected a number from 1, or inf, found {tau}")
    for score in min_scores:
        if not 0 <= score <= 1:
            raise UsageError(f"min_score: expected a number from 0 to 1, found {score}")
    series = tuple(name for name, values in (("min_score", min_scores), ("finetuned", finetuned)) if len(values) > 1)
    settings = [
        Setting(
            varied={"tau": tau, **{name: {"min_score": score, "finetuned": sharper}[name] for name in series}},
            options={"loss": "huberised", "tau": f"{tau:g}", "min_score": f"{score:g}"},
            seconds=None,
            finetuned=sharper,
        )
        for sharper in finetuned
        for score in min_scores
        for tau in taus
    ]
    times = costs.told("box", "mask") if len(finetuned) > 1 else costs.told("box")
    return Space(sweep="tau", task="stcn", axis="tau", series=series, settings=tuple(settings), times=times)


def _frames_space(frames: tuple[int, ...], costs: Costs) -> Space:
    settings = [
        Setting(varied={"frames": count}, options={"frames": str(count)}, seconds=count * costs.mask_s)
        for count in frames
    ]
    return Space(
        sweep="frames", task="stcn", axis="frames", series=(), settings=tuple(settings), times=costs.told("mask")
    )


def _points_space(points: tuple[int, ...], reference: tuple[int, ...], costs: Costs) -> Space:
    several = len(reference) > 1
    settings = [
        Setting(
            varied={"points": count, **({"reference_points": given} if several else {})},
            options={
                "points": str(count),
                "reference_points": str(min(count, given)),
                "validated_points": str(given),
                "frames": str(POINT_FRAMES),
            },
            seconds=count * POINT_FRAMES * costs.point_s,
        )
        for given in reference
        for count in points
    ]
    series = ("reference_points",) if several else ()
    return Space(
        sweep="points", task="point-stcn", axis="points", series=series, settings=tuple(settings),
        times=costs.told("point"),
    )  # fmt: skip


def _whole(name: str, values: Sequence[float], *, least: int) -> tuple[int, ...]:
    for value in values:
        if value != int(value) or value < least:
            raise UsageError(f"{name}: expected whole numbers from {least}, found {value:g}")
    return tuple(int(value) for value in values)
