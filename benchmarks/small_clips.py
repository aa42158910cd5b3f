"""10,000 tiny clips: what planning, labelling, committing and resuming cost a clip, and how many files come out.

Claim: below 5 ms a clip and actor-second for everything around the engine, dozens of files, and a rerun of the finished
run ends in seconds without decoding a frame. The engine fills boxes, so what is measured is the pipeline.

    python -m benchmarks.small_clips
    python -m benchmarks.small_clips --quick
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.reporting import arguments, finish
from rayvos.annotations.manifest import write_manifest
from rayvos.annotations.records import Box, Clip, ClipSource, ObjectInfo
from rayvos.annotations.run_folder import RunFolder, iter_labels
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.run import run_job

HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 2
BUDGET_MS = 5.0


def clips(folder: Path, count: int) -> Iterator[Clip]:
    """Yield tiny clips; they share ten folders of frames, their boxes differ."""
    names = tuple(f"{frame:05d}.jpg" for frame in range(NUM_FRAMES))
    rng = np.random.default_rng(0)
    for index in range(10):
        place = folder / str(index)
        place.mkdir()
        for name in names:
            cv2.imwrite(str(place / name), rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    for index in range(count):
        shift = index % 20
        boxes = tuple(Box(1, frame, 5 + shift, 5, 30 + shift, 40) for frame in range(NUM_FRAMES))
        source = ClipSource("images", str(folder / str(index % 10)), names, identity=f"{index}")
        yield Clip(f"clip-{index:06d}", source, HEIGHT, WIDTH, NUM_FRAMES, objects=(ObjectInfo(1),), boxes=boxes)


def main() -> None:
    """Run it."""
    options = arguments(__doc__ or "").parse_args()
    count = 500 if options.quick else 10_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = str(folder / "manifest.parquet")
        started = time.perf_counter()
        write_manifest(clips(folder, count), manifest)
        import_s = time.perf_counter() - started
        job = LabelJob(
            manifest, str(folder / "run"), EngineChoice("benchmarks.box_fill:BoxFillEngine"), address="local"
        )
        started = time.perf_counter()
        summary = run_job(job)
        first_s = time.perf_counter() - started
        started = time.perf_counter()
        again = run_job(job)
        rerun_s = time.perf_counter() - started
        files = len(RunFolder(job.out).committed())
        num_read = sum(table.num_rows for _, table in iter_labels(job.out))
    if num_read != count * NUM_FRAMES or again.throughput["units"] != 0:
        raise SystemExit(f"wrong result: {num_read} labels, {again.throughput['units']} units done by the rerun")
    busy_s = summary.throughput["busy_s"]
    around_ms = 1000 * (first_s - summary.throughput["seconds"] + busy_s) / count
    print(f"{count} clips of {NUM_FRAMES} frames {HEIGHT}x{WIDTH}")
    print(f"  manifest   {import_s:.1f} s")
    print(f"  first run  {first_s:.1f} s wall, Ray's start included; {busy_s:.1f} actor seconds; {files} files")
    print(f"  per clip   {around_ms:.2f} ms of driver and actors, everything included; budget {BUDGET_MS} ms")
    print(f"  rerun      {rerun_s:.2f} s, no unit done")
    numbers = {"clips": count, "files": files, "ms_per_clip": around_ms, "rerun_s": rerun_s, "first_run_s": first_s}
    finish(
        options,
        {"small_clips_budget_over_cost": BUDGET_MS / around_ms, "small_clips_clips_per_file": count / files},
        numbers,
    )


if __name__ == "__main__":
    main()
