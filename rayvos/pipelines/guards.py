"""What keeps one clip from taking a worker's time and memory for ever, and names what killed it.

The time limit is `faulthandler`'s: its watchdog is a C thread that needs no GIL, so that a decoder stuck in native
code is ended, too, and the traceback of every thread is left for the dead letter. The memory limit is the process's
own soft `RLIMIT_DATA` while a clip is in work: an allocation beyond it fails inside that clip (`MemoryError`,
OpenCV's "Insufficient memory") instead of calling the machine's out-of-memory killer on a neighbour.

Why so: a signal handler (`SIGALRM`) waits for the interpreter, which a native call may hold; `RLIMIT_AS` counts the
address space that CUDA, Ray's object store and allocators reserve without using it, and kills innocent workers.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayvos.errors import EngineError, OutOfMemoryError, RayvosError
from rayvos.pipelines.attempts import WorkerNote

__all__ = [
    "die",
    "ends_the_process",
    "error_code",
    "limited_memory",
    "peak_gpu_bytes",
    "peak_rss",
    "time_limit",
    "timeout_of",
    "total_gpu_bytes",
]

SHORTEST_TIMEOUT_S = 600.0
TIMES_PLANNED = 20.0  # planned costs are rough, machines are shared: only what hangs should meet the limit
LEAST_HEADROOM = 256 << 20  # a worker's own needs while a clip is in work: threads' stacks, Arrow's and Ray's buffers

_MEMORY_WORDS = (
    "out of memory",  # torch on a GPU
    "insufficient memory",  # OpenCV
    "can't allocate memory",  # torch on a CPU: DefaultCPUAllocator
    "cannot allocate memory",  # the C library
    "bad_alloc",
)


def timeout_of(cost_s: float, timeout_s: float | None) -> float:
    """Return the time limit of a piece: what the user says, or many times what is planned."""
    return timeout_s if timeout_s is not None else max(SHORTEST_TIMEOUT_S, TIMES_PLANNED * cost_s)


@contextmanager
def time_limit(note: WorkerNote, piece: int | None, timeout_s: float) -> Iterator[None]:
    """End the process if the block takes longer; `note` then says which piece it was, and where it stood."""
    note.begin(piece)
    # A crash in native code leaves its Python traceback in the same note.
    faulthandler.enable(file=note.file)
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=note.file)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        note.begin(None)


@contextmanager
def limited_memory(limit_bytes: int | None) -> Iterator[None]:
    """Let allocations fail inside the block once the process holds about `limit_bytes`; None sets no limit.

    Raises:
        OutOfMemoryError: in place of any error of the block that tells of failed allocations.
    """
    if limit_bytes is None:
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    data, rss = _status_bytes("VmData"), _status_bytes("VmRSS")
    # What is mapped already (stacks of Ray's threads, allocators' arenas) counts as data, touched or not.
    soft = data + max(LEAST_HEADROOM, limit_bytes - rss)
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    try:
        yield
    except Exception as error:
        if error_code(error) == OutOfMemoryError.code:
            found = f"{type(error).__name__}: {error}".rstrip(": ")
            raise OutOfMemoryError(
                f"expected to stay below the {limit_bytes / 2**30:.1f} GiB a worker may use, found {found}; "
                "raise --memory-limit, use fewer --actors, or give smaller frames"
            ) from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status has no {field}")


def peak_rss() -> int:
    """Return the most memory this process has held, in bytes."""
    return _status_bytes("VmHWM")


def peak_gpu_bytes() -> int:
    """Return the most memory this process has reserved on its GPU, in bytes; 0 where it uses none."""
    torch = sys.modules.get("torch")  # loaded by the engine, if it needs it
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.max_memory_reserved())


def total_gpu_bytes() -> int:
    """Return the memory of the GPU this process uses, in bytes; 0 where it uses none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def error_code(error: BaseException) -> str:
    """Return the stable code of whatever a piece raised."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | OutOfMemoryError) or getattr(seen, "errno", None) == errno.ENOMEM:
            return OutOfMemoryError.code
        if not isinstance(seen, RayvosError) and any(word in str(seen).lower() for word in _MEMORY_WORDS):
            return OutOfMemoryError.code
        seen = seen.__cause__ or seen.__context__
    return error.code if isinstance(error, RayvosError) else EngineError.code


def ends_the_process(error: BaseException) -> bool:
    """Tell whether the process is of no more use: an accelerator's context is lost, and with it all later clips."""
    return "CUDA error" in str(error) and error_code(error) != OutOfMemoryError.code


def die(note: WorkerNote, piece: int | None, text: str) -> None:
    """End the process at once; Ray starts another one and gives it the unit again."""
    note.begin(piece)
    note.write(text)
    os._exit(1)
