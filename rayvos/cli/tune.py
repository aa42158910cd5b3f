"""`rayvos tune`: sweeps that answer what is worth an annotator's time."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rayvos import storage
from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.tuning.outcome import Outcome
    from rayvos.tuning.spaces import Costs, Setting, Space
    from rayvos.tuning.trials import Trial, TrialResult

__all__ = ["TuneOptions", "tune"]

QUICK_STEPS, QUICK_SEEDS, QUICK_VALUES = 200, 2, {"tau": (2.0, 5.0, float("inf")), "frames": (2, 5), "points": (1, 10)}
QUICK_CORRUPTED = "corrupted=0.2"  # wrong labels of generated clips: what tau is for
VALIDATIONS = 9  # of a trial: rungs for early stopping


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Options of `rayvos tune`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """Output folder, path or URL. The same command on the same folder goes on and runs no finished trial again."""
    data: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """What trials learn from, as `rayvos train --data`; none: generated clips."""
    validation: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """What they are validated on; none: generated clips that none of them learns from."""
    values: tuple[float, ...] = ()
    """Values along the axis; may be given several times. By default the papers'; `inf` is cross entropy."""
    series: tuple[float, ...] = ()
    """Second axis. tau: minimum scores below which labels are ignored; points: reference points."""
    finetuned: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """tau: the same clips as --data, labelled with `rayvos label --finetune`: every setting is tried with both."""
    seeds: int = 3
    """Trials of each setting."""
    task: str | None = None
    """Training task; by default `stcn`, for points `point-stcn`."""
    recipe: str = "default"
    """Its recipe; `quick` runs on a laptop."""
    steps: int | None = None
    """Steps of a trial; by default the recipe's."""
    weights: str | None = None
    """Weights all trials begin with."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of the training task, as key=value, the same for all trials; may be given several times."""
    metric: str = "j_and_f"
    """Score of the validation that decides; more is better."""
    early_stopping: Annotated[bool, Parameter(negative="")] = False
    """End trials early that are worse than others at the same step (ASHA)."""
    concurrent: int | None = None
    """Trials at once; by default as many as the cluster holds."""
    cpus: float = 1
    """CPUs of a trial; beside a GPU they make its samples ahead."""
    gpus: float = 0
    """GPUs of a trial; 0.5 lets two share one."""
    point_seconds: float = 0.95
    """An annotator's seconds for a point (Point-VOS)."""
    box_seconds: float = 7.0
    """An annotator's seconds for a box (by its four extreme points: Extreme clicking, 2017)."""
    mask_seconds: float = 80.0
    """An annotator's seconds for a mask (Point-VOS)."""
    quick: Annotated[bool, Parameter(negative="")] = False
    """Few values, two seeds and few steps of recipe `quick`: some minutes, to see how it goes. tau, on generated clips:
    a fifth of the labels are wrong."""
    address: str = ""
    """Ray cluster: `auto`, an address, or `local` for one inside this process; default: RAY_ADDRESS, else `local`."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Discard the sweep that is in the output folder and start anew."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UsageError(f"seeds: expected a number from 1, found {self.seeds}")
        if self.finetuned and not self.data:
            raise UsageError("--finetuned: expected --data with the labels made without fine-tuning, too")


def tune(sweep: Literal["tau", "frames", "points"], options: TuneOptions) -> int:
    """Learn which tau, how many annotated frames, or how many points are worth paying for.

    OUT/report.html shows quality against what is varied and against an annotator's time, OUT/results.parquet holds a
    row per trial, OUT/best.yaml is what `rayvos train --config` reads, and OUT/label.yaml, with the best trial's
    weights, what `rayvos label --config` reads.

    For example:

        rayvos tune tau --quick -o sweep

        rayvos tune points --data clips.parquet --validation held-out.parquet --gpus 0.5 -o s3://bucket/points

        rayvos tune tau --series 0 --series 0.5 --data run --finetuned sharper --validation held-out.parquet -o tau

    Args:
        sweep: What is varied: `tau` of the Huberised loss, annotated `frames` per clip, or `points` per object and
            frame.
        options: the rest; documented by their own fields.
    """
    from rayvos.tuning.effort import with_label_times
    from rayvos.tuning.outcome import outcome_of
    from rayvos.tuning.trials import claim_sweep

    # Trials have working directories of their own.
    options = dataclasses.replace(options, out=storage.absolute(options.out))
    if options.quick:
        options = _quick(sweep, options)
    space = _space(sweep, options)
    if options.overwrite:
        _discard(options.out)
    claim_sweep(options.out, _facts(space, options))
    trials = _trials(space, options)
    if space.sweep == "tau":  # what labels cost depends on what they were made from
        space, trials = with_label_times(space, trials, options.data, options.finetuned, _costs(options))
    results = _run(trials, options)
    outcome = outcome_of(space, results, options.metric)
    _write(outcome, options)
    _show(outcome, options)
    return 0


def _quick(sweep: str, options: TuneOptions) -> TuneOptions:
    generated = sweep == "tau" and options.task is None and not options.data
    wrong = generated and not any(word.startswith("corrupted=") for word in options.option)
    return dataclasses.replace(
        options,
        option=(*options.option, QUICK_CORRUPTED) if wrong else options.option,
        recipe="quick",
        steps=options.steps or QUICK_STEPS,
        seeds=min(options.seeds, QUICK_SEEDS),
        values=options.values or QUICK_VALUES[sweep],
    )


def _discard(out: str) -> None:
    for name in ("sweep.json", "data", "trials", "results.parquet", "report.html", "best.yaml", "label.yaml"):
        storage.remove(storage.join(out, name))


def _space(sweep: str, options: TuneOptions) -> Space:
    from rayvos.tuning.spaces import space_of

    return space_of(
        sweep,
        values=options.values,
        series=options.series,
        finetuned=bool(options.finetuned),
        costs=_costs(options),
    )


def _costs(options: TuneOptions) -> Costs:
    from rayvos.tuning.spaces import Costs

    return Costs(point_s=options.point_seconds, box_s=options.box_seconds, mask_s=options.mask_seconds)


def _task(space: Space, options: TuneOptions) -> str:
    return options.task or space.task


def _facts(space: Space, options: TuneOptions) -> dict[str, object]:
    """Return what a sweep's folder belongs to; seeds may be added, and values, and their trials are run."""
    return {
        "sweep": space.sweep,
        "task": _task(space, options),
        "recipe": options.recipe,
        "steps": options.steps,
        "data": list(options.data),
        "finetuned": list(options.finetuned),
        "validation": list(options.validation),
        "weights": options.weights,
        "option": list(options.option),
        "early_stopping": options.early_stopping,
        "metric": options.metric,
    }


