"""Whether decoding belongs beside the engine, and how many actors share a GPU with gain.

Two decisions rest on these numbers. An actor decodes, infers and encodes in one process, in threads: CPU and GPU
work would scale apart only by moving frames between processes, which pays where the engine waits for frames. And an
actor asks for a share of a GPU: several actors per GPU pay where one leaves it idle, as far as its memory reaches.

Each process loads the engine, labels the clip once to warm up, waits for the others, and labels it again, through the
same call that an actor makes (`label_clip`), from JPEG pictures on disk. Wall-clock time; on a CPU it shows only that
the script works.

    python -m benchmarks.gpu_sharing --device cuda
    python -m benchmarks.gpu_sharing --quick
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from benchmarks.reporting import arguments, finish
from rayvos.annotations.records import Clip, ClipSource
from rayvos.engines.labeling import label_clip
from rayvos.engines.registry import load_engine
from rayvos.engines.timing import StageSeconds
from rayvos.pipelines.guards import peak_gpu_bytes
from rayvos.video.source import open_clip
from rayvos.video.synthetic import SynthConfig, generate_clip

START_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Share:
    """What one process did."""

    seconds: float
    decode_wait_s: float
    gpu_bytes: int


def write_clip(folder: Path, height: int, width: int, num_frames: int) -> Clip:
    """Write a synthetic clip as JPEG pictures and return it with boxes on all frames and masks on the first."""
    made = generate_clip(0, 0, SynthConfig(height=height, width=width, num_frames=num_frames, num_objects=3))
    names = tuple(f"{frame:05d}.jpg" for frame in range(num_frames))
    for name, image in zip(names, made.images, strict=True):
        cv2.imwrite(str(folder / name), image[..., ::-1])
    return made.record(ClipSource("images", str(folder), names), masks=True)


def work(clip: Clip, engine: str, device: str, threads: int, barrier: Any, found: Any) -> None:
    """Label the clip twice, the second time together with the other processes."""
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    loaded = load_engine(engine, device=device)
    seconds = StageSeconds()
    started = 0.0
    for run in ("warm up", "measure"):
        if run == "measure":
            barrier.wait(START_TIMEOUT_S)
            seconds, started = StageSeconds(), time.perf_counter()
        with open_clip(clip, decode_threads=threads) as images:
            label_clip(
                loaded, clip, images=images, prompts="all" if engine.endswith("stcn") else "boxes", seconds=seconds
            )
    found.put(Share(time.perf_counter() - started, seconds.decode_wait, peak_gpu_bytes()))


def measure(clip: Clip, engine: str, processes: int, options: argparse.Namespace) -> dict[str, float]:
    """Run some processes side by side on one device."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(processes), context.Queue()
    threads = max(1, min(4, (os.cpu_count() or 1) // processes))
    args = (clip, engine, options.device, threads, barrier, found)
    workers = [context.Process(target=work, args=args, daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    shares = [found.get(timeout=START_TIMEOUT_S) for _ in workers]
    for worker in workers:
        worker.join()
    slowest = max(share.seconds for share in shares)
    return {
        "frames_per_s": processes * clip.num_frames / slowest,
        "decode_wait_share": sum(share.decode_wait_s for share in shares) / sum(share.seconds for share in shares),
        "gpu_bytes": max(share.gpu_bytes for share in shares),
        "threads": threads,
    }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--engines", nargs="+", default=["stcn", "guided"])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--size", default="480x854", metavar="HxW", help="of the frames")
    parser.add_argument("--frames", type=int, default=100, help="of the clip")
    options = parser.parse_args()
    if options.quick:
        options.engines, options.processes, options.size, options.frames = ["stcn"], [1, 2], "96x160", 8
    height, width = (int(side) for side in options.size.split("x"))
    ratios, numbers = dict[str, float](), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder), height, width, options.frames)
        for engine in options.engines:
            rows = {processes: measure(clip, engine, processes, options) for processes in options.processes}
            for processes, row in rows.items():
                print(
                    f"{engine}: {processes} on one device, {row['threads']} threads each: "
                    f"{row['frames_per_s']:.1f} frames/s, {row['decode_wait_share']:.3f} of the time waiting for "
                    f"frames, {row['gpu_bytes'] / 2**20:.0f} MiB of GPU memory each",
                    flush=True,
                )
                if processes > 1:
                    ratios[f"{engine}_{processes}_over_1"] = row["frames_per_s"] / rows[1]["frames_per_s"]
            numbers[engine] = rows
    finish(options, ratios, numbers)


if __name__ == "__main__":
    main()
