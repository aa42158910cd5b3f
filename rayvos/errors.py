"""Every exception rayvos raises on purpose, each with a stable code.

    RayvosError                 failed
    ├── UsageError              usage               wrong option, unknown name; exit code 2
    ├── InputError              bad_input           what a person or a file gave cannot be used
    │   ├── FormatError         bad_format          a file does not follow its format
    │   │   └── SchemaError     bad_schema          a rayvos table of another or newer schema
    │   ├── DecodeError         decode_failed       a picture or video cannot be decoded
    │   ├── FrameMissingError   frame_missing       a frame the manifest names does not exist
    │   ├── FrameSizeError      frame_size          a frame has another size than the manifest says
    │   ├── ImageTooLargeError  image_too_large     more pixels than the limit allows
    │   ├── BoxError            bad_box             a box is inverted, not finite, empty or outside
    │   ├── IdError             bad_id              a clip or object id that cannot be used, or is there twice
    │   └── ShapeError          bad_shape           an array has another shape, dtype or range
    ├── WeightsError            bad_weights         weights are missing, of another network, or damaged
    ├── StorageError            storage_failed      reading or writing storage failed for good
    │   ├── MissingPathError    path_missing        a path or URL leads to nothing
    │   └── PermissionDeniedError  permission_denied a path or URL may not be read or written
    ├── EngineError             engine_failed       an engine could not label a clip
    │   ├── OutOfMemoryError    out_of_memory       a clip needs more memory than a worker may use
    │   ├── TimeoutExceededError  timeout           a clip took longer than the time limit
    │   └── WorkerCrashedError  worker_crashed      a clip's worker died each time it was tried
    └── RunError                run_failed          a run stopped itself: too much of it fails, or it cannot go on

Codes are shared with the dead-letter table and the documentation and never change. A message has the form
*where: what was expected, what was found; what to do*.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from rayvos.redaction import without_secrets

__all__ = [
    "BoxError",
    "DecodeError",
    "EngineError",
    "FileTooLargeError",
    "FormatError",
    "FrameMissingError",
    "FrameSizeError",
    "IdError",
    "ImageTooLargeError",
    "InputError",
    "MissingPathError",
    "OutOfMemoryError",
    "PermissionDeniedError",
    "RayvosError",
    "RunError",
    "SchemaError",
    "ShapeError",
    "StorageError",
    "TimeoutExceededError",
    "UsageError",
    "WeightsError",
    "WorkerCrashedError",
    "choose",
]


class RayvosError(Exception):
    """Base of all errors rayvos raises on purpose; survives pickling, since its only argument is its message.

    The message loses its secrets at once: it may end in a log, a dead letter or `run.json`.
    """

    code: ClassVar[str] = "failed"

    def __init__(self, *message: str) -> None:
        super().__init__(*map(without_secrets, message))


class UsageError(RayvosError):
    """A wrong option or an unknown name; the command line exits with 2."""

    code = "usage"


class InputError(RayvosError):
    """What a person or a file gave cannot be used."""

    code = "bad_input"


class FormatError(InputError):
    """A file does not follow its format."""

    code = "bad_format"


class SchemaError(FormatError):
    """A rayvos table of another or a newer schema."""

    code = "bad_schema"


class DecodeError(InputError):
    """A picture or video cannot be decoded."""

    code = "decode_failed"


class FrameMissingError(InputError):
    """A frame that the manifest names does not exist."""

    code = "frame_missing"


class FrameSizeError(InputError):
    """A frame has another size than its clip's manifest row says."""

    code = "frame_size"


class ImageTooLargeError(InputError):
    """A picture has more pixels than the configured limit."""

    code = "image_too_large"


class FileTooLargeError(InputError):
    """A file that has to be read whole holds more bytes than the limit."""

    code = "file_too_large"


class BoxError(InputError):
    """A box is inverted, not finite, of zero area, or wholly outside its frame."""

    code = "bad_box"


class IdError(InputError):
    """A clip or object id that cannot be used, or that is there twice."""

    code = "bad_id"


class ShapeError(InputError):
    """An array has another shape, dtype or value range than its function states."""

    code = "bad_shape"


class WeightsError(RayvosError):
    """Weights are missing, belong to another network, or are damaged."""

    code = "bad_weights"


class StorageError(RayvosError):
    """Reading or writing storage failed for good (retries included)."""

    code = "storage_failed"


class MissingPathError(StorageError):
    """A path or URL leads to nothing."""

    code = "path_missing"


class PermissionDeniedError(StorageError):
    """A path or URL may not be read or written."""

    code = "permission_denied"


class EngineError(RayvosError):
    """An engine could not label a clip."""

    code = "engine_failed"


class OutOfMemoryError(EngineError):
    """A clip needs more memory than a worker may use."""

    code = "out_of_memory"


class TimeoutExceededError(EngineError):
    """A clip took longer than the time limit."""

    code = "timeout"


class WorkerCrashedError(EngineError):
    """The worker died each time it worked on this clip."""

    code = "worker_crashed"


class RunError(RayvosError):
    """A run stopped itself: too much of it fails, or it cannot go on."""

    code = "run_failed"


def choose(kind: str, name: str, choices: Iterable[str]) -> str:
    """Return `name` if it is one of `choices`.

    Args:
        kind: what is chosen, as the message names it: `engine`, `format`.
        name: what the user wrote.
        choices: the names there are.

    Raises:
        UsageError: `name` is unknown; the message lists the choices and the nearest one.
    """
    known = sorted(choices)
    if name in known:
        return name
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise UsageError(f"unknown {kind} {name!r}; choose from {', '.join(known)}{hint}")
