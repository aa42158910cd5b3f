"""`rayvos review`: write the worst labels of a run for a person to fix."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from rayvos.cli.progress import Progress
from rayvos.errors import UsageError

__all__ = ["ReviewFlags", "review"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReviewFlags:
    """Options of `rayvos review`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """New folder to write into, path or URL."""
    worst: int = 20
    """Labels to show, worst first, one per object at most."""
    below: float = 1.0
    """Only labels with a lower score."""
    frame: Literal["worst", "middle"] = "worst"
    """Which frame of each object: its worst, or the middle one, whose mask sharpens the others best: for a first round
    before `rayvos label --finetune`."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Discard the review that is in the folder, answers included."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print the summary as one JSON object."""

    def __post_init__(self) -> None:
        if self.worst < 1:
            raise UsageError(f"--worst {self.worst}: expected at least 1")
        if not 0 < self.below <= 1:
            raise UsageError(f"--below {self.below}: expected a number above 0 and up to 1")


def review(run: str, flags: ReviewFlags) -> int:
    """Write the worst labels for a person to fix: PNGs to correct, overlays, and a table for answers.

    Correct labels/*.png, or answer in answers.csv: accept, box-wrong, not-visible. Then bring the fixes back and label
    again; only what they change is redone. Example:

        rayvos review out --worst 20 -o fixes

        rayvos import review fixes -o clips2.parquet

        rayvos label clips2.parquet -o out

    Args:
        run: Output folder of a labelling run, path or URL.
        flags: the rest; documented by their own fields.
    """
    from rayvos.review.fixes import write_review

    with Progress("reading labels", unit="clips") as progress:
        found = write_review(
            run, flags.out, num_worst=flags.worst, below=flags.below, shown=flags.frame, overwrite=flags.overwrite,
            on_clip=progress.advance,
        )  # fmt: skip
    if flags.as_json:
        print(json.dumps(asdict(found)))
        return 0
    print(f"{found.out}: {found.items} labels, scores {found.lowest:.3f} to {found.highest:.3f}")
    if found.estimated_recall_70 is not None:
        share = f"{100 * found.estimated_recall_70:.0f} % of {found.masks} masks have a score of 0.7 or more"
        print(f"  the run  {share}; {found.human_masks} masks are people's")
    print(f"next: correct {found.out}/labels/*.png or answer in {found.out}/answers.csv, then rayvos import review")
    return 0
