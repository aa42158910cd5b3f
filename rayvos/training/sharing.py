"""Which samples of a step a worker takes, and how the workers' gradients become one.

Step s takes the samples s·B … s·B + B − 1 of the endless row; workers cut them into equal pieces in order of rank, and
each worker cuts its share into the pieces it accumulates. So the samples of a step do not depend on who computes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

from rayvos.errors import RayvosError, UsageError

__all__ = ["FlatGradients", "Share", "raise_anywhere", "share_moving_statistics", "told_by_first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One worker's part of every step."""

    rank: int = 0
    """Number of this worker, from 0."""
    size: int = 1
    """Number of workers."""
    accumulate: int = 1
    """Pieces that a worker computes one after the other for a step: less memory, the same step."""

    @property
    def num_pieces(self) -> int:
        """Pieces of a step, over all workers."""
        return self.size * self.accumulate

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be cut into equal pieces.

        Raises:
            UsageError: it cannot.
        """
        if batch_size % self.num_pieces:
            raise UsageError(
                f"training: a batch of {batch_size} samples cannot be cut into {self.num_pieces} equal pieces "
                f"({self.size} workers, {self.accumulate} accumulated); choose a batch size that is a multiple"
            )

    def pieces(self, step: int, batch_size: int) -> list[range]:
        """Return the sample indices of this worker's pieces of a step, in order."""
        first = self.rank * self.accumulate
        return [self.piece(step, batch_size, number) for number in range(first, first + self.accumulate)]

    def piece(self, step: int, batch_size: int, number: int) -> range:
        """Return the sample indices of one of the `num_pieces` pieces of a step."""
        length = batch_size // self.num_pieces
        start = step * batch_size + number * length
        return range(start, start + length)


class FlatGradients:
    """The gradients of all parameters in one tensor, with room for the losses of the pieces behind them.

    One tensor is one message between workers. A parameter that a step does not use has gradient zero, on one worker
    as on many, so that the number of workers does not decide whether it is changed.
    """

    def __init__(self, parameters: list[nn.Parameter], num_pieces: int) -> None:
        device = parameters[0].device
        num_values = sum(parameter.numel() for parameter in parameters)
        self._flat = torch.zeros(num_values + num_pieces, device=device)
        self._losses = self._flat[num_values:]
        start = 0
        for parameter in parameters:
            parameter.grad = self._flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def clear(self) -> None:
        """Set gradients and losses to zero."""
        self._flat.zero_()

    def note_loss(self, piece: int, loss: Tensor) -> None:
        """Keep the loss of a piece."""
        self._losses[piece] = loss.detach()

    def share(self, size: int) -> Tensor:
        """Add up the gradients of all workers, and return the losses of all pieces, on the CPU."""
        if size > 1:
            torch.distributed.all_reduce(self._flat)
        return self._losses.cpu()


def share_moving_statistics(model: nn.Module, size: int) -> None:
    """Replace the running statistics of batch norms that are being learnt by their mean over the workers."""
    if size == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and module.track_running_stats:
            for statistic in (module.running_mean, module.running_var):
                assert statistic is not None
                torch.distributed.all_reduce(statistic)
                statistic /= size


def raise_anywhere(error: RayvosError | None, size: int) -> None:
    """Raise the error of the first worker that has one, on all workers; every worker has to call it.

    Raises:
        RayvosError: a worker has one.
    """
    if size == 1:
        if error is not None:
            raise error
        return
    errors: list[RayvosError | None] = [None] * size
    torch.distributed.all_gather_object(errors, error)
    for found in errors:
        if found is not None:
            raise found


def told_by_first(flag: bool, share: Share, device: torch.device) -> bool:
    """Return what the first worker says, on all workers; every worker has to call it."""
    if share.size == 1:
        return flag
    told = torch.tensor([float(flag)], device=device)
    torch.distributed.broadcast(told, src=0)
    return bool(told.item())
