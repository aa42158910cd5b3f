"""`rayvos train`: networks learn from masks, boxes, points and generated clips, on this machine or a Ray cluster."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rayvos.errors import UsageError

if TYPE_CHECKING:
    from rayvos.training.progress_notes import RunNote
    from rayvos.training.registry import TrainingPlan
    from rayvos.training.runs import RunSettings, TrainingSummary

__all__ = ["TrainOptions", "train"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `rayvos train`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])]
    """Output folder, path or URL. The same command on the same folder goes on where it was."""
    data: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """What to learn from: manifest, run folder, COCO json, or data set folder; may be given several times. None:
    generated clips without end."""
    validation: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """What to validate on, as --data; by default what the task holds back."""
    recipe: str = "default"
    """Name of a recipe of the task: data, augmentation, loss, schedule. Flags win over it."""
    steps: int | None = None
    """Optimiser steps of the whole run; by default the recipe's. Schedules scale with it."""
    batch_size: int | None = None
    """Samples of a step, over all workers; by default the recipe's."""
    learning_rate: float | None = None
    """Base learning rate; by default the recipe's."""
    weights: str | None = None
    """Weights to begin with, path or URL; by default the recipe's, or random ones."""
    seed: int = 0
    """Of initial weights, order of samples and augmentation."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of the task, as key=value; may be given several times. `--KEY VALUE` is the same."""
    workers: int | None = None
    """Workers that share each step; by default one per GPU, or one."""
    loaders: int | None = None
    """Processes per worker that make samples ahead on its machine; by default 1, with a GPU 4."""
    sample_actors: int | None = None
    """In place of them: Ray actors per worker, of one CPU each, on any machine of the cluster. By default none, but 4
    per GPU where GPUs' machines have fewer than 5 CPUs per GPU and other machines have some. Enough are there when
    little of the time, as it is shown, is spent waiting for samples."""
    accumulate: int = 1
    """Pieces of its share that a worker computes one after the other: less memory, the same step."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network; `auto` is bfloat16 on GPUs that have it, else float32."""
    device: Annotated[Literal["auto", "cuda", "cpu"], Parameter(name=["--device", "-d"])] = "auto"
    """Where networks run; `auto` takes the cluster's GPUs if it has some."""
    address: str = ""
    """Ray cluster: `auto`, an address, or `local` for one inside this process; default: RAY_ADDRESS, else `local`."""
    in_process: Annotated[bool, Parameter(negative="")] = False
    """Train in this process, without Ray: one worker, and no restart if it dies."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; by default a fortieth of the run, at most 500."""
    validate_every: int | None = None
    """Steps between validations; by default a twentieth of the run."""
    max_seconds: float | None = None
    """Stop with a checkpoint after so long; the same command goes on."""
    max_failures: int = 8
    """Deaths of workers after which the run gives up."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Discard the training run that is in the output folder and start anew."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print one JSON object."""


def train(task: str, options: TrainOptions, **own: str) -> int:
    """Train a network on this machine or on a Ray cluster.

    The same command goes on after it was stopped or killed, to the weights of a run that never was; on a CPU bit for
    bit. OUT/weights.safetensors is what `rayvos label --weights` takes, OUT/metrics.parquet and OUT/tensorboard hold
    the numbers.

    For example:

        rayvos train box2seg --steps 2000 -o out

        rayvos train box2seg --data annotations.json --workers 2 -o out

        rayvos train stcn --data RUN --loss huberised --weights stcn.pth --steps 38000 -o s3://bucket/stcn

        rayvos train box2seg --data clips.parquet --weights out/weights.safetensors --learning-rate 1e-5 -o tuned

    Args:
        task: What is learnt: `box2seg`, `guided`, `propagation`, `sta`, `stcn`, `point-stcn`, or your own
            `package.module:function`.
        options: the rest; documented by their own fields.
        own: Options of the task, as --KEY VALUE.
    """
    from rayvos.cli.progress import Progress
    from rayvos.training.runs import discard_run

    settings = _settings(options)
    if options.overwrite:
        discard_run(options.out)
    plan = _plan(task, options, own)
    with Progress("training", total=plan.optimisation.steps, unit="steps") as progress:

        def show(note: RunNote) -> None:
            progress.advance(note.step - progress.count, note=_note(note))

        summary = _train(plan, settings, options, show)
    _show_summary(summary, as_json=options.as_json)
    return 0


def _plan(task: str, options: TrainOptions, own: dict[str, str]) -> TrainingPlan:
    from rayvos.engines.options import parse_options
    from rayvos.training.registry import TrainingRequest, plan_training

    task_options = parse_options(options.option, kind="task option")
    for key, value in own.items():
        name = key.replace("-", "_")
        if name in task_options:
            raise UsageError(f"task option {name!r} is there twice")
        task_options[name] = value
    request = TrainingRequest(
        recipe=options.recipe,
        data=options.data,
        validation=options.validation,
        weights=options.weights,
        seed=options.seed,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        folder=options.out,
        options=task_options,
    )
    return plan_training(task, request)


def _settings(options: TrainOptions) -> RunSettings:
    from rayvos.training.runs import RunSettings

    return RunSettings(
        out=options.out,
        device=options.device,
        precision=options.precision,
        accumulate=options.accumulate,
        processes=options.loaders,
        checkpoint_every=options.checkpoint_every,
        validate_every=options.validate_every,
        max_seconds=options.max_seconds,
    )


def _train(
    plan: TrainingPlan, settings: RunSettings, options: TrainOptions, show: Callable[[RunNote], None]
) -> TrainingSummary:
    from rayvos.training.runs import train_run

    if options.in_process:
        if options.workers not in (None, 1):
            raise UsageError(f"--workers {options.workers}: --in-process has one worker; leave one of them out")
        if options.sample_actors:
            raise UsageError("--sample-actors: --in-process is without Ray; use --loaders, or leave one of them out")
        return train_run(plan, settings, watch=show)
    from rayvos.pipelines.cluster import connected, read_nodes
    from rayvos.training.loops import train_on_ray
    from rayvos.training.worker_group import plan_workers

    with connected(options.address, least_cpus=(options.workers or 1) * (1 + (options.sample_actors or 0))):
        group = plan_workers(
            read_nodes(),
            workers=options.workers,
            device=options.device,
            processes=settings.processes,
            sample_actors=options.sample_actors,
        )
        return train_on_ray(plan, settings, group, max_failures=options.max_failures, watch=show)


def _note(note: RunNote) -> str:
    validation = "".join(f", {name} {value:.3f}" for name, value in list(note.validation.items())[:1])
    return (
        f"loss {note.loss:.4f}, {note.samples_per_second:.1f} samples/s, "
        f"{note.waiting_share:.0%} waiting for samples{validation}"
    )


def _show_summary(summary: TrainingSummary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**dataclasses.asdict(summary), "done": summary.done}))
        return
    state = "" if summary.done else "; the same command goes on"
    print(f"{summary.out}: {summary.step} of {summary.steps} steps{state}")
    if summary.step > summary.resumed_at:
        print(
            f"  trained now   steps {summary.resumed_at + 1} to {summary.step} in {summary.seconds:.1f} s: "
            f"{summary.samples_per_second:.1f} samples/s, {summary.waiting_share:.0%} of the time waiting for samples"
        )
    else:
        print("  trained now   nothing: all was done before")
    if summary.best:
        found = ", ".join(f"{name} {value:.4f}" for name, value in summary.best.items() if name != "step")
        print(f"  best          {found} at step {summary.best['step']:.0f}")
    if summary.weights is not None:
        print(f"  weights       {summary.weights}")
