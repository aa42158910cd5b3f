"""When a request to storage is made again, after how long, and when to give up.

A request that may heal is made again after growing, random waits. How long in total depends on the place: one that has
been answering gets a minute before a job gives up, so that short outages of an object store pass unnoticed; one that
never answered, or has just used up its minute, gets three seconds, so that a manifest of dead links ends soon.

Why so: a fixed number of attempts is too few for an outage and too many for ten thousand dead links. Below this, s3fs
and botocore make cut requests again by themselves, within seconds; they know neither an outage nor a dead link.
"""

from __future__ import annotations

import errno
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

__all__ = ["Patience", "failures", "retrying", "service_code"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
# What a second attempt cannot heal: the caller, the name, the rights or the disk are wrong, not the moment.
FINAL_ERRNOS = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ENOSPC, errno.EDQUOT, errno.EROFS,
}  # fmt: skip
# What the libraries behind URLs raise besides OSError, by the module that must be loaded for it.
LIBRARY_ERRORS = (("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"))
BUSY_STATUS = {408, 425, 429}  # of HTTP; like 5xx, they say "later"
# Of S3: a write met another one, a body was damaged on the way, or the server is busy with the same thing.
BUSY_CODES = {
    "SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict",
    "XAmzContentSHA256Mismatch", "Throttling", "ThrottlingException", "RequestLimitExceeded",
}  # fmt: skip
# Of botocore, raised before or instead of an answer.
BUSY_BOTO = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError"}


class Patience:
    """How long requests to each place may be tried again: earned by answers, lost by giving up.

    Args:
        start_s: for a place that has not answered yet.
        most_s: for a place that has been answering.
        earned_s: by each answer.
    """

    def __init__(self, start_s: float = 3.0, most_s: float = 60.0, earned_s: float = 1.0) -> None:
        self.start_s, self.most_s, self.earned_s = start_s, most_s, earned_s
        self._left: dict[str, float] = {}
        self._lock = threading.Lock()

    def left(self, place: str) -> float:
        """Return for how many seconds a request to the place may be tried again."""
        return self._left.get(place, self.start_s)

    def answered(self, place: str) -> None:
        """Count an answer."""
        with self._lock:
            self._left[place] = min(self.most_s, self._left.get(place, self.start_s) + self.earned_s)

    def gave_up(self, place: str) -> None:
        """Forget what was earned: those who come next shall not wait as long."""
        with self._lock:
            self._left[place] = self.start_s


# Of this process: its threads and all their file systems learn from each other that a place is out.
_patience = Patience()


def retrying(
    action: Callable[[], T],
    *,
    path: str = "",
    patience: Patience | None = None,
    first_wait_s: float = FIRST_WAIT_S,
) -> T:
    """Run `action`, again after growing waits while it fails in a way that may heal.

    Args:
        action: makes one request; may be made again after it failed half way.
        path: what it is about; the scheme and host of a URL are the place that patience is kept for.
        patience: None takes the process's.
        first_wait_s: doubled after each attempt.

    Raises:
        Whatever `action` raised last.
    """
    patience = patience or _patience
    place = "://".join(urlsplit(path)[:2]) if "://" in path else ""
    waited_s, wait_s = 0.0, first_wait_s
    while True:
        try:
            found = action()
        except failures() as error:
            if not _may_heal(error):
                raise
            if waited_s >= patience.left(place):
                patience.gave_up(place)
                raise
            pause_s = wait_s * random.uniform(0.5, 1.5)
            logger.warning("storage path=%s error=%s wait_s=%.2f", path, error, pause_s)
            time.sleep(pause_s)
            waited_s, wait_s = waited_s + wait_s, min(2 * wait_s, LONGEST_WAIT_S)
        else:
            patience.answered(place)
            return found


def failures() -> tuple[type[Exception], ...]:
    """Return the errors by which storage fails; those of a library that is not loaded cannot come up."""
    loaded = [getattr(sys.modules[module], name) for module, name in LIBRARY_ERRORS if module in sys.modules]
    return (OSError, *loaded)


def service_code(error: BaseException) -> tuple[str, int]:
    """Return the code and HTTP status that an object store gave as the reason, or `("", 0)`."""
    cause = error if hasattr(error, "response") else error.__cause__
    response: Any = getattr(cause, "response", None)
    if not isinstance(response, dict):
        return "", 0
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status)


def _may_heal(error: Exception) -> bool:
    """Tell whether the same request may succeed a moment later."""
    code, code_status = service_code(error)
    if code_status:
        return code in BUSY_CODES or code_status >= 500 or code_status in BUSY_STATUS
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    if isinstance(error, OSError):
        return error.errno not in FINAL_ERRNOS
    if type(error).__module__.startswith("botocore"):
        return type(error).__name__ in BUSY_BOTO  # others: no credentials, no region, a parameter
    status = getattr(error, "status", None)
    return status is None or status in BUSY_STATUS or status >= 500
