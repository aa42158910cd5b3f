"""What an export can write, and the options it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rayvos.annotations.label_frames import Overlap
from rayvos.errors import UsageError, choose

__all__ = ["CANDIDATE_FORMATS", "LABEL_FORMATS", "ExportFormat", "ExportOptions"]

ExportFormat = Literal[
    "davis", "youtube-vos", "sav", "coco", "youtube-vis", "overlay", "contact-sheet", "parquet", "point-vos"
]
LABEL_FORMATS: tuple[ExportFormat, ...] = tuple(name for name in get_args(ExportFormat) if name != "point-vos")
CANDIDATE_FORMATS: tuple[ExportFormat, ...] = ("contact-sheet", "parquet", "point-vos")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What an export writes; part of what its folder is checked against."""

    format: ExportFormat
    overlap: Overlap = "score"
    """Who gets a pixel of two objects: the higher score, or the lower id."""
    min_score: float = 0.0
    """Labels below are 'ignore' in PNGs, and left out elsewhere."""
    truth: str | None = None
    """True masks: where they are known, a label's score is its IoU with them."""
    max_side: int | None = None
    """Longer side of overlays, or of each panel of contact sheets, in pixels."""
    fps: float | None = None
    """Frames per second of overlays."""
    rows: int = 4
    """Frames on a contact sheet."""
    partial: bool = False
    """Also export clips of which some frames are not labelled."""

    def __post_init__(self) -> None:
        choose("format", self.format, get_args(ExportFormat))
        choose("overlap", self.overlap, get_args(Overlap))
        if not 0 <= self.min_score <= 1:
            raise UsageError(f"--min-score {self.min_score}: expected a number in [0, 1]")
        if self.fps is not None and self.format != "overlay":
            raise UsageError(f"--fps: only overlays have a frame rate, not {self.format!r}; leave it out")
        if self.max_side is not None and self.format not in ("overlay", "contact-sheet"):
            raise UsageError(f"--max-side: only pictures can be scaled, not {self.format!r}; leave it out")
        if self.max_side is not None and self.max_side < 16:
            raise UsageError(f"--max-side {self.max_side}: expected at least 16 pixels")
        if self.fps is not None and not 0.1 <= self.fps <= 1000:
            raise UsageError(f"--fps {self.fps}: expected a number in [0.1, 1000]")
        if self.rows < 1:
            raise UsageError(f"--rows {self.rows}: expected at least 1")
