"""A million clips, a hundred million frames: the real planner, committer and reader of runs, a simulated engine.

Claims: the driver's memory stays what it was after planning however many units come in; planning, committing and
counting cost some microseconds a clip beside what an engine costs; a run of that size that broke off is taken up again
in less than a minute. Simulated are the engine and its workers: their labels are written by the real committer, as
real files, one after the other in this process, without Ray and without pictures. Times are CPU seconds of this
process, so that a busy machine changes little.

    python -m benchmarks.scale_simulation --clips 1000000
    python -m benchmarks.scale_simulation --quick
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.reporting import arguments, finish
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.annotations.run_folder import RunFolder, Unit
from rayvos.annotations.tables import LABELS
from rayvos.engines.base import EngineNeeds, FrameReader, Label
from rayvos.masks.rle import mask_to_rle
from rayvos.pipelines.guards import peak_rss
from rayvos.pipelines.label import Labelling
from rayvos.pipelines.plan import RunPlan, plan_run
from rayvos.pipelines.progress import RunProgress
from rayvos.pipelines.receipts import Receipt, row_to_unit, unit_to_row
from rayvos.pipelines.sink import commit_unit

HEIGHT, WIDTH = 480, 854
LOST_SHARE = 0.01  # of the units, when the run is broken off
RESUME_BUDGET_S = 60.0


class SimulatedEngine:
    """Propagates one mask per clip, as the planner sees it; labels are made by `labels_of`."""

    name = "simulated"
    weights = ""

    def options(self) -> Mapping[str, Any]:
        """Return nothing: it has none."""
        return {}

    def needs(self) -> EngineNeeds:
        """Return the cost of a small propagation network on a GPU."""
        return EngineNeeds(halo=None, seconds_per_frame=0.005, seconds_per_label=0.001)

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Label nothing."""
        raise NotImplementedError("the labels of this engine are simulated")


