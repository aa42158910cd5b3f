"""The quality report: one HTML file that shows how a run went and which of its labels to look at first.

The page holds everything it shows (styles, plots as SVG, pictures as base64 JPEG) and its own policy forbids it to
fetch anything, so that it can be mailed, archived, or opened on a machine without a network. Memory does not grow
with the run: see `run_statistics`.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import RunFolder, iter_labels, read_dead_letters
from rayvos.review.plots import score_histogram_svg
from rayvos.review.run_statistics import RunStatistics
from rayvos.review.thumbnails import Thumbnail, label_thumbnails
from rayvos.review.truth_section import compare_with_truth

__all__ = ["ReportSummary", "write_report"]

SHOWN_LETTERS = 50
SHOWN_CLIPS = 100
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What a report found."""

    path: str
    clips: int
    frames: int
    masks: int
    mean_score: float | None
    low_masks: int
    dead_letters: dict[str, int] = field(default_factory=dict)
    """By error code."""


@dataclass(frozen=True, slots=True)
class _RunCounts:
    """How far a run is, from its plan."""

    clips: int
    clips_done: int
    frames: int
    frames_done: int
    units: int
    units_done: int


def write_report(
    run: str,
    path: str,
    *,
    num_worst: int = 48,
    low_score: float = 0.5,
    truth: str | None = None,
    on_clip: Callable[[], None] = lambda: None,
) -> ReportSummary:
    """Write the report of a run, which may be empty, still going on, or have failed wholly.

    Args:
        run: output folder of a labelling run, path or URL.
        path: path or URL of the HTML file.
        num_worst: labels shown with pictures, worst first, one per object.
        low_score: masks with a lower score count as low.
        truth: true masks of some or all clips (see `truth_section`) to compare labels and scores with; None: none.
        on_clip: called after each clip that was read.

    Raises:
        MissingPathError: `run` is no run folder.
        InputError: a file of the run is damaged, or `truth` cannot be compared with it.
        StorageError: a file cannot be read or written.
    """
    folder = RunFolder(run)
    counts = _count(folder)
    statistics = RunStatistics(low_score=low_score, num_worst=num_worst, num_clips_kept=SHOWN_CLIPS)
    for clip_id, table in iter_labels(run):
        statistics.add(clip_id, table)
        on_clip()
    letters = read_dead_letters(run).select(["clip_id", "frame_start", "frame_stop", "error", "message", "attempts"])
    worst = statistics.worst_labels()
    thumbnails = label_thumbnails(worst, _clips_by_id(folder, {label.clip_id for label in worst}))
    codes = Counter(letters.column("error").to_pylist())
    about = folder.read_run_json()
    rate = (about.get("throughput") or {}).get("frames_per_s")
    page = _render(
        run=run,
        about=about,
        rate=rate if isinstance(rate, int | float) else None,
        state=about.get("state", "planned"),
        counts=counts,
        statistics=statistics,
        histogram=score_histogram_svg(statistics.histogram, low_score) if statistics.num_masks else "",
        codes=codes.most_common(),
        letters=letters.slice(0, SHOWN_LETTERS).to_pylist(),
        num_letters=letters.num_rows,
        pictures=[_picture(thumbnails[label]) for label in worst],
        facts=list(_flatten({key: about.get(key) for key in ("configuration", "job", "versions")})),
        throughput=list(_flatten(about.get("throughput") or {})),
        earlier=about.get("earlier") or [],
        truth=None if truth is None else compare_with_truth(run, truth, _whole_clips(folder, letters)),
    )
    storage.write_bytes(path, page.encode("utf-8"))
    return ReportSummary(
        path, statistics.num_clips, statistics.num_frames, statistics.num_masks, statistics.mean_score,
        statistics.num_low, dict(codes),
    )  # fmt: skip


def _count(run: RunFolder) -> _RunCounts:
    plan = run.read_plan()
    committed = run.committed()
    pieces = plan.select(["unit_id", "clip_id", "frame_start", "frame_stop"]).to_pylist()
    done = [piece for piece in pieces if piece["unit_id"] in committed]
    clips = {piece["clip_id"] for piece in pieces}
    units = {piece["unit_id"] for piece in pieces}
    return _RunCounts(
        clips=len(clips),
        clips_done=len(clips - {piece["clip_id"] for piece in pieces if piece["unit_id"] not in committed}),
        frames=sum(piece["frame_stop"] - piece["frame_start"] for piece in pieces),
        frames_done=sum(piece["frame_stop"] - piece["frame_start"] for piece in done),
        units=len(units),
        units_done=len(units & committed),
    )


def _whole_clips(run: RunFolder, letters: pa.Table) -> set[str]:
    """Return the clips that are labelled wholly: nothing of them is left to do or failed."""
    plan = run.read_plan()
    committed = run.committed()
    columns = (plan.column(name).to_pylist() for name in ("clip_id", "unit_id"))
    pieces = list(zip(*columns, strict=True))
    unfinished = {clip_id for clip_id, unit_id in pieces if unit_id not in committed}
    return {clip_id for clip_id, _ in pieces} - unfinished - set(letters.column("clip_id").to_pylist())


def _clips_by_id(run: RunFolder, clip_ids: set[str]) -> dict[str, Clip]:
    plan = run.read_plan().select(["clip_id", "manifest_row"]).to_pylist()
    rows = sorted({row["manifest_row"] for row in plan if row["clip_id"] in clip_ids})
    return {clip.clip_id: clip for _, clip in ManifestFile(run.newest_manifest()).read_rows(rows)}


def _picture(thumbnail: Thumbnail) -> dict[str, Any]:
    data = None if thumbnail.jpeg is None else base64.b64encode(thumbnail.jpeg).decode("ascii")
    label = thumbnail.label
    return {
        "clip_id": label.clip_id,
        "object_id": label.object_id,
        "frame": label.frame,
        "score": label.score,
        "jpeg": data,
        "reason": thumbnail.reason,
    }


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (`a.b`, text) for every value of nested mappings, in order; what is empty is left out."""
    found = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            found += _flatten(value, f"{prefix}{key}.")
        elif value not in (None, "", [], {}):
            found.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)))
    return found


def _render(**facts: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # clip ids and messages come from files of other people
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(facts)
