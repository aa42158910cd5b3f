"""Runs a job: manifest → plan → Ray Data (one row = one unit) → actors → committed files → receipts.

Ray carries thin rows only: a unit's pieces on the way in, one receipt on the way out. The driver keeps counts, tells
of progress, and writes `run.json`; all that matters is in the committed files, so the driver may die at any moment
and be started again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn, get_args

from rayvos import storage
from rayvos.annotations.run_folder import RunFolder, Unit, read_dead_letters
from rayvos.annotations.unit_rows import ResultTable
from rayvos.errors import RunError, StorageError
from rayvos.pipelines.attempts import starts_folder
from rayvos.pipelines.cluster import ActorPool, connected, data_settings, plan_pool, read_nodes
from rayvos.pipelines.guards import timeout_of
from rayvos.pipelines.job import Job
from rayvos.pipelines.metrics import RunMetrics
from rayvos.pipelines.plan import RunPlan, describe, make_plan, plan_run
from rayvos.pipelines.progress import RunProgress
from rayvos.pipelines.receipts import Receipt, unit_to_row
from rayvos.pipelines.run_record import RunRecord, check_same_configuration
from rayvos.pipelines.stopping import RunStopped, stop_signals
from rayvos.pipelines.stragglers import LATE_S, rescuing
from rayvos.pipelines.work import Work
from rayvos.pipelines.worker import UnitWorker, WorkerSettings

__all__ = ["RunSummary", "discard_run", "plan_only", "run_job"]

logger = logging.getLogger(__name__)

SHORTEST_STALL_S = 1800.0  # Ray Data's own default
QUEUE_BELOW_S = 20.0  # mean planned seconds of a unit; above it, waiting for the next one costs less than 1 %
JUDGED_FROM = 20  # pieces: a share of fewer says nothing of the rest
RUN_PARTS = ("run.json", "plans", "manifests", "attempts", *get_args(ResultTable))


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a job came to."""

    out: str
    num_clips: int
    """Clips of the plan, those of earlier starts included."""
    num_frames: int
    num_units: int
    dead_letters: dict[str, int]
    """Live dead letters of the run by error code."""
    throughput: dict[str, float]
    """Of this start of the driver."""


def plan_only(job: Job) -> RunPlan:
    """Return the plan of a job without storing or starting anything.

    Raises:
        UsageError: the run folder was made with other settings.
        InputError, StorageError, WeightsError: see `run_job`.
    """
    # A run that would be discarded is planned as if its folder were empty.
    work = job.work().load()
    run = RunFolder(storage.join(job.out, "discarded") if job.overwrite else job.out, work.table)
    check_same_configuration(run, work.configuration())
    return make_plan(run, job.manifest, work, clip_ids=job.clip_ids, limit=job.limit, retry_failed=job.retry_failed)


def discard_run(out: str) -> None:
    """Remove what a run wrote into its folder, and nothing else.

    Raises:
        StorageError: the folder cannot be changed.
    """
    for part in RUN_PARTS:
        storage.remove(storage.join(out, part))


def run_job(job: Job, *, on_progress: Callable[[RunProgress], None] | None = None) -> RunSummary:
    """Do a job on the clips of a manifest; what is committed already is not done again.

    Args:
        job: what to do.
        on_progress: called in the driver whenever a unit is done.

    Raises:
        UsageError: an option is wrong, or the run folder was made with other settings.
        InputError: the manifest holds no clip to work on.
        WeightsError: the weights cannot be used; checked before Ray starts.
        StorageError: the run folder cannot be read or written; what is committed stays.
        RunError: too much fails, or Ray cannot go on.
        RunStopped: SIGTERM or SIGINT; all is kept for the next start.
    """
    work = job.work().load()
    run = RunFolder(job.out, work.table)
    configuration = work.configuration()
    if job.overwrite:
        plan_only(job)  # a manifest that cannot be used must not cost the run that is there
        discard_run(job.out)
    check_same_configuration(run, configuration)
    plan = plan_run(run, job.manifest, work, clip_ids=job.clip_ids, limit=job.limit, retry_failed=job.retry_failed)
    todo = plan.todo
    num_frames = sum(piece.frame_stop - piece.frame_start for unit in todo for piece in unit.pieces)
    progress = RunProgress(len(todo), num_frames, Counter(work.count(run.schema.empty_table())))
    if todo or run.read_run_json().get("state") != "done":  # a driver may have died between the last commit and its end
        record = RunRecord(run, configuration, job.facts())
        record.write("running", plan=describe(plan))
        _record_end(record, progress, lambda: _run_units(job, run, work, plan, record, progress, on_progress))
    letters = Counter(read_dead_letters(run.path).column("error").to_pylist())
    return RunSummary(run.path, plan.num_clips, plan.num_frames, len(plan.units), dict(letters), progress.throughput())


def _record_end(record: RunRecord, progress: RunProgress, work: Callable[[], None]) -> None:
    """Do the work and leave in `run.json` how it ended."""
    try:
        work()
    except RunStopped:
        record.write("stopped", throughput=progress.throughput())
        raise
    except BaseException as error:
        try:
            record.write("failed", throughput=progress.throughput(), error=str(error) or repr(error))
        except StorageError:  # the folder may be what failed; the first error says more
            logger.warning("run.json could not be written", exc_info=True)
        raise
    record.write("done", throughput=progress.throughput(), dead_letters=dict(progress.failures))