def _trials(space: Space, options: TuneOptions) -> list[Trial]:
    """Return all trials; their data is prepared."""
    from rayvos.engines.options import parse_options
    from rayvos.training.registry import TrainingRequest
    from rayvos.tuning.sweep_data import with_prepared_data
    from rayvos.tuning.trials import Trial

    common = parse_options(options.option, kind="task option")
    trials = []
    for seed in range(options.seeds):
        for setting in space.settings:
            folder = _trial_folder(options, setting, seed)
            request = TrainingRequest(
                recipe=options.recipe,
                data=options.finetuned if setting.finetuned else options.data,
                validation=options.validation,
                weights=options.weights,
                seed=seed,
                steps=options.steps,
                folder=folder,
                options={**common, **setting.options},
            )
            trials.append(
                Trial(
                    folder=folder, task=_task(space, options), request=request, setting=setting, seed=seed,
                    validations=VALIDATIONS,
                )
            )  # fmt: skip
    return with_prepared_data(trials, options.out, common)


def _trial_folder(options: TuneOptions, setting: Setting, seed: int) -> str:
    return storage.join(options.out, "trials", setting.name, f"seed-{seed}")


def _run(trials: list[Trial], options: TuneOptions) -> list[TrialResult]:
    from rayvos.cli.progress import Progress
    from rayvos.pipelines.cluster import connected
    from rayvos.training.registry import plan_training
    from rayvos.tuning.sweeps import SweepSettings, run_sweep

    for trial in trials:
        if trial.seed == 0:  # wrong options and data that cannot be used end here, in words
            plan_training(trial.task, trial.request)
    settings = SweepSettings(
        metric=options.metric,
        early_stopping=options.early_stopping,
        concurrent=options.concurrent,
        cpus=options.cpus,
        gpus=options.gpus,
        loaders=max(1, int(options.cpus)) if options.gpus else 0,
    )
    with (
        connected(options.address, least_cpus=options.cpus),
        Progress("tuning", total=len(trials), unit="trials") as progress,
    ):

        def show(result: TrialResult) -> None:
            progress.advance(note=f"{options.metric} {result.scores.get(options.metric, float('nan')):.3f}")

        return run_sweep(trials, settings, on_result=show)


