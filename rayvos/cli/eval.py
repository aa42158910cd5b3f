"""`rayvos eval`: score masks against truth by the rules of a benchmark, one command per protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from rayvos.cli.eval_curves import budget, compare, length, narrative_grounding
from rayvos.cli.eval_labels import calibration, points, pseudo_labels
from rayvos.cli.eval_options import (
    DEFAULTS,
    EvalOptions,
    MaskOptions,
    number,
    print_table,
    score,
    scoring,
    write_result,
)
from rayvos.cli.eval_points import point_stcn, point_vos

__all__ = ["app"]

app = App(
    name="eval",
    help="Score masks against truth by the rules of a benchmark.\n\n"
    "Try `rayvos eval davis2017 --gt DAVIS --pred results --json out.json`.",
    result_action="return_value",
)

BoundTh = Annotated[
    float, Parameter(help="Radius of the boundary match: below 1 a share of the image diagonal, else pixels.")
]


@app.command
def davis2016(options: MaskOptions, *, bound_th: BoundTh = 0.008) -> int:
    """Score one foreground object per clip: DAVIS 2016. Whatever is drawn, of any id, is foreground.

    Prints a table; --json writes the numbers. Example:

        rayvos eval davis2016 --gt DAVIS --pred osvos_results
    """
    from rayvos.evaluation.protocols import Davis2016

    return score(options, Davis2016(bound_th), years=("2016", "480p"))


@app.command
def davis2017(options: MaskOptions, *, bound_th: BoundTh = 0.008) -> int:
    """Score several objects per clip, first masks given: DAVIS 2017 semi-supervised.

    Prints a table; --json writes the numbers. Example:

        rayvos eval davis2017 --gt DAVIS --pred out --json out.json --csv out.csv
    """
    from rayvos.evaluation.protocols import Davis2017

    return score(options, Davis2017(bound_th))


@app.command(name="davis2017-unsupervised")
def davis2017_unsupervised(options: MaskOptions, *, bound_th: BoundTh = 0.008) -> int:
    """Match proposals with objects, then score them: DAVIS 2017 unsupervised.

    Prints a table; --json writes the numbers. Example:

        rayvos eval davis2017-unsupervised --gt DAVIS --pred proposals
    """
    from rayvos.evaluation.unsupervised import DavisUnsupervised

    return score(options, DavisUnsupervised(bound_th), annotations="Annotations_unsupervised", years=("2017", "2019"))


@app.command(name="vos-benchmark")
def vos_benchmark(
    options: MaskOptions,
    *,
    all_frames: Annotated[bool, Parameter(negative="", help="Score the first and the last frame, too.")] = False,
    bound_th: BoundTh = 0.008,
) -> int:
    """Score by the rule of vos-benchmark: an object counts from where truth or prediction first shows it.

    Prints a table; --json writes the numbers. Example:

        rayvos eval vos-benchmark --gt MOSE/train/Annotations --pred out
    """
    from rayvos.evaluation.protocols import VosBenchmark

    return score(options, VosBenchmark(not all_frames, bound_th))


@app.command(name="youtube-vos")
def youtube_vos(
    options: MaskOptions,
    *,
    meta: Annotated[str, Parameter(help="meta.json with each object's category and frames.")],
    seen: Annotated[
        str, Parameter(help="json of the seen categories: a list, {'seen': […]}, or the training set's meta.json.")
    ],
    frames: Annotated[
        Literal["after-first", "skip-first-and-last", "all"],
        Parameter(help="Which frames: those after each object's first one, or a rule of vos-benchmark."),
    ] = "after-first",
    bound_th: BoundTh = 0.008,
) -> int:
    """Score objects of seen and of unseen categories: YouTube-VOS, where the truth of all frames is at hand.

    Prints a table; --json writes the numbers. Example:

        rayvos eval youtube-vos --gt valid_all --meta valid/meta.json --seen train/meta.json --pred out
    """
    from rayvos.evaluation.meta_files import read_meta, read_seen
    from rayvos.evaluation.protocols import YoutubeVos

    return score(options, YoutubeVos(read_meta(meta), read_seen(seen), frames, bound_th))


@app.command
def sparse(
    options: MaskOptions,
    *,
    include_first: Annotated[
        bool, Parameter(negative="", help="Score each object's first annotated frame, too: no mask was given there.")
    ] = False,
    bound_th: BoundTh = 0.008,
) -> int:
    """Score the frames that the truth annotates, each object after its first one: TAO-VOS.

    Prints a table; --json writes the numbers. Example:

        rayvos eval sparse --gt tao_vos --pred out
    """
    from rayvos.evaluation.protocols import SparseFrames

    return score(options, SparseFrames(include_first, bound_th))


@app.command(name="youtube-vis")
def youtube_vis(
    options: EvalOptions = DEFAULTS,
    *,
    gt: Annotated[str, Parameter(help="json with videos, categories and annotations.")],
    pred: Annotated[str, Parameter(help="json list of results.")],
) -> int:
    """Score tracks by average precision and recall: YouTube-VIS.

    Prints a table; --json writes the numbers. Example:

        rayvos eval youtube-vis --gt instances.json --pred results.json
    """
    from rayvos.evaluation.track_ap import evaluate_tracks

    with scoring(options, unit="videos") as (run, advance):
        found = evaluate_tracks(gt, pred, run=run, on_videos=advance)
    print(f"youtube-vis: {pred} against {gt}")
    print_table(["", "value"], [[name, number(value)] for name, value in found.stats.items()])
    per_category = {name: found.average_precision(category_id) for category_id, name in found.categories.items()}
    print()
    print_table(["category", "AP"], [[name, number(value)] for name, value in per_category.items()])
    head = {"rayvos_evaluation": 1, "protocol": "youtube-vis", "truth": gt, "prediction": pred}
    write_result(options, {**head, "summary": found.stats, "categories": per_category})
    return 0


app.command(pseudo_labels)
app.command(calibration)
app.command(points)
app.command(point_vos)
app.command(point_stcn)
app.command(narrative_grounding)
app.command(length)
app.command(budget)
app.command(compare)
