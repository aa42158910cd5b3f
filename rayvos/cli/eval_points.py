"""`rayvos eval point-vos` and `point-stcn`: the Point-VOS benchmark, of results that are there or made now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.cli.eval_options import (
    DEFAULTS,
    EvalOptions,
    evaluate_masks,
    number,
    print_table,
    split_pairs,
    write_result,
)
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.evaluation.protocols import VosProtocol

__all__ = ["PointStcnOptions", "point_stcn", "point_vos"]

SCORES = ("J&F-Mean", "J-Mean", "F-Mean")

ScoredFrames = Annotated[
    Literal["davis2017", "sparse"], Parameter(help="Which frames: davis2017 for PV-DAVIS, sparse for PV-Oops.")
]


def point_vos(
    options: EvalOptions = DEFAULTS,
    *,
    gt: Annotated[str, Parameter(help="True masks: PV-DAVIS all frames, PV-Oops some of them.")],
    pred: Annotated[list[str], Parameter(negative="", help="KEY=PATH, once per result.")],
    protocol: ScoredFrames = "davis2017",
    split: Annotated[
        str | None, Parameter(help="List of the data set's ImageSets; default: val if there is one.")
    ] = None,
) -> int:
    """Score results that started from 1, 2, 5 and 10 points per object, and their mean.

    Prints a table; --json writes the numbers. Example:

        rayvos eval point-vos --gt DAVIS --pred 1=out1 --pred 2=out2 --pred 5=out5 --pred 10=out10
    """
    from rayvos.evaluation.opening import listed_clips

    _score_sets(options, gt, split_pairs(pred), protocol, listed_clips(gt, split, ("2017",)))
    return 0


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PointStcnOptions(EvalOptions):
    """Options of `rayvos eval point-stcn`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """Output folder, path or URL. The same command on the same folder goes on where it was."""
    weights: str | None = None
    """Point-STCN weights, path or URL; none: train them first, by --recipe."""
    recipe: str | None = None
    """Recipe of `rayvos train point-stcn` to train weights by, where none are given."""
    data: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """What to learn from, as `rayvos train --data`; none: generated clips."""
    steps: int | None = None
    """Steps of the training; by default the recipe's."""
    seed: int = 0
    """Of the training."""
    train_option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of the training task, as key=value; may be given several times."""
    points: tuple[int, ...] = ()
    """Points per object that clips start from; may be given several times. By default 1, 2, 5 and 10."""
    scale_distance: Annotated[bool, Parameter(negative="")] = False
    """Take the 20 pixels between points as meant for 480p and scale them with the frame; the paper does not."""
    protocol: Literal["davis2017", "sparse", "pv-oops"] = "davis2017"
    """Where points come from and which frames are scored. `davis2017`: drawn from the first masks, all frames of
    PV-DAVIS; `sparse`: the same, frames with masks; `pv-oops`: points of the manifest, frames with masks after them."""
    device: Annotated[Literal["auto", "cuda", "cpu"], Parameter(name=["--device", "-d"])] = "auto"
    """Where networks run; `auto` takes the cluster's GPUs if it has some."""
    address: str = ""
    """Ray cluster: `auto`, an address, or `local` for one inside this process; default: RAY_ADDRESS, else `local`."""

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.recipe is None):
            raise UsageError("expected --weights FILE, or --recipe NAME to train some (with --data); give one of them")


def point_stcn(manifest: str, *, options: PointStcnOptions) -> int:
    """Run the Point-VOS benchmark: train or load Point-STCN, start from 1, 2, 5 and 10 points, score, print a table.

    Points lie on the objects of each clip's first frame with masks, drawn as Point-VOS does, or are those of the
    manifest; masks of later frames are the truth. OUT/points-1, points-2… are runs of `rayvos label`, OUT/training is
    one of `rayvos train`: what is done is never done again.

    For example:

        rayvos import davis DAVIS -o davis.parquet

        rayvos eval point-stcn davis.parquet --weights point-stcn.safetensors -o benchmark

        rayvos eval point-stcn davis.parquet --recipe pv-davis-youtube --data train.parquet -o benchmark

    Args:
        manifest: Clips with masks, path or URL.
        options: the rest; documented by their own fields.
    """
    from rayvos.annotations.simulated_points import PointRule
    from rayvos.cli.progress import Progress
    from rayvos.engines.registry import EngineChoice
    from rayvos.evaluation.opening import open_masks
    from rayvos.pipelines.cluster import connected
    from rayvos.pipelines.point_benchmark import POINT_SETS, label_point_sets

    counts = options.points or POINT_SETS
    drawn = PointRule(num_points=max(*counts, *POINT_SETS), scale_distance=options.scale_distance)
    with connected(options.address):
        weights = options.weights or _train(options)
        engine = EngineChoice("point-stcn", {"direction": "forward"}, weights, options.device)
        with Progress("labelling", total=len(counts), unit="sets") as progress:
            found = label_point_sets(
                manifest, options.out, engine, counts=counts, rule=None if options.protocol == "pv-oops" else drawn,
                address=options.address, on_set=progress.advance,
            )  # fmt: skip
    runs = {str(count): run for count, run in found.runs.items()}
    labelled = list(open_masks(found.runs[counts[0]]).num_frames)  # clips without masks have no points
    sets = _score_sets(options, found.truth, runs, options.protocol, labelled)
    print("\nJ&F in the form of Point-VOS, table 3")
    shares = [100 * summary["J&F-Mean"] for summary in sets.values()]
    row = [weights, *(f"{share:.1f}" for share in (sum(shares) / len(shares), *shares))]
    print_table(["weights", "Mean", *(f"{count}-point" for count in counts)], [row])
    return 0


def _train(options: PointStcnOptions) -> str:
    """Train weights, or go on with it; return their path."""
    from rayvos.cli.train import TrainOptions, train

    assert options.recipe is not None, "checked with the options"
    out = storage.join(options.out, "training")
    train(
        "point-stcn",
        TrainOptions(
            out=out, data=options.data, recipe=options.recipe, steps=options.steps, seed=options.seed,
            option=options.train_option, device=options.device, address=options.address,
        ),
    )  # fmt: skip
    return storage.join(out, "weights.safetensors")


def _score_sets(
    options: EvalOptions, gt: str, predictions: Mapping[str, str], protocol: str, clip_ids: Sequence[str] | None
) -> dict[str, dict[str, float]]:
    """Score a result per number of points, print the table, write it where `--json` says, and return it."""
    from rayvos.evaluation.opening import open_masks
    from rayvos.evaluation.protocols import Davis2017, SparseFrames
    from rayvos.evaluation.statistics import mean_of_numbers

    # In PV-Oops, no object's mask is on its reference frame: the first one counts, too.
    rule: VosProtocol = Davis2017() if protocol == "davis2017" else SparseFrames(include_first=protocol == "pv-oops")
    truth = open_masks(gt)
    chosen = list(clip_ids or truth.num_frames)
    sets = {
        key: dict(evaluate_masks(options, truth, open_masks(path, like=chosen), rule, chosen).summary)
        for key, path in predictions.items()
    }
    mean = {name: mean_of_numbers([summary[name] for summary in sets.values()]) for name in SCORES}
    rows = [[f"{key} points", *(number(summary[name]) for name in SCORES)] for key, summary in sets.items()]
    print_table(["first frame", *SCORES], [*rows, ["mean", *(number(mean[name]) for name in SCORES)]])
    head = {"rayvos_evaluation": 1, "protocol": "point-vos", "truth": gt, "frames": protocol}
    write_result(options, {**head, "summary": mean, "sets": sets})
    return sets
