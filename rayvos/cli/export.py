"""`rayvos export`: write a run's labels in the format of another tool, or as pictures to look at."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.progress import Progress
from rayvos.errors import FormatError

if TYPE_CHECKING:
    from rayvos.review.exports import ExportSummary

__all__ = ["export"]

SHOWN_FAILURES = 20
EXIT_FAILED, EXIT_SOME_FAILED = 1, 3


def export(
    run: Annotated[str, Parameter(help="Output folder of a labelling run, path or URL.")],
    *,
    out: Annotated[str, Parameter(name=["--out", "-o"], help="Folder to write into, path or URL.")],
    # A plain string, so that `--help` and wrong names are answered by our own list with the nearest name.
    format: Annotated[
        str,
        Parameter(
            name=["--format", "-f"],
            help="davis, youtube-vos or sav (PNGs), coco or youtube-vis (json), overlay, contact-sheet, parquet.",
        ),
    ],
    clips: Annotated[list[str] | None, Parameter(consume_multiple=True, help="Only these clips.", negative="")] = None,
    clips_file: Annotated[str | None, Parameter(help="Only the clips of this file, one id a line.")] = None,
    min_score: Annotated[
        float, Parameter(help="Labels below become 'ignore' (255 in their box) in PNGs and are left out elsewhere.")
    ] = 0.0,
    overlap: Annotated[
        str, Parameter(help="Who gets a pixel of two objects: 'score', the higher score, or 'lowest-id'.")
    ] = "score",
    max_side: Annotated[
        int | None, Parameter(help="Longer side of overlays, or of each panel of contact sheets, in pixels.")
    ] = None,
    fps: Annotated[float | None, Parameter(help="Frames per second of overlays; default: the clip's, or 24.")] = None,
    rows: Annotated[int, Parameter(help="Frames on a contact sheet.")] = 4,
    partial: Annotated[
        bool, Parameter(negative="", help="Also clips of which some frames are not labelled, or failed.")
    ] = False,
    overwrite: Annotated[
        bool, Parameter(negative="", help="Replace an earlier export of other settings in the same folder.")
    ] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print the summary as one JSON object.")
    ] = False,
) -> int:
    """Write labels as PNGs, COCO or YouTube-VIS json, overlay videos, contact sheets, or one table.

    A stopped export goes on where it was; after a rerun of the labelling only clips that changed are made again.
    Exits with 3 where some clips could not be exported. Example:

        rayvos export out -o masks --format davis
    """
    from rayvos.review.export_options import ExportOptions
    from rayvos.review.exports import export_run

    options = ExportOptions(
        format=format,  # type: ignore[arg-type]  # checked there
        overlap=overlap,  # type: ignore[arg-type]
        min_score=min_score,
        max_side=max_side,
        fps=fps,
        rows=rows,
        partial=partial,
    )
    with Progress("exporting", unit="clips") as progress:
        summary = export_run(
            run, out, options,
            clip_ids=_chosen(clips, clips_file), overwrite=overwrite,
            on_start=progress.set_total, on_clip=lambda _: progress.advance(),
        )  # fmt: skip
    if as_json:
        print(json.dumps(asdict(summary)))
    else:
        _show(summary)
    if not summary.failed:
        return 0
    return EXIT_SOME_FAILED if summary.clips + summary.already_done else EXIT_FAILED


def _chosen(clips: list[str] | None, clips_file: str | None) -> set[str] | None:
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
