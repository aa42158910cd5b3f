"""YouTube-VIS: average precision and recall of tracks.

Source: youtubevos/cocoapi, `ytvoseval.py`: COCO's rules, with IoU over whole tracks and area ranges for the mean area
of a track. Differs: the official tool crashes on an empty list of results; here it scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayvos.evaluation.tasks import TaskMap, run_here
from rayvos.evaluation.track_matching import MAX_DETECTIONS, CategoryTracks, TrackMatcher

__all__ = ["AREA_RANGES", "IOU_THRESHOLDS", "TrackPrecision", "evaluate_tracks"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_PER_VIDEO = (1, 10, MAX_DETECTIONS)
AREA_RANGES = {"all": (0.0, 1e10), "small": (0.0, 128.0**2), "medium": (128.0**2, 256.0**2), "large": (256.0**2, 1e10)}
NOTHING = -1.0  # where a category has no truth in the range


@dataclass(frozen=True, slots=True, eq=False)
class TrackPrecision:
    """The result of the benchmark."""

    stats: dict[str, float]
    """The 12 official numbers, AP … AR_large, in [0, 1]; -1 where there is nothing to average."""
    precision_KTR: NDArray[np.float64]
    """(categories, IoU thresholds, recall points), all areas, up to 100 detections; -1 without truth."""
    recall_KT: NDArray[np.float64]
    """(categories, IoU thresholds): the highest recall; -1 without truth."""
    categories: dict[int, str]
    """Names by id, in the order of the arrays."""
    tracks: list[CategoryTracks]
    """The IoU matrices behind them."""

    def average_precision(self, category_id: int) -> float | None:
        """Return a category's AP over all IoU thresholds; None without truth."""
        precision_TR = self.precision_KTR[list(self.categories).index(category_id)]
        known = precision_TR[precision_TR > NOTHING]
        return float(known.mean()) if known.size else None


def evaluate_tracks(
    truth: str,
    results: str,
    *,
    run: TaskMap = run_here,
    on_videos: Callable[[int], None] | None = None,
) -> TrackPrecision:
    """Score YouTube-VIS results.

    Args:
        truth: path or URL of the json with videos, categories and annotations.
        results: path or URL of the json list of results.
        run: where videos are matched.
        on_videos: called with the number of videos that are newly done.

    Raises:
        FormatError: a file is not of its form, or they do not belong together.
        StorageError: a file cannot be read.
    """
    matcher = TrackMatcher(truth, results)
    files = matcher.files
    tasks = [(video_id,) for video_id in files.sizes]
    found: dict[int, list[CategoryTracks]] = {}
    for position, matched in run(matcher, tasks):
        found[tasks[position][0]] = matched[0]
        if on_videos is not None:
            on_videos(1)
    # Detections of equal score keep this order: by video, as the official tool sorts them.
    tracks = [item for video_id in sorted(found) for item in found[video_id]]
    categories = dict(sorted(files.categories.items()))
    by_category = [[item for item in tracks if item.category_id == category_id] for category_id in categories]
    curves = {
        (area, most): [_curve(items, AREA_RANGES[area], most) for items in by_category]
        for area, most in [("all", 1), ("all", 10), *((area, MAX_DETECTIONS) for area in AREA_RANGES)]
    }
    precision = np.stack([precision for precision, _ in curves["all", MAX_DETECTIONS]])
    recall = np.stack([recall for _, recall in curves["all", MAX_DETECTIONS]])
    return TrackPrecision(_stats(curves), precision, recall, categories, tracks)


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def _stats(curves: dict[tuple[str, int], list[Curve]]) -> dict[str, float]:
    def mean_precision(area: str, threshold: float | None = None) -> float:
        values_KTR = np.stack([precision for precision, _ in curves[area, MAX_DETECTIONS]])
        return _mean(values_KTR if threshold is None else values_KTR[:, np.isclose(IOU_THRESHOLDS, threshold)])

    def mean_recall(area: str, most: int) -> float:
        return _mean(np.stack([recall for _, recall in curves[area, most]]))

    ranges = ("small", "medium", "large")
    return {
        "AP": mean_precision("all"),
        "AP50": mean_precision("all", 0.5),
        "AP75": mean_precision("all", 0.75),
        **{f"AP_{area}": mean_precision(area) for area in ranges},
        **{f"AR{most}": mean_recall("all", most) for most in MAX_PER_VIDEO},
        **{f"AR_{area}": mean_recall(area, MAX_DETECTIONS) for area in ranges},
    }


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > NOTHING]
    return float(known.mean()) if known.size else NOTHING