def clips(count: int, num_frames: int) -> Iterator[Clip]:
    """Yield clips of one object with a mask on the first frame."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:300, 200:500] = True
    rle = mask_to_rle(mask)
    for index in range(count):
        source = ClipSource("video", f"s3://bucket/clips/{index:07d}.mp4", identity=str(index))
        yield Clip(
            f"clip-{index:07d}", source, HEIGHT, WIDTH, num_frames,
            objects=(ObjectInfo(1),), masks=(MaskPrompt(1, 0, rle),),
        )  # fmt: skip


def labels_of(unit: Unit, rle: bytes) -> pa.Table:
    """Return a unit's labels: a mask on every frame, whose size and score differ from frame to frame."""
    frames = np.concatenate([np.arange(piece.frame_start, piece.frame_stop, dtype=np.int32) for piece in unit.pieces])
    sizes = [piece.frame_stop - piece.frame_start for piece in unit.pieces]
    count = len(frames)

    def each(values: list[str]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(
            np.repeat(np.arange(len(values), dtype=np.int32), sizes), pa.array(values)
        ).cast(pa.string())

    known: dict[str, pa.Array] = {
        "clip_id": each([piece.clip_id for piece in unit.pieces]),
        "fingerprint": each([piece.fingerprint for piece in unit.pieces]),
        "frame": pa.array(frames),
        "object_id": pa.array(np.ones(count, np.int32)),
        "present": pa.array(np.ones(count, bool)),
        "rle": pa.repeat(pa.scalar(rle), count),
        "height": pa.repeat(HEIGHT, count),
        "width": pa.repeat(WIDTH, count),
        "area": pa.array(60_000 + frames % 97),
        "score": pa.array((0.5 + frames % 50 / 100).astype(np.float32)),
        "engine": pa.repeat("simulated", count),
        "weights": pa.repeat("", count),
        "unit_id": pa.repeat(unit.unit_id, count),
    }
    columns = [
        known[field.name].cast(field.type) if field.name in known else pa.nulls(count, field.type) for field in LABELS
    ]
    return pa.Table.from_arrays(columns, schema=LABELS)


def rss() -> int:
    """Return the memory this process holds now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def commit_all(run: RunFolder, plan: RunPlan, progress: RunProgress, rle: bytes) -> tuple[float, list[int]]:
    """Commit the units of a plan; return the CPU seconds of the driver's share, and its memory on the way."""
    driver_s, memory = 0.0, list[int]()
    todo = plan.todo
    for number, unit in enumerate(todo):
        started = time.process_time()
        row = unit_to_row(unit)
        driver_s += time.process_time() - started

        there = row_to_unit(row["unit"])
        table = labels_of(there, rle)
        num_bytes = commit_unit(run, there, table, [])
        counts = {"labels": table.num_rows, "masks": table.num_rows}
        worker = f"host-{number % 256}:1"
        receipt = Receipt(
            there.unit_id, len(there.pieces), table.num_rows, counts, num_bytes, 60.0, engine_s=55.0, worker=worker
        )
        batch = receipt.to_batch()

        started = time.process_time()
        progress.add(Receipt.from_row({"receipt": batch["receipt"][0]}))
        driver_s += time.process_time() - started
        if number % max(1, len(todo) // 20) == 0:
            memory.append(rss())
    return driver_s, [*memory, rss()]


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--frames", type=int, default=100, help="of a clip")
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    options = parser.parse_args()
    count = 20_000 if options.quick else options.clips
    work = Labelling(SimulatedEngine())
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:300, 200:500] = True
    rle = mask_to_rle(mask)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        manifest, run = str(Path(temporary) / "clips.parquet"), RunFolder(str(Path(temporary) / "run"))
        write_manifest(clips(count, options.frames), manifest)
        started = time.process_time()
        plan = plan_run(run, manifest, work)
        num_units = len(plan.units)
        plan_s = time.process_time() - started
        planned_rss = rss()
        progress = RunProgress(num_units, count * options.frames, Counter(labels=0, masks=0))
        started = time.process_time()
        driver_s, memory = commit_all(run, plan, progress, rle)
        commit_s = time.process_time() - started - driver_s
        lost = random.Random(0).sample(sorted(run.committed()), max(1, int(LOST_SHARE * num_units)))
        for unit_id in lost:
            Path(run.unit_file(unit_id)).unlink()
        del plan
        started_wall, started = time.perf_counter(), time.process_time()
        again = plan_run(run, manifest, work)
        left = again.todo
        resume_s, resume_wall_s = time.process_time() - started, time.perf_counter() - started_wall
        written = sum(path.stat().st_size for path in (Path(run.path) / "labels").iterdir())
    if {unit.unit_id for unit in left} != set(lost) or progress.units_done != num_units:
        raise SystemExit(f"wrong result: {len(left)} units left, {len(lost)} expected; {progress.units_done} done")
    growth = memory[-1] / memory[len(memory) // 10]
    print(f"{count} clips, {count * options.frames} frames, {num_units} units, {written / 1e9:.2f} GB of labels")
    print(f"  plan     {plan_s:.1f} s, {1e6 * plan_s / count:.1f} µs a clip, {1e6 * plan_s / num_units:.0f} µs a unit")
    print(f"  driver   {1e6 * driver_s / num_units:.0f} µs a unit, {1e6 * driver_s / count:.2f} µs a clip")
    print(f"  commit   {1e3 * commit_s / num_units:.1f} ms a unit (on the workers: labels made, encoded, written)")
    print(f"  memory   {planned_rss / 2**20:.0f} MiB after planning, {memory[-1] / 2**20:.0f} at the end,", end=" ")
    print(f"{growth:.3f} of what it was after a tenth of the units; peak {peak_rss() / 2**20:.0f}")
    print(f"  resume   {resume_s:.1f} CPU s ({resume_wall_s:.1f} s on this machine), budget {RESUME_BUDGET_S:.0f} s")
    numbers = {
        "clips": count, "frames": count * options.frames, "units": num_units, "plan_s": plan_s, "driver_s": driver_s,
        "commit_s": commit_s, "resume_s": resume_s, "resume_wall_s": resume_wall_s, "memory": memory,
        "label_bytes": written,
    }  # fmt: skip
    ratios = {"driver_memory_end_over_start": growth, "resume_budget_over_cost": RESUME_BUDGET_S / resume_s}
    finish(options, ratios, numbers)


if __name__ == "__main__":
    main()
