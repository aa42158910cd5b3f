"""The steps of a training run, without Ray: a network, its optimiser, and what they remember.

    trainer = Trainer(task, optimisation)
    with BatchLoader(task, optimisation, trainer.share, first_step=trainer.step, processes=2) as loader:
        while trainer.step < optimisation.steps:
            report = trainer.advance(loader.next_step())

Restored from a checkpoint, a run ends with the weights of one that was never interrupted: bit for bit on a CPU with
the same number of threads and workers. Random numbers inside a loss (dropout) are drawn from the step's number, the
loss of half-precision networks is computed in float32, and a loss that is not finite stops the run by name.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rayvos.engines.devices import find_device
from rayvos.errors import RayvosError, RunError, WeightsError, choose
from rayvos.models.weights import save_weights
from rayvos.training.optimising import average_into, build_optimiser, learning_rate_factor
from rayvos.training.sharing import FlatGradients, Share, raise_anywhere, share_moving_statistics
from rayvos.training.state import TrainingState, check_identity
from rayvos.training.task import Batch, Optimisation, TrainingTask

__all__ = ["Precision", "StepReport", "Trainer", "run_identity"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step did."""

    step: int
    """Finished steps, this one included."""
    loss: float
    """Mean over the samples of the step, of all workers."""
    learning_rate: float
    """Base rate of this step."""
    gradient_norm: float
    """Norm of the whole gradient, before it was clipped."""
    stats: Mapping[str, float]
    """What the task says of this worker's samples; means over its pieces."""


def run_identity(task: TrainingTask, optimisation: Optimisation, precision: Precision = "auto") -> dict[str, Any]:
    """Return all that the weights of a run depend on, as plain JSON values.

    The device and the number of workers are left out: they change weights by rounding only, and a run may go on
    where there are more or fewer.
    """
    return {
        "architecture": task.architecture,
        "model": dict(task.model_config()),
        "task": dict(task.options()),
        "optimisation": asdict(optimisation),
        "precision": precision,
    }


