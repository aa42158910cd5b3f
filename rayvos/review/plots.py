"""Plots as SVG text that stands inside a page: no script, no font file, no outside address."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bare_svg", "figure_svg", "score_histogram_svg"]

ACCENT, WEAK, INK = "#2b7de0", "#e25555", "#3a4150"


def figure_svg(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element; the same figure gives the same text.

    Args:
        figure: a matplotlib figure.
        name: makes the ids inside differ from those of other figures on a page.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return bare_svg(buffer.getvalue())


def bare_svg(text: str) -> str:
    """Return an SVG document as an element for a page, without the metadata that names addresses of standards."""
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def score_histogram_svg(histogram: NDArray[np.int64], low_score: float) -> str:
    """Return the distribution of scores: masks per score, and the share of masks up to each score.

    Args:
        histogram: masks in equal parts of [0, 1].
        low_score: parts below are drawn in another colour.
    """
    from matplotlib.figure import Figure

    edges = np.linspace(0, 1, len(histogram) + 1)
    figure = Figure(figsize=(8.6, 2.9), layout="constrained")
    axes = figure.subplots()
    colors = [WEAK if left < low_score - 1e-9 else ACCENT for left in edges[:-1]]
    axes.bar(edges[:-1], histogram, width=np.diff(edges), align="edge", color=colors, edgecolor="white", linewidth=0.4)
    axes.set(xlim=(0, 1), xlabel="score (predicted IoU)", ylabel="masks")
    share = axes.twinx()
    share.plot(edges, np.concatenate([[0], np.cumsum(histogram)]) / max(1, histogram.sum()), color=INK, linewidth=1.3)
    share.set(ylim=(0, 1.02), ylabel="share of masks below")
    for axis in (axes, share):
        axis.spines[["top"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=9)
        axis.xaxis.label.set_color(INK)
        axis.yaxis.label.set_color(INK)
    return figure_svg(figure, "scores")
