"""`rayvos eval narrative-grounding`, `length`, `budget`, `compare`: more than one number per result."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.eval_options import (
    DEFAULTS,
    EvalOptions,
    evaluate_masks,
    number,
    print_table,
    scoring,
    show_evaluation,
    split_pairs,
    write_result,
)
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.evaluation.protocols import VosProtocol

__all__ = ["budget", "compare", "length", "narrative_grounding"]

SHOWN_CLIPS = 10


def narrative_grounding(
    options: EvalOptions = DEFAULTS,
    *,
    meta: Annotated[str, Parameter(help="meta_expressions.json of the data set.")],
    masks: Annotated[
        list[str], Parameter(consume_multiple=True, negative="", help="json files with the objects' true masks.")
    ],
    pred: Annotated[str, Parameter(help="Folder or zip of <video>/<expression>/<frame>.png.")],
) -> int:
    """Score mask tracks of the marked nouns of narratives: VNG.

    Prints a table; --json writes the numbers. Example:

        rayvos eval narrative-grounding --meta meta_expressions.json --masks orig.json extra.json --pred out
    """
    from rayvos.evaluation.narrative_grounding import evaluate_expressions, read_expressions
    from rayvos.evaluation.png_source import open_pngs
    from rayvos.evaluation.results import evaluation_to_json

    expressions = read_expressions(meta, masks)
    prediction = open_pngs(pred).matching([expression.clip_id for expression in expressions])
    with scoring(options, num_tasks=len(expressions), unit="expressions") as (run, advance):
        found = evaluate_expressions(expressions, prediction, truth=meta, run=run, on_clips=advance)
    show_evaluation(found)
    write_result(options, evaluation_to_json(found))
    return 0


def length(
    result: Annotated[str, Parameter(help="json of another `rayvos eval` command.")],
    *,
    bins: Annotated[int, Parameter(help="Stretches of equal length.")] = 10,
    plot: Annotated[str | None, Parameter(help="Write the curve as SVG, path or URL.")] = None,
    json: Annotated[str | None, Parameter(name="--json", help="Write the curve as json, path or URL.")] = None,
) -> int:
    """Show J and F over the length of the videos.

    Prints a table; --json writes the numbers. Example:

        rayvos eval length davis.json --plot length.svg
    """
    from rayvos.evaluation.curves import over_length
    from rayvos.evaluation.plots import plot_over_length
    from rayvos.evaluation.results import read_evaluation

    found = over_length(read_evaluation(result).objects, bins)
    rows = [
        [f"{100 * item.start:.0f}…{100 * item.stop:.0f} %", str(item.num_objects), number(item.j), number(item.f)]
        for item in found
    ]
    print_table(["of the video", "objects", "J", "F"], rows)
    if plot is not None:
        storage.write_bytes(plot, plot_over_length(found).encode())
    curve = [{key: None if value != value else value for key, value in asdict(item).items()} for item in found]
    write_result(
        EvalOptions(json=json), {"rayvos_evaluation": 1, "protocol": "length", "result": result, "bins": curve}
    )
    return 0


def budget(
    options: EvalOptions = DEFAULTS,
    *,
    gt: Annotated[str, Parameter(help="True masks of every frame.")],
    pred: Annotated[
        list[str],
        Parameter(negative="", help="K=PATH: result with every K-th frame annotated, `first=PATH`: only the first."),
    ],
    protocol: Annotated[
        Literal["davis2016", "davis2017"], Parameter(help="One foreground object, or several.")
    ] = "davis2017",
    split: Annotated[
        str | None, Parameter(help="List of the data set's ImageSets; default: val if there is one.")
    ] = None,
    plot: Annotated[str | None, Parameter(help="Write the curves as SVG, path or URL.")] = None,
) -> int:
    """Show mean IoU and its quantiles against the share of annotated frames, beside copying the nearest annotation.

    Annotated frames are scored, too; the first and the last frame of a clip are not. Example:

        rayvos eval budget --gt DAVIS --pred first=out1 --pred 40=out40 --pred 10=out10 --plot budget.svg
    """
    from rayvos.evaluation.curves import QUANTILES, CopyNearest, anchors_every, frame_quality
    from rayvos.evaluation.opening import listed_clips, open_masks
    from rayvos.evaluation.plots import plot_budget
    from rayvos.evaluation.protocols import Davis2016, Davis2017

    rule: VosProtocol = Davis2016() if protocol == "davis2016" else Davis2017()
    truth = open_masks(gt)
    years = ("2016", "480p") if protocol == "davis2016" else ("2017",)
    clip_ids = listed_clips(gt, split, years) or list(truth.num_frames)
    points, baseline, rows, listed = [], [], [], []
    for key, path in split_pairs(pred).items():
        if key != "first" and not key.isdigit():
            raise UsageError(f"--pred {key}={path}: expected first=PATH or a whole number, every so many-th frame")
        every = None if key == "first" else int(key)
        counts = [(len(anchors_every(every, truth.num_frames[name])), truth.num_frames[name]) for name in clip_ids]
        share = sum(count for count, _ in counts) / sum(frames for _, frames in counts)
        found = frame_quality(evaluate_masks(options, truth, open_masks(path, like=clip_ids), rule, clip_ids).objects)
        copied = frame_quality(evaluate_masks(options, truth, CopyNearest(truth, every), rule, clip_ids).objects)
        points.append((share, found))
        baseline.append((share, copied.mean_iou))
        values = (found.mean_iou, *found.quantiles.values(), copied.mean_iou)
        rows.append([key, f"{100 * share:.1f} %", *map(number, values)])
        listed.append({"annotated": key, "share": share, **asdict(found), "copy_mean_iou": copied.mean_iou})
    head = ["annotated", "share", "mean IoU", *(f"q{percent}" for percent in QUANTILES), "copy"]
    print_table(head, rows)
    write_result(options, {"rayvos_evaluation": 1, "protocol": "budget", "truth": gt, "budgets": listed})
    if plot is not None:
        storage.write_bytes(plot, plot_budget(points, baseline).encode())
    return 0


def compare(
    first: Annotated[str, Parameter(help="json or CSV of a result.")],
    second: Annotated[str, Parameter(help="json or CSV of another result on the same data.")],
    *,
    draws: Annotated[int, Parameter(help="Draws of the bootstrap.")] = 10_000,
    seed: Annotated[int, Parameter(help="Seed of the bootstrap.")] = 0,
    plot: Annotated[str | None, Parameter(help="Write the differences by clip as SVG, path or URL.")] = None,
    json: Annotated[str | None, Parameter(name="--json", help="Write the comparison as json, path or URL.")] = None,
) -> int:
    """Show two results side by side: the difference of each clip, and of the means with a 95 % confidence interval.

    Prints a table; --json writes the numbers. Example:

        rayvos eval compare before.json after.json --plot difference.svg
    """
    from rayvos.evaluation.comparison import compare as compare_means
    from rayvos.evaluation.comparison import read_object_means
    from rayvos.evaluation.plots import plot_comparison

    if draws < 1:
        raise UsageError(f"--draws: expected at least 1, found {draws}")
    found = compare_means(
        read_object_means(first), read_object_means(second), names=(first, second), draws=draws, seed=seed
    )
    print(f"A: {first}\nB: {second}\n{found.num_objects} objects in {len(found.clips)} clips")
    rows = [
        [item.metric, number(item.first), number(item.second), f"{item.difference:+.4f}",
         f"{item.low:+.4f} … {item.high:+.4f}", f"{100 * item.share_better:.1f} %"]
        for item in found.metrics
    ]  # fmt: skip
    print_table(["", "A", "B", "B - A", "95 % interval", "B better in"], rows)
    for place, objects in (("A", found.only_first), ("B", found.only_second)):
        if objects:
            print(f"only in {place}, left out: {len(objects)} objects, such as {objects[0]}")
    shown = list(found.clips)
    if len(shown) > 2 * SHOWN_CLIPS:
        print(f"\nthe {SHOWN_CLIPS} clips that gain and that lose most, by J&F (all: --json)")
        shown = shown[:SHOWN_CLIPS] + shown[-SHOWN_CLIPS:]
    else:
        print()
    lines = [[clip.clip_id, number(clip.first), number(clip.second), f"{clip.difference:+.4f}"] for clip in shown]
    print_table(["clip", "A", "B", "B - A"], lines)
    plain: dict[str, Any] = asdict(found)
    for item in plain["metrics"]:
        item.update({key: None for key, value in item.items() if isinstance(value, float) and math.isnan(value)})
    write_result(EvalOptions(json=json), {"rayvos_evaluation": 1, "protocol": "compare", **plain})
    if plot is not None:
        storage.write_bytes(plot, plot_comparison(found).encode())
    return 0
