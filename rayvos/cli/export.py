"""`rayvos export`: write a run's labels in the format of another tool, or as pictures to look at."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rayvos import storage
from rayvos.annotations.label_frames import Overlap
from rayvos.cli.progress import Progress
from rayvos.errors import FormatError
from rayvos.review.export_options import ExportFormat, ExportOptions

if TYPE_CHECKING:
    from rayvos.review.exports import ExportSummary

__all__ = ["ExportFlags", "export"]

SHOWN_FAILURES = 20
EXIT_FAILED, EXIT_SOME_FAILED = 1, 3


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportFlags:
    """Options of `rayvos export`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """Folder to write into, path or URL."""
    format: Annotated[ExportFormat, Parameter(name=["--format", "-f"])]
    """PNGs: `davis`, `youtube-vos`, `sav`; json: `coco`, `youtube-vis`; pictures: `overlay` (mp4), `contact-sheet`
    (jpg); `parquet`: one table; of candidates: `point-vos` json, `contact-sheet`, `parquet`."""
    clips: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative="")] = None
    """Only these clips."""
    clips_file: str | None = None
    """Only the clips listed in this file, one id per line."""
    min_score: float = 0.0
    """Labels below become 'ignore' (255 in their box) in PNGs and are left out elsewhere."""
    gt: str | None = None
    """True masks of some or all frames: there a label's score is its IoU with them, so --min-score filters by it."""
    overlap: Overlap = "score"
    """Who gets a pixel of two objects in a label map: the higher score, or the lower id."""
    max_side: int | None = None
    """Longer side of overlays, or of each panel of contact sheets, in pixels."""
    fps: float | None = None
    """Frames per second of overlays; default: the clip's, or 24."""
    rows: int = 4
    """Frames on a contact sheet."""
    partial: Annotated[bool, Parameter(negative="")] = False
    """Also clips of which some frames are not labelled, or failed."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Replace an earlier export of other settings in the same folder."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print the summary as one JSON object."""


def export(run: str, flags: ExportFlags) -> int:
    """Write labels as PNGs, COCO or YouTube-VIS json, overlay videos, contact sheets, or one table.

    A stopped export goes on where it was; after a rerun of the labelling only clips that changed are made again.
    Exits with 3 where some clips could not be exported. Example:

        rayvos export out -o masks --format davis

    Args:
        run: Output folder of a run, path or URL.
        flags: the rest; documented by their own fields.
    """
    from rayvos.review.exports import export_run

    options = ExportOptions(
        format=flags.format,
        overlap=flags.overlap,
        min_score=flags.min_score,
        truth=flags.gt,
        max_side=flags.max_side,
        fps=flags.fps,
        rows=flags.rows,
        partial=flags.partial,
    )
    with Progress("exporting", unit="clips") as progress:
        summary = export_run(
            run, flags.out, options,
            clip_ids=_chosen(flags.clips, flags.clips_file), overwrite=flags.overwrite,
            on_start=progress.set_total, on_clip=lambda _: progress.advance(),
        )  # fmt: skip
    if flags.as_json:
        print(json.dumps(asdict(summary)))
    else:
        _show(summary)
    if not summary.failed:
        return 0
    return EXIT_SOME_FAILED if summary.clips + summary.already_done else EXIT_FAILED


def _chosen(clips: tuple[str, ...] | None, clips_file: str | None) -> set[str] | None:
    if clips is None and clips_file is None:
        return None
    chosen = set(clips or ())
    if clips_file is not None:
        try:
            lines = storage.read_bytes(clips_file).decode("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise FormatError(f"{clips_file}: expected a UTF-8 text file, one clip id a line: {error}") from error
        chosen.update(line.strip() for line in lines if line.strip())
    return chosen


def _show(summary: ExportSummary) -> None:
    parts = [f"{summary.clips} clips written"]
    if summary.already_done:
        parts.append(f"{summary.already_done} were there already")
    print(f"{summary.out}: {summary.format}: {', '.join(parts)}, {summary.files} files")
    if summary.not_labelled:
        print(f"  {summary.not_labelled} clips left out: not labelled yet, or dead letters; see `rayvos status`")
    for failure in summary.failed[:SHOWN_FAILURES]:
        print(f"  failed {failure.clip_id} {failure.error}: {failure.message}", file=sys.stderr)
    if len(summary.failed) > SHOWN_FAILURES:
        print(f"  … {len(summary.failed) - SHOWN_FAILURES} more failed; see --json", file=sys.stderr)
