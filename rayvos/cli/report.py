"""`rayvos report`: one HTML page on a run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.progress import Progress
from rayvos.errors import UsageError

__all__ = ["report"]

EXIT_DEAD_LETTERS = 3


def report(
    run: Annotated[str, Parameter(help="Output folder of a labelling run, path or URL.")],
    *,
    out: Annotated[
        str | None,
        Parameter(name=["--out", "-o"], help="The page, path or URL; default: report.html in the run folder."),
    ] = None,
    worst: Annotated[int, Parameter(help="Labels shown with pictures, worst first.")] = 48,
    low_score: Annotated[float, Parameter(help="Masks with a lower score count as low.")] = 0.5,
    gt: Annotated[
        str | None,
        Parameter(
            help="True masks to compare with: a manifest with masks, a folder of PNGs, a COCO or YouTube-VIS json."
        ),
    ] = None,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print the summary as one JSON object.")
    ] = False,
) -> int:
    """Write one static HTML page on a run: counts, throughput, dead letters, scores, worst labels first.

    The page fetches nothing: mail it, archive it, open it anywhere. Works on a run that is still going on.
    Exits with 3 where the run has dead letters. Example:

        rayvos report out -o report.html
    """
    if worst < 0 or not 0 <= low_score <= 1:
        raise UsageError(f"--worst {worst}, --low-score {low_score}: expected 0 or more, and a number in [0, 1]")
    from rayvos.review.quality_report import write_report

    path = out or storage.join(run, "report.html")
    with Progress("reading labels", unit="clips") as progress:
        summary = write_report(run, path, num_worst=worst, low_score=low_score, truth=gt, on_clip=progress.advance)
    if as_json:
        print(json.dumps(asdict(summary)))
    else:
        score = "no score yet" if summary.mean_score is None else f"mean score {summary.mean_score:.3f}"
        print(f"{summary.path}: {summary.clips} clips, {summary.masks} masks, {score}, {summary.low_masks} low")
        if summary.dead_letters:
            kinds = ", ".join(f"{count} {code}" for code, count in sorted(summary.dead_letters.items()))
            print(f"  dead letters: {kinds}")
    return EXIT_DEAD_LETTERS if summary.dead_letters else 0
