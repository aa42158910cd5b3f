"""How weights are changed: the optimiser, the learning rate of each step, and the running mean of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayvos.errors import UsageError
from rayvos.training.task import Optimisation

__all__ = ["average_into", "build_optimiser", "freeze_batch_norms", "learning_rate_factor"]


def learning_rate_factor(optimisation: Optimisation, step: int) -> float:
    """Return what the base rate is multiplied by for the step after `step` finished ones."""
    if step < optimisation.warmup_steps:
        return (step + 1) / (optimisation.warmup_steps + 1)
    progress = step / optimisation.steps
    if optimisation.schedule == "constant":
        return 1.0
    if optimisation.schedule == "multistep":
        return optimisation.decay_factor ** sum(progress >= at for at in optimisation.decay_at)
    warm = optimisation.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, optimisation.steps - warm)))


def build_optimiser(groups: Sequence[Mapping[str, Any]], optimisation: Optimisation) -> torch.optim.Optimizer:
    """Return the optimiser; each group keeps its `lr_factor`.

    Args:
        groups: `params`, and `lr_factor` where it is not 1.
        optimisation: which optimiser, and its weight decay.

    Raises:
        UsageError: there is nothing to learn.
    """
    full = [{"lr_factor": 1.0, **group, "params": list(group["params"])} for group in groups]
    if not any(group["params"] for group in full):
        raise UsageError("training: the task gives no parameters to learn; unfreeze some")
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kind = kinds[optimisation.optimiser]
    return kind(full, lr=optimisation.learning_rate, weight_decay=optimisation.weight_decay)


def average_into(average: Mapping[str, Tensor], model: nn.Module, *, decay: float, step: int) -> None:
    """Move a running mean of a network's tensors towards their present values, in place.

    The decay grows with the number of steps, up to `decay`: early weights, of which a young mean consists, count
    less. Tensors that are no floating numbers are copied.

    Args:
        average: by the names of `state_dict`.
        model: the network.
        decay: for long runs.
        step: finished steps, this one included.
    """
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
            else:
                average[name].copy_(value)


def freeze_batch_norms(model: nn.Module) -> None:
    """Keep the statistics of batch norms as they are; their gains and offsets are still learnt.

    Call it in a task's `loss`: the loop puts the network into training mode before each step.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