def _write(outcome: Outcome, options: TuneOptions) -> None:
    from rayvos.engines.registry import ENGINES
    from rayvos.review.sweep_report import write_sweep_report
    from rayvos.training.registry import TrainingRequest
    from rayvos.tuning.outcome import best_setting, write_results

    write_results(outcome, storage.join(options.out, "results.parquet"))
    write_sweep_report(
        outcome, storage.join(options.out, "report.html"), title=f"rayvos tune {outcome.space.sweep}: {options.out}"
    )
    best = best_setting(outcome)
    about, task = f"# {best.setting.name}: {outcome.metric} {best.mean:.3f}", _task(outcome.space, options)
    words = [*options.option, *(f"{name}={value}" for name, value in best.setting.options.items())]
    data = options.finetuned if best.setting.finetuned else options.data
    training: dict[str, object] = {"recipe": options.recipe, "option": words}
    for name, sources in (("data", data), ("validation", options.validation)):
        if sources:
            training[name] = [storage.absolute(source) for source in sources]
    if options.weights is not None:
        training["weights"] = TrainingRequest(weights=options.weights).anchored().weights
    _write_config(storage.join(options.out, "best.yaml"), f"{about}. For `rayvos train {task} --config`.", training)
    trial = max(
        (result for result in outcome.results if dict(result.varied) == dict(best.setting.varied)),
        key=lambda result: result.scores[options.metric],
    )
    weights = storage.join(_trial_folder(options, best.setting, trial.seed), "weights.safetensors")
    if task in ENGINES and storage.exists(weights):
        _write_config(
            storage.join(options.out, "label.yaml"),
            f"{about}, its best seed. For `rayvos label --config`.",
            {"engine": task, "weights": weights},
        )


def _write_config(path: str, about: str, options: dict[str, object]) -> None:
    import yaml

    storage.write_bytes(path, (about + "\n" + yaml.safe_dump(options, sort_keys=False)).encode())


def _show(outcome: Outcome, options: TuneOptions) -> None:
    from rayvos.tuning.outcome import best_setting

    best = best_setting(outcome)
    if options.as_json:
        scores = {score.setting.name: {"mean": score.mean, "values": score.values} for score in outcome.scores}
        print(json.dumps({"metric": outcome.metric, "best": best.setting.name, "settings": scores}))
        return
    for score in outcome.scores:
        told = ", ".join(f"{value:.3f}" for value in score.values)
        mark = "  <- best" if score is best else ""
        print(f"{score.setting.name:28s} {outcome.metric} {score.mean:.3f}  ({told}){mark}")
    print(f"open {storage.join(options.out, 'report.html')}")