def _run_units(
    job: Job,
    run: RunFolder,
    work: Work,
    plan: RunPlan,
    record: RunRecord,
    progress: RunProgress,
    on_progress: Callable[[RunProgress], None] | None,
) -> None:
    todo, needs = plan.todo, work.needs()
    if not todo:
        return
    if job.gpus_per_actor is not None and needs.num_gpus:
        needs = replace(needs, num_gpus=job.gpus_per_actor)
    with connected(job.address, least_cpus=(job.actors or 0) * needs.num_cpus):
        nodes = read_nodes()
        pool = plan_pool(
            nodes, needs,
            num_units=len(todo), actors=job.actors, device=job.engine.device,
            memory_limit_bytes=job.memory_limit_bytes,
        )  # fmt: skip
        progress.num_actors = pool.num_actors
        progress.started = time.monotonic()
        with stop_signals(lambda: record.write("stopping", throughput=progress.throughput())):
            record.write(ray=_ray_facts(len(nodes), pool))
            engine = replace(job.engine.anchored(), device=job.engine.device if pool.num_gpus else "cpu")
            settings = WorkerSettings(
                run=storage.absolute(run.path),
                manifest=storage.absolute(plan.manifest),
                work=replace(job, engine=engine).work(),
                session=uuid.uuid4().hex,
                num_actors=pool.num_actors,
                max_attempts=job.max_attempts,
                timeout_s=job.timeout_s,
                memory_limit_bytes=pool.memory_limit_bytes,
                num_threads=pool.num_threads,
                max_pixels=job.max_pixels,
                late_s=LATE_S,
                gpu_share=pool.num_gpus,
            )
            try:
                _take_receipts(job, _receipts(todo, settings, pool), progress, on_progress)
            finally:
                with suppress(StorageError):  # litter at worst
                    storage.remove(starts_folder(run, settings.session))


def _take_receipts(
    job: Job,
    receipts: Generator[Receipt, None, None],
    progress: RunProgress,
    on_progress: Callable[[RunProgress], None] | None,
) -> None:
    metrics = RunMetrics(job.out, progress.num_units)
    with closing(receipts):
        for receipt in receipts:
            if receipt.error:
                _raise_unit_error(receipt)
            progress.add(receipt)
            metrics.add(receipt)
            if on_progress is not None:
                on_progress(progress)
            _check_failures(progress, job.max_failed)


def _ray_facts(num_nodes: int, pool: ActorPool) -> dict[str, Any]:
    import ray

    return {
        "nodes": num_nodes,
        "resources": {key: value for key, value in ray.cluster_resources().items() if key in ("CPU", "GPU", "memory")},
        "actors": pool.num_actors,
        "actor_cpus": pool.num_cpus,
        "actor_gpus": pool.num_gpus,
        "actor_memory_limit_bytes": pool.memory_limit_bytes,
    }


def _receipts(todo: list[Unit], settings: WorkerSettings, pool: ActorPool) -> Generator[Receipt, None, None]:
    """Yield the units' receipts as they are committed, in any order.

    Raises:
        RunError: Ray cannot go on.
    """
    import ray.data
    import ray.exceptions

    longest = max(timeout_of(piece.cost_s, settings.timeout_s) for unit in todo for piece in unit.pieces)
    stall_s = max(SHORTEST_STALL_S, longest * (settings.max_attempts + 1) + 20 * max(unit.cost_s for unit in todo))
    # A unit that is queued at a busy actor waits while others are idle; without one an actor waits 0.2 s for the
    # next (measured on two busy cores; 0.004 s with one queued).
    in_flight = 1 if sum(unit.cost_s for unit in todo) / len(todo) > QUEUE_BELOW_S else 2
    with data_settings(no_progress_timeout_s=stall_s):
        # As many blocks as rows: a manifest in one block would keep one actor busy and the others idle.
        rows = ray.data.from_items([unit_to_row(unit) for unit in todo], override_num_blocks=len(todo))
        dataset = rows.map_batches(
            UnitWorker,
            fn_constructor_args=(settings,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.num_actors, max_tasks_in_flight_per_actor=in_flight),
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
        )
        try:
            with rescuing(todo, pool, UnitWorker, settings, in_flight) as rescue:
                for row in dataset.iter_rows():
                    receipt = Receipt.from_row(row)
                    rescue.done(receipt)
                    yield receipt
        except (ray.exceptions.RayError, ray.data.exceptions.ExecutionTimeoutError) as error:
            reason = str(error).strip().splitlines()
            raise RunError(
                f"Ray gave up: {type(error).__name__}: {reason[-1] if reason else error!r}; what is committed stays: "
                "run the same command again to go on, with -v for Ray's own messages"
            ) from error


def _raise_unit_error(receipt: Receipt) -> NoReturn:
    message = f"{receipt.message}; what is committed stays: run the same command again to go on"
    raise (StorageError if receipt.error in _STORAGE_CODES else RunError)(message)


_STORAGE_CODES = {"storage_failed", "path_missing", "permission_denied"}


def _check_failures(progress: RunProgress, max_failed: float) -> None:
    """Stop a run in which too much fails: the cause is then not in the clips.

    Raises:
        RunError: more pieces failed than allowed.
    """
    failed, done = sum(progress.failures.values()), progress.pieces_done
    allowed = max_failed * done if max_failed < 1 else max_failed
    if failed <= allowed or (max_failed < 1 and done < JUDGED_FROM):
        return
    kinds = ", ".join(f"{count} {code}" for code, count in progress.failures.most_common())
    raise RunError(
        f"{failed} of {done} clips or frame ranges failed ({kinds}), more than --max-failed {max_failed:g} allows; "
        f"the first: {progress.first_failure}; mend the cause, then run again with --retry-failed"
    )
