"""Hands a job to a Ray cluster by its job API, follows it, and returns the exit code of its driver.

The submission's id is the key to doing it once: it is a digest of the job's words, so that the same command finds the
job that it started before and follows that one. Only when that one has ended is the next one started, which goes on
where it was. A lost connection is made again; the log goes on at the character where it broke off.

Why so: `ray job submit` starts a second job when it is called again after a lost connection, and returns 1 whatever
the driver's exit code was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shlex
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rayvos.errors import RunError, UsageError, choose
from rayvos.redaction import without_secrets

__all__ = ["Submission", "connect", "follow", "jobs_in", "submit"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SILENCE_S = 15.0  # of a log, after which it is asked whether the job is still there
PAUSE_S = 1.0
ID_CHARACTERS = 10
SECRET_WORDS = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "API_KEY", "CREDENTIAL")
EXIT_STOPPED = 143  # as a shell says of SIGTERM, by which a job is stopped
EXIT_FAILED = 1


@dataclass(frozen=True)
class Submission:
    """A job to hand over."""

    job: str
    """Name of a file in the folder's `jobs/`, without its ending."""
    words: tuple[str, ...]
    """The job's own command line."""
    folder: str = "."
    """What is uploaded, less what its `.rayignore` and `.gitignore` name: the repository."""
    environment: Mapping[str, str] = field(default_factory=dict)
    submission_id: str | None = None
    """None: a digest of the words; a new one once the job of that id has ended."""

    def __post_init__(self) -> None:
        choose("job", self.job, jobs_in(self.folder))
        for word in self.words:
            if without_secrets(word) != word:
                raise UsageError(
                    f"{without_secrets(word)}: holds a key or a signature, which would be read by everybody who sees "
                    "the cluster; leave it out and give the machines a role"
                )
        for name in self.environment:
            if any(word in name.upper() for word in SECRET_WORDS):
                raise UsageError(
                    f"--env {name}: everybody who sees the cluster's dashboard could read it; give the machines "
                    "credentials by their provider's standard chain (instance role, service account)"
                )

    @property
    def entrypoint(self) -> str:
        """The driver's command line."""
        return shlex.join(["python", f"jobs/{self.job}.py", *self.words])

    @property
    def base_id(self) -> str:
        """What the ids of all submissions of these words begin with."""
        digest = hashlib.blake2b(json.dumps([self.job, self.words]).encode(), digest_size=8).hexdigest()
        return f"rayvos-{self.job}-{digest[:ID_CHARACTERS]}"


def jobs_in(folder: str) -> list[str]:
    """Return the names of the jobs in a folder of the repository.

    Raises:
        UsageError: there are none.
    """
    found = sorted(path.stem for path in (Path(folder) / "jobs").glob("*.py"))
    if not found:
        raise UsageError(f"--working-dir {folder}: expected rayvos' repository, found no jobs/*.py; go to its folder")
    return found


