"""Where an engine computes, and on how many threads, so that labels depend on neither.

A convolution that is split over threads sums in another order, and labels would depend on the number of cores: on a
CPU every computation has one thread, and threads take different computations.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import torch

from rayvos.errors import UsageError

__all__ = ["find_device", "single_threads"]


def find_device(name: str, *, check: bool = True) -> torch.device:
    """Return the device a name means on this machine.

    Args:
        name: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.
        check: refuse a GPU that is not here; off where a job is planned for other machines.

    Raises:
        UsageError: a GPU is asked for and torch finds none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if check and name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {name!r}: torch finds no GPU on this machine; use cpu or auto")
    return torch.device(name)


@contextmanager
def single_threads(
    device: torch.device, name: str, *, most: int | None = None
) -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Give threads for work, as many as torch may use here, each computing alone; none is left behind.

    Args:
        device: on a GPU, threads keep torch's setting: they only prepare.
        name: of the threads, as tracebacks show it.
        most: threads at most; None: as many as torch may use.

    Yields:
        the threads, and how many there are.
    """
    num_threads = torch.get_num_threads()
    alone = partial(torch.set_num_threads, 1) if device.type == "cpu" else None
    num_workers = min(num_threads, most or num_threads)
    pool = ThreadPoolExecutor(num_workers, name, initializer=alone)
    try:
        yield pool, num_workers
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # The workers' setting is theirs alone in OpenMP, but the default of threads that are still to come.
        torch.set_num_threads(num_threads)
