"""The part of a report that compares labels with truth: how good they are, and whether their scores tell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rayvos.errors import InputError
from rayvos.evaluation.calibration import Calibration, calibration_from_pairs
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.plots import plot_reliability
from rayvos.evaluation.pseudo_labels import LabelQuality, QualityRow, measure_masks
from rayvos.evaluation.table_sources import LabelTableSource
from rayvos.review.plots import bare_svg

__all__ = ["TruthSection", "compare_with_truth"]


@dataclass(frozen=True, slots=True)
class TruthSection:
    """What the comparison found, ready to be shown."""

    truth: str
    """Path or URL of the true masks."""
    num_clips: int
    table: tuple[QualityRow, ...]
    masks_where_absent: int
    calibration: Calibration | None
    """None where no compared mask carries a score."""
    plot: str
    """Reliability curve as SVG; empty without calibration."""


def compare_with_truth(run: str, truth: str, clip_ids: Collection[str]) -> TruthSection:
    """Compare the labels of a run with true masks of the same clips and object ids.

    Args:
        run: output folder of a labelling run, path or URL.
        truth: a manifest with masks, a folder or zip of label maps, a run, or a COCO or YouTube-VIS json.
        clip_ids: the clips of the run that are labelled wholly; those that the truth has are compared.

    Raises:
        InputError: the truth has none of the clips, or another set of object ids; naming it.
        StorageError: a file cannot be read.
    """
    true_masks = open_masks(truth, like=sorted(clip_ids))
    common = [clip_id for clip_id in true_masks.num_frames if clip_id in set(clip_ids)]
    if not common:
        raise InputError(
            f"{truth}: has masks of {len(true_masks.num_frames)} clips, but none of the {len(clip_ids)} clips that "
            f"{run} has labelled; clip ids must be the same"
        )
    quality = measure_masks(true_masks, LabelTableSource(run), clip_ids=common)
    calibration = _calibration(quality)
    shown = tuple(row for row in quality.table if row.group != "distance")
    plot = "" if calibration is None else bare_svg(plot_reliability(calibration))
    return TruthSection(truth, len(common), shown, quality.masks_where_absent, calibration, plot)


def _calibration(quality: LabelQuality) -> Calibration | None:
    scores, ious = [], []
    for clip in quality.clips:
        rows = clip.rows[~clip.rows["human"] & (clip.rows["score"] >= 0)]  # false for NaN: no score
        scores += rows["score"].tolist()
        ious += rows["iou"].tolist()
    return calibration_from_pairs(scores, ious) if scores else None