def _curve(items: Sequence[CategoryTracks], area_range: tuple[float, float], most: int) -> Curve:
    """Return one category's precision (thresholds, recall points) and highest recall (thresholds)."""
    num_thresholds = len(IOU_THRESHOLDS)
    precision = np.full((num_thresholds, len(RECALL_POINTS)), NOTHING)
    recall = np.full(num_thresholds, NOTHING)
    matched = [_match(item, area_range, most) for item in items]
    num_truths = sum(count for _, _, count in matched)
    if num_truths == 0:
        return precision, recall
    scores = np.concatenate([item.scores_D[:most] for item in items])
    order = np.argsort(-scores, kind="stable")
    is_match = np.concatenate([match for match, _, _ in matched], axis=1)[:, order]
    counts = ~np.concatenate([ignored for _, ignored, _ in matched], axis=1)[:, order]
    true_TD = np.cumsum(is_match & counts, axis=1).astype(np.float64)
    false_TD = np.cumsum(~is_match & counts, axis=1).astype(np.float64)
    for number, (true_D, false_D) in enumerate(zip(true_TD, false_TD, strict=True)):
        recall_D = true_D / num_truths
        recall[number] = recall_D[-1] if recall_D.size else 0.0
        precision_D = true_D / (false_D + true_D + np.spacing(1))
        precision_D = np.maximum.accumulate(precision_D[::-1])[::-1]
        positions = np.searchsorted(recall_D, RECALL_POINTS, side="left")
        reached = positions < recall_D.size
        precision[number] = 0.0
        precision[number, reached] = precision_D[positions[reached]]
    return precision, recall


def _match(
    item: CategoryTracks, area_range: tuple[float, float], most: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Give each detection, best first, the best truth that is left, at every IoU threshold.

    Returns:
        (thresholds, detections) whether matched, the same whether it neither helps nor hurts, and how many truths
        count.
    """
    low, high = area_range
    ignored_T = item.crowd_T | (item.areas_T < low) | (item.areas_T > high)
    order = np.argsort(ignored_T, kind="stable")  # truths that count come first and are preferred
    ignored_T, crowd_T, ious_DT = ignored_T[order], item.crowd_T[order], item.ious_DT[:most, order]
    num_detections = len(ious_DT)
    is_match = np.zeros((len(IOU_THRESHOLDS), num_detections), np.bool_)
    ignored = np.zeros_like(is_match)
    for number, threshold in enumerate(IOU_THRESHOLDS):
        taken_T = np.zeros(len(order), np.bool_)
        for detection in range(num_detections):
            truth = _best_truth(ious_DT[detection], taken_T & ~crowd_T, ignored_T, min(threshold, 1 - 1e-10))
            if truth is not None:
                taken_T[truth] = is_match[number, detection] = True
                ignored[number, detection] = ignored_T[truth]
    outside_D = (item.areas_D[:most] < low) | (item.areas_D[:most] > high)
    return is_match, ignored | (~is_match & outside_D), int((~ignored_T).sum())


def _best_truth(
    ious_T: NDArray[np.float64], taken_T: NDArray[np.bool_], ignored_T: NDArray[np.bool_], threshold: float
) -> int | None:
    """Return the truth of the highest IoU from the threshold on, the last of equal ones; those that count go first."""
    for group_T in (~ignored_T, ignored_T):
        free = np.flatnonzero(group_T & ~taken_T & (ious_T >= threshold))
        if free.size:
            best = ious_T[free].max()
            return int(free[ious_T[free] == best][-1])
    return None
