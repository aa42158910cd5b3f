"""Plots of evaluations as SVG text, for a file or inline in a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rayvos.evaluation.calibration import Calibration
from rayvos.evaluation.comparison import Comparison
from rayvos.evaluation.curves import FrameQuality, LengthBin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_budget", "plot_comparison", "plot_over_length", "plot_reliability"]

SHOWN_CLIPS = 60  # bars that stay readable; the clips in between are left out and counted


def plot_reliability(calibration: Calibration) -> str:
    """Return a reliability curve with the number of masks behind each point, as SVG."""
    figure, axes = _figure(4.6, 4.2)
    shares = [item.num_masks / calibration.num_masks for item in calibration.bins]
    widths = [item.high - item.low for item in calibration.bins]
    axes.bar(
        [item.low for item in calibration.bins], shares, widths, align="edge", color="#d9d9d9", label="share of masks"
    )
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="perfect")
    scores, ious = [item.mean_score for item in calibration.bins], [item.mean_iou for item in calibration.bins]
    axes.plot(scores, ious, color="#1f5fa8", marker="o", label="mean IoU")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="IoU")
    axes.set_title(f"Spearman {calibration.spearman:.2f}, AUROC {calibration.auroc:.2f}, {calibration.num_masks} masks")
    axes.legend(loc="upper left", frameon=False)
    return _svg(figure)


def plot_over_length(bins: Sequence[LengthBin]) -> str:
    """Return J and F by position in the video, as SVG."""
    figure, axes = _figure(5.5, 3.6)
    centres = [100 * (item.start + item.stop) / 2 for item in bins]
    axes.plot(centres, [item.j for item in bins], color="#1f5fa8", marker="o", label="J")
    axes.plot(centres, [item.f for item in bins], color="#c8551b", marker="s", label="F")
    axes.set(xlim=(0, 100), ylim=(0, 1), xlabel="position in the video (%)", ylabel="mean over objects")
    axes.legend(frameon=False)
    return _svg(figure)


def plot_budget(points: Sequence[tuple[float, FrameQuality]], baseline: Sequence[tuple[float, float]] = ()) -> str:
    """Return IoU against the share of annotated frames, as SVG.

    Args:
        points: (share of annotated frames in [0, 1], quality).
        baseline: (share, mean IoU) of copying the nearest annotation.
    """
    figure, axes = _figure(5.5, 4.2)
    ordered = sorted(points, key=lambda point: point[0])
    shares = [100 * share for share, _ in ordered]
    for percent in ordered[0][1].quantiles if ordered else ():
        values = [quality.quantiles[percent] for _, quality in ordered]
        axes.plot(shares, values, color="#9db8d6", linewidth=1)
        axes.annotate(f"{percent}%", (shares[-1], values[-1]), fontsize=7, color="#5a7fa8")
    axes.plot(shares, [quality.mean_iou for _, quality in ordered], color="#1f5fa8", marker="o", label="mean IoU")
    if baseline:
        copied = sorted(baseline)
        axes.plot([100 * share for share, _ in copied], [iou for _, iou in copied], "--", color="#c8551b", label="copy")
    axes.set(ylim=(0, 1), xlabel="annotated frames (%)", ylabel="IoU; thin: quantiles of frames")
    axes.legend(frameon=False, loc="lower right")
    return _svg(figure)


def plot_comparison(comparison: Comparison) -> str:
    """Return the difference of each clip, best first, and the mean with its confidence interval, as SVG."""
    clips = list(comparison.clips)
    left_out = max(0, len(clips) - SHOWN_CLIPS)
    if left_out:
        clips = clips[: SHOWN_CLIPS // 2] + clips[-SHOWN_CLIPS // 2 :]
    figure, axes = _figure(6, max(2.0, 0.18 * len(clips) + 1.2))
    colours = ["#2a7f4f" if clip.difference >= 0 else "#b03a2e" for clip in clips]
    axes.barh(range(len(clips)), [clip.difference for clip in clips], color=colours)
    axes.set_yticks(range(len(clips)), [clip.clip_id for clip in clips], fontsize=7)
    axes.invert_yaxis()
    overall = comparison.metrics[0]
    axes.axvspan(overall.low, overall.high, color="#1f5fa8", alpha=0.2)
    axes.axvline(overall.difference, color="#1f5fa8")
    axes.axvline(0, color="black", linewidth=0.8)
    note = f"; {left_out} clips in between left out" if left_out else ""
    axes.set_xlabel(f"J&F difference (blue: mean and 95 % interval{note})", fontsize=8)
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot: it would choose a display and keep figures alive

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    import matplotlib

    text = io.StringIO()
    # Fixed ids and no date: the same numbers give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "rayvos", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :]
