"""What a training run needs to know: a task draws samples, states the loss, and says how good a network is.

Loops know nothing of networks and tasks know nothing of processes: the same task is trained in a notebook, by two
workers on a laptop's CPU, or by many GPUs, and gives the same curve, because a sample is a pure function of its number
and step s takes the samples s·B … s·B + B − 1 of the endless row, however many workers share them. That is also what
makes a resumed run exact: the number of finished steps is the whole state of the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from rayvos.errors import UsageError

__all__ = ["Batch", "LossResult", "Optimisation", "Recipe", "TrainingTask"]


class Batch(Protocol):
    """Samples put together as tensors; usually a frozen dataclass."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device."""
        ...


@dataclass(frozen=True, slots=True)
class LossResult:
    """What one step says."""

    loss: Tensor
    """Scalar, the mean over the samples of the batch: so workers' mean gradients are those of the whole batch."""
    stats: Mapping[str, float] = field(default_factory=dict)
    """For people: terms of the loss, shares, mean IoU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How weights are changed; all of it is part of a run's identity."""

    steps: int
    """Optimiser steps of the whole run."""
    batch_size: int
    """Samples of a step, over all workers and accumulated pieces."""
    learning_rate: float
    """Base rate, before the schedule and a parameter group's own factor."""
    optimiser: Literal["adam", "adamw"] = "adamw"
    """Adam, or Adam with decoupled weight decay."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: Literal["constant", "cosine", "multistep"] = "cosine"
    """How the rate falls: not at all, to zero along a half cosine, or by `decay_factor` at `decay_at`."""
    decay_at: tuple[float, ...] = ()
    """Fractions of `steps` at which a multistep schedule falls."""
    decay_factor: float = 0.1
    """By how much it falls."""
    warmup_steps: int = 0
    """Steps over which the rate rises from zero."""
    ema_decay: float = 0.0
    """Decay of the running mean of the weights, which is what is validated and exported; 0: the weights themselves."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient; None: not clipped."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise UsageError(f"training: steps {self.steps} and batch_size {self.batch_size}: expected numbers from 1")
        if not self.learning_rate > 0:
            raise UsageError(f"training: learning_rate {self.learning_rate}: expected a number above 0")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"training: ema_decay {self.ema_decay}: expected a number from 0 to below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Options of a task and the optimisation that belong together, by a name that people know."""

    options: Mapping[str, Any]
    """What differs from the task's defaults."""
    optimisation: Optimisation


class TrainingTask(Protocol):
    """What is learnt from what. Picklable and small: every worker gets its own; data is opened on first use."""

    @property
    def architecture(self) -> str:
        """Name of the network in `rayvos.models.registry`."""
        ...

    def options(self) -> Mapping[str, Any]:
        """Return all that the learnt weights depend on besides `Optimisation`, as plain JSON values."""
        ...

    def model_config(self) -> Mapping[str, Any]:
        """Return the model configuration, as a weights file stores it (`models.registry.build_model` takes it)."""
        ...

    def build(self) -> nn.Module:
        """Return the network with its initial weights, the same on every call: drawn from the seed, or loaded."""
        ...

    def parameter_groups(self, model: nn.Module) -> Sequence[Mapping[str, Any]]:
        """Return groups for the optimiser, without frozen parameters: `params`, and `lr_factor` where it is not 1."""
        ...

    def sample(self, index: int) -> Any:
        """Return a sample in NumPy arrays: a pure function of the task and the index, called in loader processes.

        Raises:
            InputError: the data cannot give this sample; names the clip.
        """
        ...

    def collate(self, samples: Sequence[Any]) -> Batch:
        """Put samples together."""
        ...

    def loss(self, model: nn.Module, batch: Any, step: int) -> LossResult:
        """Return the loss of a batch; `step` counts finished optimiser steps, for schedules inside losses."""
        ...

    def validate(self, model: nn.Module) -> Mapping[str, float]:
        """Return how good the network is on data that is not trained on; the same on every call.

        The first number decides which weights are the best ones; larger is better. Empty: nothing is held back.
        """
        ...
