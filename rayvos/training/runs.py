"""A training run in its folder: begun, gone on with, logged, validated and exported, by one worker or by many.

    OUT/run.json                      what is trained: a folder belongs to one configuration
    OUT/data/                         manifests of data that had to be imported
    OUT/checkpoints/step-….safetensors  the whole state; the newest two
    OUT/metrics.parquet, tensorboard/ the numbers
    OUT/weights.safetensors           the best weights by the task's validation, without one the last
    OUT/last.safetensors              the weights at the end, once the run is done

Only the first worker writes. Whoever is killed loses at most the steps since the last checkpoint, and the same command
goes on from there to the same end: validation falls on the same steps, and the table drops what a checkpoint does not
know. Why our own checkpoints and not Ray's: a checkpoint that a worker reported just before it died is lost there, and
this loop also runs without Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from rayvos import storage
from rayvos.errors import FormatError, RayvosError, UsageError
from rayvos.training.loading import BatchLoader, PieceSource
from rayvos.training.metrics_log import MetricsLog
from rayvos.training.progress_notes import RunNote
from rayvos.training.registry import TrainingPlan
from rayvos.training.sharing import Share, raise_anywhere, told_by_first
from rayvos.training.state import check_identity, load_state_file, newest_checkpoint, save_checkpoint
from rayvos.training.steps import Precision, StepReport, Trainer, run_identity

__all__ = [
    "LOADERS_BESIDE_GPU",
    "RunSettings",
    "TrainingSummary",
    "claim_folder",
    "discard_run",
    "num_loaders",
    "train_run",
]

OWN_NAMES = (
    "run.json", "data", "checkpoints", "metrics.parquet", "tensorboard", "weights.safetensors", "last.safetensors",
)  # fmt: skip
CHECKPOINTS_PER_RUN, VALIDATIONS_PER_RUN, ROWS_PER_RUN = 40, 20, 2000  # defaults: a share of the run between two
LOADERS_BESIDE_GPU = 4  # processes that make samples; a GPU is faster than one core that decodes for it
MOST_STEPS_LOST = 500  # between checkpoints of long runs


def num_loaders(processes: int | None, *, beside_gpu: bool) -> int:
    """Return how many processes make samples for a worker; `processes` as in `RunSettings`."""
    if processes is not None:
        return processes
    return LOADERS_BESIDE_GPU if beside_gpu else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a run is carried out; none of it changes the weights beyond rounding."""

    out: str
    """Folder of the run, path or URL."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:INDEX`."""
    precision: Precision = "auto"
    """Arithmetic of the network; the one setting that is part of a run's identity."""
    accumulate: int = 1
    """Pieces that each worker computes one after the other for a step: less memory."""
    processes: int | None = None
    """Processes per worker that make samples ahead; 0: none; None: one, beside a GPU four."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; None: a fortieth of the run, at most 500."""
    validate_every: int | None = None
    """Steps between validations; None: a twentieth of the run."""
    max_seconds: float | None = None
    """Stop with a checkpoint after so long; the same command goes on. None: at the end of the run."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "validate_every", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected a number from 1, found {value}")
        if self.processes is not None and self.processes < 0:
            raise UsageError(f"processes: expected a number from 0, found {self.processes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """What became of a run."""

    out: str
    step: int
    steps: int
    resumed_at: int
    """Finished steps when this start began."""
    loss: float | None
    """Of the last step; None where this start did none."""
    validation: dict[str, float]
    """The latest of this start; empty where there was none."""
    best: dict[str, float]
    """The best, with its step; empty without validation."""
    seconds: float
    """Of this start, from its first step to its end."""
    waiting_share: float
    """Of these seconds, spent waiting for samples."""
    samples_per_second: float
    weights: str | None
    """Path of the exported weights; None before there are some."""

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.steps


def claim_folder(plan: TrainingPlan, settings: RunSettings) -> None:
    """Make a folder the folder of this run.

    Raises:
        UsageError: it holds a run of another configuration; the message shows the difference.
        FormatError: its `run.json` is damaged.
        StorageError: it cannot be written.
    """
    path = storage.join(settings.out, "run.json")
    about = {"kind": "training", "identity": run_identity(plan.task, plan.optimisation, settings.precision)}
    if storage.create_if_absent(path, json.dumps(about, indent=1, sort_keys=True).encode()):
        return
    try:
        found = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise FormatError(f"{path}: expected JSON ({error}); discard the run with --overwrite") from error
    if not isinstance(found, dict) or found.get("kind") != "training":
        raise UsageError(f"{settings.out}: holds a run that is no training run; choose another output folder")
    check_identity(found.get("identity", {}), about["identity"], where=settings.out)  # type: ignore[arg-type]


def discard_run(out: str) -> None:
    """Remove a training run from its folder, and nothing else that lies there.

    Raises:
        StorageError: it could not be removed.
    """
    for name in OWN_NAMES:
        storage.remove(storage.join(out, name))


def train_run(
    plan: TrainingPlan,
    settings: RunSettings,
    *,
    share: Share | None = None,
    source: PieceSource | None = None,
    watch: Callable[[RunNote], None] | None = None,
) -> TrainingSummary:
    """Train to the end, from where the folder stands; all workers call it, each with its share.

    Args:
        plan: what is trained, and how.
        settings: how it is carried out.
        share: this worker's part; several workers need `torch.distributed` to be initialised.
        source: makes the samples in place of processes.
        watch: called after every step on the first worker.

    Raises:
        RayvosError: an option, the data, the weights or a checkpoint cannot be used, before the first step; or the
            loss is not finite. The same error on all workers.
    """
    share = replace(share or Share(), accumulate=settings.accumulate)
    run: _Run | None = None
    try:
        run = _Run(plan, settings, share, source, watch)
    except RayvosError as error:
        raise_anywhere(error, share.size)
    raise_anywhere(None, share.size)
    assert run is not None
    try:
        return run.train()
    finally:
        run.close()


class _Run:
    """One start of one worker."""

    def __init__(
        self,
        plan: TrainingPlan,
        settings: RunSettings,
        share: Share,
        source: PieceSource | None,
        watch: Callable[[RunNote], None] | None,
    ) -> None:
        self.settings, self.share, self.watch = settings, share, watch
        self.first = share.rank == 0
        claim_folder(plan, settings)
        self.trainer = Trainer(
            plan.task, plan.optimisation, share=share, device=settings.device, precision=settings.precision
        )
        self.checkpoints = storage.join(settings.out, "checkpoints")
        newest = newest_checkpoint(self.checkpoints)
        if newest is not None:
            self.trainer.restore(load_state_file(newest), where=newest)
        self.resumed_at = self.trainer.step
        self.steps = plan.optimisation.steps
        processes = num_loaders(settings.processes, beside_gpu=self.trainer.device.type == "cuda")
        self.loader = BatchLoader(
            plan.task, plan.optimisation, share, first_step=self.trainer.step, processes=processes, source=source
        )
        self.log = MetricsLog(settings.out, step=self.trainer.step) if self.first else None
        self.validation: dict[str, float] = {}
        self.loss: float | None = None
        self.started = time.monotonic()

    def train(self) -> TrainingSummary:
        """Do the steps that are left."""
        checkpoint_every = self.settings.checkpoint_every or min(
            MOST_STEPS_LOST, max(1, self.steps // CHECKPOINTS_PER_RUN)
        )
        validate_every = self.settings.validate_every or max(1, self.steps // VALIDATIONS_PER_RUN)
        log_every = max(1, self.steps // ROWS_PER_RUN)
        trainer, stopping = self.trainer, False
        while trainer.step < self.steps and not stopping:
            report = self._advance()
            done = trainer.step == self.steps
            if trainer.step % log_every == 0 or done or trainer.step == 1:
                self._log_step(report)
            if trainer.step % validate_every == 0 or done:
                self._validate()
            stopping = self._time_is_up()
            if trainer.step % checkpoint_every == 0 or done or stopping:
                self._save()
            if self.watch is not None and self.first:
                self.watch(self._note(report.loss))
        if self.first and trainer.step == self.steps:
            self._export_last()
        return self._summary()

    def _advance(self) -> StepReport:
        try:
            batches = self.loader.next_step()
        except RayvosError as error:
            self.trainer.advance(error)
            raise AssertionError("the error is raised on all workers") from error
        report = self.trainer.advance(batches)
        self.loss = report.loss
        return report

    def _log_step(self, report: StepReport) -> None:
        if self.log is not None:
            values = {"loss": report.loss, "learning_rate": report.learning_rate, "gradient_norm": report.gradient_norm}
            self.log.add(report.step, "train", {**values, "waiting_share": self._waiting_share(), **report.stats})

    def _validate(self) -> None:
        """Validate on the first worker; the others go on and wait for it in their next step."""
        if self.log is None:
            return
        self.validation = self.trainer.validate()
        if not self.validation:
            return
        self.log.add(self.trainer.step, "validation", self.validation)
        deciding = next(iter(self.validation))
        best = self.trainer.best
        if not best or self.validation[deciding] > best[deciding]:
            self.trainer.best = {**self.validation, "step": float(self.trainer.step)}
            self.trainer.export(self._weights_path(), metrics=self.validation)

    def _save(self) -> None:
        if self.log is not None:
            self.log.save()
            save_checkpoint(self.checkpoints, self.trainer.state())

    def _export_last(self) -> None:
        """Write the weights at the end, unless an earlier start did."""
        path = storage.join(self.settings.out, "last.safetensors")
        if self.resumed_at == self.steps and storage.exists(path):
            return
        self.validation = self.validation or self.trainer.validate()
        self.trainer.export(path, metrics=self.validation)
        if not self.trainer.best:
            self.trainer.export(self._weights_path())

    def _time_is_up(self) -> bool:
        if self.settings.max_seconds is None:
            return False
        up = time.monotonic() - self.started > self.settings.max_seconds
        return told_by_first(up, self.share, self.trainer.device)

    def _weights_path(self) -> str:
        return storage.join(self.settings.out, "weights.safetensors")

    def _seconds(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def _waiting_share(self) -> float:
        return min(1.0, self.loader.waiting_s / self._seconds())

    def _samples_per_second(self) -> float:
        return (self.trainer.step - self.resumed_at) * self.trainer.optimisation.batch_size / self._seconds()

    def _note(self, loss: float) -> RunNote:
        return RunNote(
            step=self.trainer.step,
            steps=self.steps,
            loss=loss,
            waiting_share=self._waiting_share(),
            samples_per_second=self._samples_per_second(),
            validation=self.validation,
        )

    def _summary(self) -> TrainingSummary:
        return TrainingSummary(
            out=self.settings.out,
            step=self.trainer.step,
            steps=self.steps,
            resumed_at=self.resumed_at,
            loss=self.loss,
            validation=self.validation,
            best=self.trainer.best,
            seconds=self._seconds(),
            waiting_share=self._waiting_share(),
            samples_per_second=self._samples_per_second(),
            weights=self._weights_path() if self.first and storage.exists(self._weights_path()) else None,
        )

    def close(self) -> None:
        """Let go of processes and files."""
        self.loader.close()
        if self.log is not None:
            self.log.close()
