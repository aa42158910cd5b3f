"""What the commands of `rayvos eval` share: their options, where clips are scored, and how results are shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.progress import Progress
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.evaluation.protocols import VosProtocol
    from rayvos.evaluation.results import Evaluation
    from rayvos.evaluation.sources import MaskSource
    from rayvos.evaluation.tasks import TaskMap

__all__ = [
    "DEFAULTS",
    "EvalOptions",
    "MaskOptions",
    "evaluate_masks",
    "open_pair",
    "print_table",
    "score",
    "scoring",
    "show_evaluation",
    "split_pairs",
    "write_result",
]

SHOWN_OBJECTS = 40
FRAMES_PER_PROCESS = 200  # fewer are scored sooner than a second process has started


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Options of every protocol."""

    json: Annotated[str | None, Parameter(name="--json")] = None
    """Write the result as json, path or URL; `rayvos eval compare` reads it."""
    workers: int | None = None
    """Processes (or Ray actors); by default one per core where there is work for them."""
    ray: str | None = None
    """Score on a Ray cluster: `auto`, an address, or `local`."""


DEFAULTS = EvalOptions()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class MaskOptions(EvalOptions):
    """Options of the protocols that compare masks with masks."""

    gt: str
    """True masks: folder or zip of PNGs (or a data set's root), manifest, label table, COCO or YouTube-VIS json."""
    pred: str
    """Masks to score: a run folder, or any of the same forms."""
    clips: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    """Only these clips."""
    clips_file: str | None = None
    """Only the clips of this file, one id a line."""
    split: str | None = None
    """Only the clips of this list of the data set's ImageSets; default: val where there is one, else all."""
    csv: str | None = None
    """Write one line per object, path or URL."""
    resolution: str | None = None
    """Folder below Annotations; default: 480p where there are resolutions."""
    manifest: str | None = None
    """Manifest that names the frames of a label table; a run folder knows its own."""


def chosen_clips(options: MaskOptions, truth: MaskSource, years: Sequence[str]) -> list[str]:
    """Return the clips to score: those the options name, those of the data set's list, or all."""
    from rayvos.evaluation.opening import listed_clips

    if options.clips_file is not None:
        if options.clips is not None or options.split is not None:
            raise UsageError("--clips-file: not together with --clips or --split")
        lines = storage.read_bytes(options.clips_file).decode().splitlines()
        return [line.strip() for line in lines if line.strip()]
    if options.clips is not None:
        return options.clips
    return listed_clips(options.gt, options.split, years) or list(truth.num_frames)


def open_pair(
    options: MaskOptions, *, annotations: str = "Annotations", years: Sequence[str] = ("2017",)
) -> tuple[MaskSource, MaskSource, list[str]]:
    """Return truth, prediction and the clips to score."""
    from rayvos.evaluation.opening import open_masks

    # Workers of a cluster that runs already have working directories of their own.
    truth = open_masks(storage.absolute(options.gt), annotations=annotations, resolution=options.resolution)
    clip_ids = chosen_clips(options, truth, years)
    prediction = open_masks(storage.absolute(options.pred), resolution=None, manifest=options.manifest, like=clip_ids)
    return truth, prediction, clip_ids


@contextmanager
def scoring(
    options: EvalOptions, *, num_tasks: int | None = None, num_frames: int | None = None, unit: str = "clips"
) -> Iterator[tuple[TaskMap, Callable[[int], None]]]:
    """Yield where to score and what to call with the number of newly done tasks; progress is shown meanwhile.

    Args:
        options: `--workers` and `--ray`.
        num_tasks: how many there are; None where that is not known, then one process is the default.
        num_frames: how many they have, where that is known.
        unit: what progress counts.
    """
    from rayvos.evaluation.tasks import run_in_processes

    with Progress("scoring", total=num_tasks, unit=unit) as progress:
        if options.ray is not None:
            from rayvos.pipelines.cluster import connected
            from rayvos.pipelines.evaluate import run_on_ray

            with connected(options.ray):
                yield run_on_ray(options.workers), progress.advance
            return
        workers = options.workers
        if workers is None:
            from rayvos.pipelines.cluster import usable_cores

            useful = num_tasks or 1
            if num_frames is not None:
                useful = min(useful, math.ceil(num_frames / FRAMES_PER_PROCESS))
            workers = max(1, min(usable_cores(), useful))
        yield run_in_processes(workers), progress.advance


def score(
    options: MaskOptions,
    protocol: VosProtocol,
    *,
    annotations: str = "Annotations",
    years: Sequence[str] = ("2017",),
) -> int:
    """Score by a protocol, show the result and write it where the options say."""
    from rayvos.evaluation.results import evaluation_to_json, write_csv

    truth, prediction, clip_ids = open_pair(options, annotations=annotations, years=years)
    found = evaluate_masks(options, truth, prediction, protocol, clip_ids)
    show_evaluation(found)
    write_result(options, evaluation_to_json(found))
    if options.csv is not None:
        write_csv(found.objects, options.csv)
    return 0


def split_pairs(pairs: list[str]) -> dict[str, str]:
    """Return paths by key of `KEY=PATH` words."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, mark, path = pair.partition("=")
        if not mark or not key or not path:
            raise UsageError(f"--pred {pair!r}: expected KEY=PATH, such as 10=results/ten")
        if key in found:
            raise UsageError(f"--pred {pair!r}: key {key!r} is there twice")
        found[key] = path
    return found


def evaluate_masks(
    options: EvalOptions, truth: MaskSource, prediction: MaskSource, protocol: VosProtocol, clip_ids: list[str]
) -> Evaluation:
    """Score clips where the options say; progress is shown meanwhile."""
    from rayvos.evaluation.scoring import evaluate

    num_frames = sum(truth.num_frames.get(clip_id, 0) for clip_id in clip_ids)
    with scoring(options, num_tasks=len(clip_ids), num_frames=num_frames) as (run, advance):
        return evaluate(truth, prediction, protocol, clip_ids=clip_ids, run=run, on_clips=advance)


def write_result(options: EvalOptions, found: Mapping[str, Any]) -> None:
    """Write a result where `--json` says."""
    if options.json is not None:
        storage.write_bytes(options.json, json.dumps(found, indent=1, allow_nan=False).encode())


def show_evaluation(found: Evaluation) -> None:
    """Print the benchmark's numbers, then the objects, the worst of many."""
    print(f"{found.protocol}: {found.prediction} against {found.truth}")
    print_table(["", "value"], [[name, number(value, found.scale)] for name, value in found.summary.items()])
    rows = []
    for scores in found.objects:
        j, f = scores.j_statistics, scores.f_statistics
        values = ((j.mean + f.mean) / 2, j.mean, j.recall, j.decay, f.mean, f.recall, f.decay)
        rows.append(
            (
                values[0],
                [scores.name, str(len(scores.frames)), *(number(value * found.scale, found.scale) for value in values)],
            )
        )
    total = len(rows)
    if total > SHOWN_OBJECTS:
        rows = sorted(rows, key=lambda row: row[0])[:SHOWN_OBJECTS]
        print(f"\nthe worst {SHOWN_OBJECTS} of {total} objects (all: --csv or --json)")
    else:
        print()
    head = ["object", "frames", "J&F", "J", "J-rec", "J-dec", "F", "F-rec", "F-dec"]
    print_table(head, [cells for _, cells in rows])


def number(value: float | None, scale: int = 1) -> str:
    """Return a number for a table: whole ones as they are, shares with four digits, percents with two."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}" if scale == 1 else f"{value:.2f}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