class Trainer:
    """A network on its way from the initial to the learnt weights.

    Args:
        task: what is learnt from what.
        optimisation: how weights are changed.
        share: this worker's part; several workers need `torch.distributed` to be initialised.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.
        precision: of the network's arithmetic; `auto` is bfloat16 on a GPU that has it, else float32. Losses, weights
            and the optimiser stay in float32.

    Raises:
        UsageError: the batch cannot be cut into the pieces, nothing is to be learnt, or the device is not here.
        WeightsError: the initial weights are missing, damaged or of another network.
    """

    def __init__(
        self,
        task: TrainingTask,
        optimisation: Optimisation,
        *,
        share: Share | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        self.task, self.optimisation = task, optimisation
        self.share = share or Share()
        self.share.check(optimisation.batch_size)
        self.device = find_device(device)
        self.identity = run_identity(task, optimisation, precision)
        self.step = 0
        self.best: dict[str, float] = {}
        """The best validation so far, with its `step`; kept in the state."""
        self._seed = hashlib.sha256(repr(sorted(self.identity["task"].items())).encode()).digest()
        self._half = _half_precision(precision, self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)
        with self._own_randomness(0, 0):
            self.model = task.build().to(self.device)
        self._optimiser = build_optimiser(task.parameter_groups(self.model), optimisation)
        learnt = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
        self._gradients = FlatGradients(learnt, self.share.num_pieces)
        self._learnt = learnt
        self._average: dict[str, Tensor] | None = None
        if optimisation.ema_decay:
            self._average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def advance(self, batches: Sequence[Batch] | RayvosError) -> StepReport:
        """Do one step.

        Args:
            batches: this worker's pieces, as `BatchLoader.next_step` gives them, or the error it raised: so that the
                other workers, which wait for this one, learn of it.

        Raises:
            RunError: the loss or its gradient is not a finite number; names the step and the samples.
            RayvosError: what a worker could not read or compute; the same on all workers.
        """
        assert self.step < self.optimisation.steps, "the run is done"
        self.model.train()
        self._gradients.clear()
        stats: list[Mapping[str, float]] = []
        error = batches if isinstance(batches, RayvosError) else None
        if not isinstance(batches, RayvosError):
            assert len(batches) == self.share.accumulate
            try:
                stats = [self._accumulate(number, batch) for number, batch in enumerate(batches)]
            except RayvosError as found:
                error = found
        if error is not None:
            self._gradients.note_loss(self.share.rank * self.share.accumulate, torch.tensor(math.nan))
        losses = self._gradients.share(self.share.size)
        share_moving_statistics(self.model, self.share.size)
        if not losses.isfinite().all():
            raise_anywhere(error, self.share.size)
            raise self._not_finite(losses)
        rate = self.optimisation.learning_rate * learning_rate_factor(self.optimisation, self.step)
        norm = self._change_weights(rate)
        self.step += 1
        if self._average is not None:
            average_into(self._average, self.model, decay=self.optimisation.ema_decay, step=self.step)
        means = {name: sum(entry[name] for entry in stats) / len(stats) for name in stats[0]}
        loss = float(losses.double().mean())
        return StepReport(step=self.step, loss=loss, learning_rate=rate, gradient_norm=norm, stats=means)

    def _accumulate(self, number: int, batch: Batch) -> Mapping[str, float]:
        """Add the gradient of one of this worker's pieces."""
        piece = self.share.rank * self.share.accumulate + number
        with self._own_randomness(self.step, piece):
            with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
                result = self.task.loss(self.model, batch.to(self.device), self.step)
            loss = result.loss.float()
            self._gradients.note_loss(piece, loss)
            if loss.requires_grad:
                self._scaler.scale(loss / self.share.num_pieces).backward()  # type: ignore[no-untyped-call]
        return result.stats

    def _not_finite(self, losses: Tensor) -> RunError:
        wrong = (~losses.isfinite()).nonzero().flatten().tolist()
        samples = [self.share.piece(self.step, self.optimisation.batch_size, number) for number in wrong]
        named = ", ".join(f"{piece.start}–{piece.stop - 1}" for piece in samples)
        return RunError(
            f"training: step {self.step + 1}: the loss of samples {named} is {losses[wrong[0]].item()}; "
            "lower the learning rate, warm up longer, or look at these samples"
        )

    def _change_weights(self, rate: float) -> float:
        """Let the optimiser take the gradient; return its norm.

        Raises:
            RunError: the gradient is not finite (float16 passes over such a step and scales the loss down).
        """
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["lr_factor"]
        self._scaler.unscale_(self._optimiser)
        largest = self.optimisation.clip_norm or float("inf")
        norm = float(nn.utils.clip_grad_norm_(self._learnt, largest))
        if not math.isfinite(norm) and not self._scaler.is_enabled():
            raise RunError(
                f"training: step {self.step + 1}: the loss is finite, its gradient is not ({norm}); "
                "lower the learning rate, or look at the samples of this step"
            )
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return norm

    def weights(self) -> dict[str, Tensor]:
        """Return what is validated and exported: the running mean of the weights, or the weights themselves."""
        return dict(self.model.state_dict() if self._average is None else self._average)

    def validate(self) -> dict[str, float]:
        """Return how good the exported weights are on data that is not trained on."""
        model = self.model
        if self._average is not None:
            model = copy.deepcopy(self.model)
            model.load_state_dict(self._average)
        was_training = model.training
        with self._own_randomness(0, 0), torch.no_grad():
            found = dict(self.task.validate(model.eval()))
        model.train(was_training)
        return found

    def export(self, path: str, *, metrics: Mapping[str, float] | None = None, licence: str = "") -> str:
        """Write the weights as safetensors with all that they depend on; return their digest.

        Raises:
            StorageError: the file could not be written.
        """
        return save_weights(
            path,
            self.weights(),
            architecture=self.task.architecture,
            model=self.task.model_config(),
            training={**self.identity, "step": self.step},
            metrics=metrics,
            licence=licence,
        )

    def state(self) -> TrainingState:
        """Return all there is to go on from; tensors are those in use, not copies."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        if self._average is not None:
            tensors |= {f"average/{name}": value for name, value in self._average.items()}
        for index, entry in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": value for name, value in entry.items()}
        scaler = {name: float(value) for name, value in self._scaler.state_dict().items()}
        return TrainingState(step=self.step, identity=self.identity, tensors=tensors, scaler=scaler, best=self.best)

    def restore(self, state: TrainingState, *, where: str = "checkpoint") -> None:
        """Go on from a state.

        Raises:
            UsageError: it is of a run with another configuration; the message shows the difference.
            WeightsError: it does not hold this network's tensors.
        """
        check_identity(state.identity, self.identity, where=where)
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
        for name, value in state.tensors.items():
            kind, _, inner = name.partition("/")
            groups[kind][inner] = value
        try:
            self.model.load_state_dict(groups["model"])
            for name, value in (self._average or {}).items():
                value.copy_(groups["average"][name])
            self._restore_optimiser(groups["optimiser"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise WeightsError(
                f"{where}: it does not hold the tensors of this run ({error}); discard the run with --overwrite"
            ) from error
        if state.scaler:
            self._scaler.load_state_dict(_typed_scaler(state.scaler))
        self.step, self.best = state.step, dict(state.best)

    def _restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition("/")
            entries.setdefault(int(index), {})[key] = value
        self._optimiser.load_state_dict(
            {"state": entries, "param_groups": self._optimiser.state_dict()["param_groups"]}
        )

    @contextmanager
    def _own_randomness(self, step: int, piece: int) -> Iterator[None]:
        """Draw torch's random numbers inside the block from the step and the piece, and leave the caller's alone."""
        seed = hashlib.sha256(self._seed + f"{step}/{piece}".encode()).digest()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int.from_bytes(seed[:8], "little"))
            yield


def _half_precision(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return the dtype that autocast uses; None for float32."""
    choose("precision", precision, ("auto", "float32", "bfloat16", "float16"))
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return None if precision == "float32" else getattr(torch, precision)


def _typed_scaler(numbers: Mapping[str, float]) -> dict[str, float]:
    whole = {"growth_interval", "_growth_tracker"}
    return {name: int(value) if name in whole else value for name, value in numbers.items()}
