"""`rayvos report`: one HTML page on a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.progress import Progress
from rayvos.errors import UsageError

__all__ = ["ReportFlags", "report"]

EXIT_DEAD_LETTERS = 3


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """Options of `rayvos report`."""

    out: Annotated[str | None, Parameter(name=["--out", "-o"])] = None
    """The page, path or URL; default: report.html in the run folder."""
    worst: int = 48
    """Labels shown with pictures, worst first, one per object."""
    low_score: float = 0.5
    """Masks with a lower score count as low."""
    gt: str | None = None
    """True masks to compare with: a manifest with masks, a folder of PNGs, a COCO or YouTube-VIS json."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print the summary as one JSON object."""

    def __post_init__(self) -> None:
        if self.worst < 0:
            raise UsageError(f"--worst {self.worst}: expected 0 or more")
        if not 0 <= self.low_score <= 1:
            raise UsageError(f"--low-score {self.low_score}: expected a number in [0, 1]")


def report(run: str, flags: ReportFlags | None = None) -> int:
    """Write one static HTML page on a run: counts, throughput, dead letters, scores, worst labels first.

    The page fetches nothing: mail it, archive it, open it anywhere. Works on a run that is still going on.
    Exits with 3 where the run has dead letters. Example:

        rayvos report out -o report.html

    Args:
        run: Output folder of a labelling run, path or URL.
        flags: the rest; documented by their own fields.
    """
    from rayvos.review.quality_report import write_report

    flags = flags or ReportFlags()
    path = flags.out or storage.join(run, "report.html")
    with Progress("reading labels", unit="clips") as progress:
        summary = write_report(
            run, path, num_worst=flags.worst, low_score=flags.low_score, truth=flags.gt, on_clip=progress.advance
        )
    if flags.as_json:
        print(json.dumps(asdict(summary)))
    else:
        score = "no score yet" if summary.mean_score is None else f"mean score {summary.mean_score:.3f}"
        print(f"{summary.path}: {summary.clips} clips, {summary.masks} masks, {score}, {summary.low_masks} low")
        if summary.dead_letters:
            kinds = ", ".join(f"{count} {code}" for code, count in sorted(summary.dead_letters.items()))
            print(f"  dead letters: {kinds}")
    return EXIT_DEAD_LETTERS if summary.dead_letters else 0
