"""`rayvos submit`: a job on a running cluster, started once, followed to its end."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

__all__ = ["submit"]

EXIT_INTERRUPTED = 130


def submit(
    job: Annotated[str, Parameter(help="File in jobs/, without its ending: label, evaluate, …")],
    /,
    *words: Annotated[str, Parameter(allow_leading_hyphen=True, help="The job's own arguments and options.")],
    address: Annotated[str | None, Parameter(help="URL of the dashboard; default: RAY_API_SERVER_ADDRESS.")] = None,
    working_dir: Annotated[str, Parameter(help="The repository; it is uploaded, less what .rayignore names.")] = ".",
    env: Annotated[
        tuple[str, ...], Parameter(negative="", help="NAME=value for the job's processes; no secrets.")
    ] = (),
    submission_id: Annotated[
        str | None, Parameter(name="--id", help="Key of the submission: it is started once and never again.")
    ] = None,
    follow: Annotated[bool, Parameter(negative="--no-follow", help="Show the log until the job ends.")] = True,
    patience: Annotated[float, Parameter(help="Seconds for which the cluster may be out of reach.")] = 600.0,
) -> int:
    """Run a job on a running Ray cluster, show its log, exit with its exit code.

    The same command again follows the job that it started; once that has ended, it starts the next one, which goes on
    where the last one was. Ctrl-C and lost connections leave the job alone. Options of the job stand behind its name;
    `--` before the name keeps all that follows from being taken for options of `submit`.

    For example:

        rayvos submit label s3://bucket/clips.parquet -o s3://bucket/run --actors 240
    """
    from rayvos.pipelines.submission import Submission, connect, parse_environment
    from rayvos.pipelines.submission import follow as follow_job
    from rayvos.pipelines.submission import submit as submit_job

    wanted = Submission(job, words, working_dir, parse_environment(env), submission_id)
    client = connect(address, patience_s=patience)
    found, started = submit_job(client, wanted, patience_s=patience)
    print(f"{'started' if started else 'found'} {found}: {wanted.entrypoint}", file=sys.stderr)
    if not follow:
        print(found)
        return 0
    try:
        return follow_job(client, found, _show, patience_s=patience)
    except KeyboardInterrupt:
        print(
            f"left {found} to itself: the same command follows it again, `ray job stop {found}` ends it",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


def _show(text: str) -> None:
    print(text, end="", flush=True)
