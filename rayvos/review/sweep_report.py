"""A sweep as one page: quality against what is varied and against an annotator's time, and the table behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rayvos import storage
from rayvos.review.plots import ACCENT, INK, WEAK, figure_svg
from rayvos.tuning.outcome import Outcome, SettingScore, best_setting, thriftiest_setting

__all__ = ["sweep_svg", "write_sweep_report"]

COLORS = (ACCENT, WEAK, "#2f9e6e", "#b0762b", "#7b58c8", INK)
BESIDE = 0.006  # of the axis' length, between two lines
LONG_NAME = 30  # letters, of which three do not fit side by side above a plot
CROSS_ENTROPY_AT = 2.0  # an infinite value is drawn at so many times the largest other one


def write_sweep_report(outcome: Outcome, path: str, *, title: str) -> None:
    """Write the page.

    Args:
        outcome: a finished sweep.
        path: of the HTML file, path or URL.
        title: what was swept, in a few words.

    Raises:
        StorageError: it could not be written.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("rayvos.review"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    best, thrifty = best_setting(outcome), thriftiest_setting(outcome)
    text = environment.get_template("sweep.html").render(
        title=title,
        outcome=outcome,
        best=best,
        thrifty=None if thrifty is best else thrifty,
        rows=[_row(score, best) for score in outcome.scores],
        metric=_metric_name(outcome),
        name_of=_setting_name,
        timed=_is_timed(outcome),
        times=outcome.space.times,
        seeds=len({result.seed for result in outcome.results}),
        plots=[sweep_svg(outcome, against=kind) for kind in _kinds(outcome)],
    )
    storage.write_bytes(path, text.encode())


def _kinds(outcome: Outcome) -> list[str]:
    """Return what quality is drawn against; where all settings take the same time, the page says it in a sentence."""
    several = len({score.setting.seconds for score in outcome.scores}) > 1
    return ["value", "seconds"] if _is_timed(outcome) and several else ["value"]


def _is_timed(outcome: Outcome) -> bool:
    return all(score.setting.seconds is not None for score in outcome.scores)


def _row(score: SettingScore, best: SettingScore) -> dict[str, str]:
    return {
        "name": _setting_name(score),
        "mean": f"{score.mean:.3f}",
        "interval": "" if math.isnan(score.half_width) else f"± {score.half_width:.3f}",
        "values": ", ".join(f"{value:.3f}" for value in score.values),
        "place": "best" if score is best else "",
        "seconds": "" if score.setting.seconds is None else f"{score.setting.seconds:.4g} s",
    }


def _metric_name(outcome: Outcome) -> str:
    return {"j_and_f": "J&F", "jaccard": "J", "boundary_f": "F"}.get(outcome.metric, outcome.metric.replace("_", " "))


def _setting_name(score: SettingScore) -> str:
    return ", ".join(_value_name(axis, value) for axis, value in score.setting.varied.items())


def _value_name(axis: str, value: float) -> str:
    if axis == "finetuned":
        return "labels after fine-tuning" if value else "labels without fine-tuning"
    return f"{axis.replace('_', ' ')} {'∞ (cross entropy)' if math.isinf(value) else f'{value:g}'}"


def sweep_svg(outcome: Outcome, *, against: str) -> str:
    """Return the plot of quality against what is varied (`value`) or an annotator's seconds (`seconds`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axes = figure.subplots()
    lines = _lines(outcome, against)
    ticks = sorted({_place(outcome, score, against) for score in outcome.scores})
    for number, (name, scores) in enumerate(lines.items()):
        # Bars of several lines would hide one another.
        aside = (ticks[-1] / ticks[0]) ** (BESIDE * (number - (len(lines) - 1) / 2))
        ordered = sorted(scores, key=lambda score: _place(outcome, score, against))
        places = [_place(outcome, score, against) * aside for score in ordered]
        widths = [0.0 if math.isnan(score.half_width) else score.half_width for score in ordered]
        color = COLORS[number % len(COLORS)]
        axes.errorbar(
            places, [score.mean for score in ordered], yerr=widths,
            color=color, marker="o", markersize=4, capsize=3, linewidth=1.4, label=name,
        )  # fmt: skip
        for place, score in zip(places, ordered, strict=True):
            axes.scatter([place] * len(score.values), score.values, s=9, color=color, alpha=0.35)
    axes.set(ylabel=_metric_name(outcome), xlabel=_axis_name(outcome, against), xscale="log")
    axes.set_xticks(ticks, [_tick(outcome, place, against) for place in ticks])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    if len(lines) > 1:
        columns = 2 if max(map(len, lines)) > LONG_NAME else 3
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    return figure_svg(figure, f"sweep-{against}")


def _lines(outcome: Outcome, against: str) -> dict[str, list[SettingScore]]:
    lines: dict[str, list[SettingScore]] = {}
    series = outcome.space.series
    if against == "seconds" and outcome.space.sweep == "tau":  # which costs no time; fine-tuning does
        series = (outcome.space.axis, *(axis for axis in series if axis != "finetuned"))
    for score in outcome.scores:
        name = ", ".join(_value_name(axis, score.setting.varied[axis]) for axis in series)
        lines.setdefault(name, []).append(score)
    return lines


def _place(outcome: Outcome, score: SettingScore, against: str) -> float:
    if against == "seconds":
        assert score.setting.seconds is not None, "drawn only where all settings have a time"
        return score.setting.seconds
    value = score.setting.varied[outcome.space.axis]
    return value if math.isfinite(value) else CROSS_ENTROPY_AT * _largest(outcome.scores, outcome.space.axis)


def _largest(scores: Sequence[SettingScore], axis: str) -> float:
    return max((score.setting.varied[axis] for score in scores if math.isfinite(score.setting.varied[axis])), default=1)


def _tick(outcome: Outcome, place: float, against: str) -> str:
    if against == "value" and place not in {score.setting.varied[outcome.space.axis] for score in outcome.scores}:
        return "∞"
    return f"{place:.4g}"


def _axis_name(outcome: Outcome, against: str) -> str:
    if against == "seconds":
        return f"annotator's seconds per object of a training clip ({outcome.space.times})"
    return {
        "tau": "tau (∞: cross entropy)",
        "frames": "annotated frames per clip",
        "points": "points per object and frame",
    }[outcome.space.sweep]