def connect(address: str | None, *, patience_s: float) -> Any:
    """Return a client of the cluster's job API.

    Args:
        address: URL of the dashboard; None takes RAY_API_SERVER_ADDRESS.
        patience_s: how long to try.

    Raises:
        RunError: nobody answers there, or it wants a token.
    """
    from ray.job_submission import JobSubmissionClient

    if not logger.isEnabledFor(logging.DEBUG):
        for talker in ("ray._private.runtime_env", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(talker).setLevel(logging.ERROR)  # each file that is not uploaded is worth lines to them
    return _patiently(lambda: JobSubmissionClient(address), patience_s, f"job API at {address or 'the default'}")


def submit(client: Any, submission: Submission, *, patience_s: float) -> tuple[str, bool]:
    """Start the job, unless it was started and has not ended.

    Args:
        client: see `connect`.
        submission: the job.
        patience_s: how long to try; right after its start a cluster takes no jobs.

    Returns:
        The submission's id, and whether this call started it.

    Raises:
        RunError: the cluster does not take it.
    """
    wanted = submission.submission_id
    if wanted is None:
        wanted, running = _next_id(client, submission.base_id, patience_s)
        if running:
            return wanted, False

    def start() -> bool:
        try:
            client.submit_job(
                entrypoint=submission.entrypoint,
                runtime_env={"working_dir": submission.folder, "env_vars": dict(submission.environment)},
                submission_id=wanted,
                metadata={"rayvos": submission.job},
            )
        except RuntimeError as error:
            if "already exists" in str(error):  # another call was faster, or the answer to our own was lost
                return False
            raise
        return True

    return wanted, _patiently(start, patience_s, f"submission {wanted}")


def _next_id(client: Any, base: str, patience_s: float) -> tuple[str, bool]:
    """Return the id of the job of this base that has not ended, and True; or the next free id, and False."""
    known = {
        job.submission_id: job.status.is_terminal()
        for job in _patiently(client.list_jobs, patience_s, "the list of jobs")
        if job.submission_id is not None and job.submission_id.rpartition("-")[0] == base
    }
    for found, ended in known.items():
        if not ended:
            return found, True
    return f"{base}-{len(known) + 1}", False


def _patiently(action: Callable[[], T], patience_s: float, what: str) -> T:
    """Return the first result of an action; a cluster that starts, or a tunnel that comes back, fails for a while.

    Raises:
        RunError: it failed for too long, or for a reason that does not pass.
    """
    from ray.exceptions import AuthenticationError

    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except AuthenticationError as error:
            raise RunError(
                f"{what}: the cluster asks for its token: {error}; set RAY_AUTH_MODE=token and put it into "
                "~/.ray/auth_token, see cluster/README.md"
            ) from error
        except (OSError, RuntimeError) as error:  # requests' own errors are OSErrors
            if time.monotonic() > deadline:
                raise RunError(
                    f"{what}: no answer for {patience_s:.0f} s: {error}; check address and tunnel"
                ) from error
            logger.info("waiting for=%s error=%s", what, error)
        time.sleep(PAUSE_S)


def follow(client: Any, submission_id: str, show: Callable[[str], None], *, patience_s: float) -> int:
    """Show a job's log until it ends; return the exit code of its driver.

    Args:
        client: see `connect`.
        submission_id: the job.
        show: takes pieces of the log.
        patience_s: for how long the connection may be lost at a time.

    Raises:
        RunError: the connection stays lost, or the cluster knows no such job any more.
    """
    return asyncio.run(_Follower(client, submission_id, show, patience_s).follow())


class _Follower:
    """Follows one job over lost connections."""

    def __init__(self, client: Any, submission_id: str, show: Callable[[str], None], patience_s: float) -> None:
        self._client, self._id, self._show, self._patience_s = client, submission_id, show, patience_s
        self._shown = 0
        self._heard = time.monotonic()

    async def follow(self) -> int:
        while True:
            try:
                await self._show_log()
                info = await self._info()
                if info.status.is_terminal():
                    return _exit_code(info, self._show)
            except (OSError, RuntimeError) as error:
                lost_s = time.monotonic() - self._heard
                if lost_s > self._patience_s:
                    raise RunError(
                        f"submission {self._id}: connection lost for {lost_s:.0f} s: {error}; the job goes on without "
                        "us: the same command follows it again"
                    ) from error
                logger.warning("submission=%s connection lost for_s=%.0f error=%s", self._id, lost_s, error)
            await asyncio.sleep(PAUSE_S)

    async def _info(self) -> Any:
        """Return the job's state.

        Raises:
            RunError: the cluster does not know it.
        """
        try:
            info = await asyncio.to_thread(self._client.get_job_info, self._id)
        except RuntimeError as error:
            if "does not exist" in str(error):
                raise RunError(
                    f"submission {self._id}: the cluster does not know it any more (its head was replaced); "
                    "submit it again: it goes on where it was"
                ) from error
            raise
        self._heard = time.monotonic()
        return info

    async def _show_log(self) -> None:
        """Show what the log has beyond what was shown, until it ends or the connection does."""
        position = 0
        log: AsyncIterator[str] = self._client.tail_job_logs(self._id)
        coming = asyncio.ensure_future(_next(log))
        try:
            while True:
                while not (await asyncio.wait([coming], timeout=SILENCE_S))[0]:
                    await self._info()  # raises where the silence is that of a lost connection
                text = coming.result()
                if text is None:
                    return
                self._heard = time.monotonic()
                position += len(text)
                if position > self._shown:
                    self._show(
                        text[len(text) - (position - self._shown) :] if position - self._shown < len(text) else text
                    )
                    self._shown = position
                coming = asyncio.ensure_future(_next(log))
        finally:
            coming.cancel()
            with suppress(asyncio.CancelledError, OSError, RuntimeError):
                await coming


async def _next(log: AsyncIterator[str]) -> str | None:
    """Return the next piece of a log; None at its end.

    Raises:
        OSError, RuntimeError: the connection is lost.
    """
    import aiohttp

    try:
        return await anext(log)
    except StopAsyncIteration:
        return None
    except aiohttp.ClientError as error:
        raise ConnectionError(str(error)) from error


def _exit_code(info: Any, show: Callable[[str], None]) -> int:
    """Return the driver's exit code; of a driver that left none, what its end means."""
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status == "STOPPED":
        return EXIT_STOPPED
    if info.status == "SUCCEEDED":
        return 0
    show(f"{info.message}\n")  # it did not get as far as a driver, or lost it: the log has no reason
    return EXIT_FAILED


def parse_environment(pairs: Sequence[str]) -> dict[str, str]:
    """Return the variables of `NAME=value` words.

    Raises:
        UsageError: a word is no such pair.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--env {pair!r}: expected NAME=value")
        found[name] = value
    return found
