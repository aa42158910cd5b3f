"""`rayvos eval pseudo-labels`, `calibration`, `points`: how far labels can be trusted."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.eval_options import MaskOptions, chosen_clips, number, open_pair, print_table, scoring, write_result
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.evaluation.pseudo_labels import LabelQuality

__all__ = ["calibration", "points", "pseudo_labels"]


Binary = Annotated[
    bool, Parameter(negative="", help="Whatever is drawn is one object: truth of 0 and 255, as in DAVIS 2016.")
]


def pseudo_labels(
    options: MaskOptions,
    *,
    binary: Binary = False,
    meta: Annotated[
        str | None, Parameter(help="meta.json of YouTube-VOS for the classes; a manifest as --gt has its own.")
    ] = None,
) -> int:
    """Score labels where the object is present: mean IoU, recall at 50 and 70; by class, size, and time to a mask.

    Prints a table; --json writes the numbers. Example:

        rayvos eval pseudo-labels --gt youtube_vos/train --pred out --csv masks.csv
    """
    found = _measure(options, meta, binary)
    print(f"pseudo-labels: {options.pred} against {options.gt}")
    lines = [
        [
            f"{row.group}: {row.name}",
            str(row.num_masks),
            number(row.mean_iou),
            number(row.recall_50),
            number(row.recall_70),
        ]
        for row in found.table
    ]
    print_table(["masks", "count", "mean IoU", "recall@50", "recall@70"], lines)
    print(f"masks where the object is absent: {found.masks_where_absent} (in no line above)")
    table = [asdict(row) for row in found.table]
    head = {"rayvos_evaluation": 1, "protocol": "pseudo-labels", "truth": options.gt, "prediction": options.pred}
    write_result(options, {**head, "table": table, "masks_where_absent": found.masks_where_absent})
    if options.csv is not None:
        _write_masks(found, options.csv)
    return 0


def _measure(options: MaskOptions, meta: str | None, binary: bool) -> LabelQuality:
    from rayvos.evaluation.meta_files import read_meta
    from rayvos.evaluation.pseudo_labels import measure_masks
    from rayvos.evaluation.table_sources import ManifestSource

    truth, prediction, clip_ids = open_pair(options, years=("2016", "480p") if binary else ("2017",))
    categories: dict[tuple[str, int], str] = {}
    if meta is not None:
        for clip_id, objects in read_meta(meta).items():
            categories |= {(clip_id, object_id): category for object_id, (category, _) in objects.items()}
    elif isinstance(truth, ManifestSource):
        categories = truth.categories(clip_ids)
    num_frames = sum(truth.num_frames.get(clip_id, 0) for clip_id in clip_ids)
    with scoring(options, num_tasks=len(clip_ids), num_frames=num_frames) as (run, advance):
        return measure_masks(
            truth, prediction, clip_ids=clip_ids, categories=categories, binary=binary, run=run, on_clips=advance
        )


def _write_masks(found: LabelQuality, path: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(found.clips[0].rows.dtype.names or ())
    writer.writerow(["clip_id", *names])
    for clip in found.clips:
        writer.writerows([clip.clip_id, *row] for row in clip.rows.tolist())
    storage.write_bytes(path, text.getvalue().encode())


def calibration(
    options: MaskOptions,
    *,
    binary: Binary = False,
    bad_iou: Annotated[float, Parameter(help="Masks below are the ones that the score should find.")] = 0.7,
    bins: Annotated[int, Parameter(help="Score ranges of the reliability curve.")] = 10,
    plot: Annotated[str | None, Parameter(help="Write the reliability curve as SVG, path or URL.")] = None,
    fit: Annotated[
        str | None,
        Parameter(help="Fit a curve from scores to IoUs and write it here; `rayvos label --calibration` uses it."),
    ] = None,
) -> int:
    """Check how well the labels' score predicts their IoU, on clips whose truth is known; --fit mends it.

    Prints a table; --json writes the numbers. Example:

        rayvos eval calibration --gt truth.parquet --pred out --fit cut.calibration.json
    """
    from rayvos.evaluation.calibration import calibration_from_masks
    from rayvos.evaluation.plots import plot_reliability

    maker = None if fit is None else _maker(options.pred)
    quality = _measure(options, None, binary)
    found = calibration_from_masks(quality, bad_iou=bad_iou, num_bins=bins)
    print(f"calibration: scores of {options.pred} against {options.gt}")
    lines = [
        ["masks", str(found.num_masks)],
        [f"with IoU below {bad_iou:g}", str(found.num_bad)],
        ["Spearman of score and IoU", number(found.spearman)],
        ["AUROC of finding them", number(found.auroc)],
        ["expected calibration error", number(found.expected_error)],
        ["mean |score - IoU|", number(found.mean_absolute_error)],
    ]
    print_table(["", "value"], lines)
    print()
    curve = [
        [f"{item.low:.2f}…{item.high:.2f}", str(item.num_masks), number(item.mean_score), number(item.mean_iou)]
        for item in found.bins
    ]
    print_table(["score", "masks", "mean score", "mean IoU"], curve)
    head = {"rayvos_evaluation": 1, "protocol": "calibration", "truth": options.gt, "prediction": options.pred}
    extra: dict[str, Any] = {}
    if fit is not None and maker is not None:
        extra = _fit(quality, maker, fit, bad_iou)
    write_result(options, {**head, **found.to_json(), **extra})
    if plot is not None:
        storage.write_bytes(plot, plot_reliability(found).encode())
    return 0


def _maker(run: str) -> tuple[str, str]:
    """Return engine and weights' digest of a run with the engine's own scores.

    Raises:
        UsageError: it is no run folder, or its scores went through a calibration.
    """
    from rayvos.annotations.run_folder import RunFolder

    found = RunFolder(run).read_run_json().get("configuration")
    if found is None:
        raise UsageError(f"--fit: expected the output folder of `rayvos label` as --pred, found no run.json in {run}")
    if "calibration" in found["options"]:
        raise UsageError(f"--fit: the scores of {run} went through a calibration; label with --calibration none first")
    return found["engine"], found["weights"]


def _fit(quality: LabelQuality, maker: tuple[str, str], path: str, bad_iou: float) -> dict[str, Any]:
    from rayvos.engines.score_calibration import write_calibration
    from rayvos.evaluation.isotonic import fit_calibration

    fitted = fit_calibration(quality, engine=maker[0], weights=maker[1], bad_iou=bad_iou)
    write_calibration(fitted.calibration, path)
    print(f"\nfitted: {path}, {len(fitted.calibration.scores)} points from {fitted.calibration.num_masks} masks")
    if fitted.held_out is None:
        print("one clip: how it carries over to others is unknown")
        return {"held_out": None}
    lines = [
        ["expected calibration error", number(fitted.held_out.expected_error)],
        ["mean |score - IoU|", number(fitted.held_out.mean_absolute_error)],
        ["Spearman of score and IoU", number(fitted.held_out.spearman)],
    ]
    print_table(["each clip by the others' curve", "value"], lines)
    return {"held_out": fitted.held_out.to_json()}


def points(options: MaskOptions) -> int:
    """Count the verified points that lie on the right side of the masks; --gt is a manifest with points.

    Prints a table; --json writes the numbers. Example:

        rayvos eval points --gt points.parquet --pred out
    """
    from rayvos.evaluation.opening import open_masks
    from rayvos.evaluation.points import count_points

    named = options.clips is not None or options.clips_file is not None
    prediction = open_masks(options.pred, resolution=options.resolution, manifest=options.manifest)
    clip_ids = chosen_clips(replace(options, split=None), prediction, ()) if named else None
    with scoring(options) as (run, advance):
        found = count_points(options.gt, prediction, clip_ids=clip_ids, run=run, on_clips=advance)
    num_positive = sum(item.positives for item in found.objects)
    num_negative = sum(item.negatives for item in found.objects)
    print(f"points: {options.pred} against {options.gt}")
    lines = [
        ["positive, inside their mask", str(num_positive), number(found.positive_accuracy)],
        ["negative, outside of it", str(num_negative), number(found.negative_accuracy)],
        ["all, on the right side", str(num_positive + num_negative), number(found.accuracy)],
    ]
    print_table(["points", "count", "share"], lines)
    shares = {"accuracy": found.accuracy, "positive": found.positive_accuracy, "negative": found.negative_accuracy}
    summary: dict[str, Any] = {name: None if value != value else value for name, value in shares.items()}
    head = {"rayvos_evaluation": 1, "protocol": "points", "truth": options.gt, "prediction": options.pred}
    write_result(options, {**head, "summary": summary, "objects": [asdict(item) for item in found.objects]})
    return 0
