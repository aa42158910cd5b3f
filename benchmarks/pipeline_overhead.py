"""The same clips, the same engine, the same number of processes: a bare loop against the Ray pipeline.

Claim: at real clip sizes the pipeline reaches at least 0.9 of the throughput of processes that loop over the clips and
keep the labels in memory, though it plans, commits every unit to disk, and survives its workers. Both sides decode
the same files; both are timed from the moment their processes are asked for (Ray's own start is printed apart), and
they take turns.

    python -m benchmarks.pipeline_overhead
    python -m benchmarks.pipeline_overhead --quick
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from benchmarks.reporting import arguments, finish
from rayvos.annotations.manifest import ManifestFile, write_manifest
from rayvos.annotations.records import Clip, ClipSource
from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import EngineChoice
from rayvos.pipelines.label import LabelJob
from rayvos.pipelines.run import run_job
from rayvos.video.synthetic import SynthConfig, generate_clip


def write_clips(folder: Path, count: int, config: SynthConfig) -> str:
    """Write generated clips as JPEG folders with their boxes, and return the manifest."""
    clips: list[Clip] = []
    names = tuple(f"{frame:05d}.jpg" for frame in range(config.num_frames))
    for index in range(count):
        made = generate_clip(7, index, config)
        place = folder / "frames" / f"{index:03d}"
        place.mkdir(parents=True)
        for name, image in zip(names, made.images, strict=True):
            cv2.imwrite(str(place / name), image[..., ::-1])
        clips.append(made.record(ClipSource("images", str(place), names)))
    path = str(folder / "manifest.parquet")
    write_manifest(clips, path)
    return path


def _loop(engine: str, manifest: str, rows: Sequence[int]) -> int:
    """Label some clips in this process, as a script would; return the number of labels."""
    cv2.setNumThreads(1)
    loaded = EngineChoice(engine).load()
    return sum(label_clip(loaded, clip).num_rows for _, clip in ManifestFile(manifest).read_rows(rows))


def bare(engine: str, manifest: str, processes: int) -> tuple[float, int]:
    """Return the seconds and the labels of the bare loops."""
    count = len(ManifestFile(manifest))
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        shares = [(engine, manifest, range(count)[part::processes]) for part in range(processes)]
        labels = sum(pool.starmap(_loop, shares))
    return time.perf_counter() - started, labels


def pipeline(engine: str, manifest: str, processes: int, out: str) -> tuple[float, float, int]:
    """Return the seconds with and without Ray's own start, and the labels of the pipeline."""
    started = time.perf_counter()
    job = LabelJob(manifest, out, EngineChoice(engine), actors=processes, address="local")
    summary = run_job(job)
    return time.perf_counter() - started, summary.throughput["seconds"], int(summary.throughput["labels"])


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--engine", default="cut", help="engine by name, or package.module:Class")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    count, rounds = (4, 1) if options.quick else (options.clips, options.rounds)
    config = SynthConfig(num_frames=8 if options.quick else options.frames, height=480, width=854, num_objects=2)
    bare_s, ray_s, whole_s = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_clips(folder, count, config)
        for turn in range(rounds):
            seconds, expected = bare(options.engine, manifest, options.processes)
            bare_s.append(seconds)
            whole, inside, labels = pipeline(options.engine, manifest, options.processes, str(folder / f"run-{turn}"))
            whole_s.append(whole)
            ray_s.append(inside)
            if labels != expected:
                raise SystemExit(f"wrong result: {labels} labels by the pipeline, {expected} by the loop")
    frames = count * config.num_frames
    print(
        f"engine {options.engine}, {count} clips of {config.num_frames} frames 480x854, {options.processes} processes"
    )
    print(f"  bare loop     {frames / statistics.median(bare_s):.2f} frames/s ({statistics.median(bare_s):.1f} s)")
    print(f"  Ray pipeline  {frames / statistics.median(ray_s):.2f} frames/s ({statistics.median(ray_s):.1f} s)")
    print(f"  with planning and Ray's own start  {statistics.median(whole_s):.1f} s")
    numbers = {
        "bare_s": bare_s,
        "pipeline_s": ray_s,
        "with_start_s": whole_s,
        "frames": frames,
        "engine": options.engine,
    }
    finish(options, {"pipeline_over_bare_throughput": statistics.median(bare_s) / statistics.median(ray_s)}, numbers)


if __name__ == "__main__":
    main()
