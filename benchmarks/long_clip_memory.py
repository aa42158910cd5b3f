"""Peak memory of a worker on a clip of 3,000 frames against that on 100 frames of the same video.

Claim: at most 1.1 times. Each side is a process of its own that labels the whole clip in one go, without the
planner's help (which would cut it into units), from an H.264 file.

    python -m benchmarks.long_clip_memory
    python -m benchmarks.long_clip_memory --quick
    python -m benchmarks.long_clip_memory --engine sta --weights FILE --option height=64 --option width=96
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.reporting import arguments, finish
from rayvos.annotations.records import Box, Clip, ClipSource, ObjectInfo
from rayvos.engines.labeling import label_clip
from rayvos.engines.options import parse_options
from rayvos.engines.registry import EngineChoice
from rayvos.video.synthetic import SynthConfig, generate_clip

HEIGHT, WIDTH = 480, 854


def write_video(path: Path, num_frames: int) -> tuple[Box, ...]:
    """Write a generated clip, played forth and back until it is long enough, and return its boxes."""
    made = generate_clip(3, 0, SynthConfig(num_frames=24, height=HEIGHT, width=WIDTH, num_objects=1))
    shown = {box.frame: box for box in made.boxes}
    order = [*range(24), *range(22, 0, -1)]
    boxes = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "g": "30"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in range(num_frames):
            source = order[frame % len(order)]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(made.images[source]))))
            box = shown[source]
            boxes.append(Box(1, frame, box.x0, box.y0, box.x1, box.y1, box.visible))
        container.mux(stream.encode())
    return tuple(boxes)


def _peak(engine: EngineChoice, path: str, boxes: tuple[Box, ...]) -> tuple[float, float, int]:
    """Label the clip in this process; return its peak memory in MiB, its seconds, and the labels."""
    cv2.setNumThreads(1)
    source = ClipSource("video", path)
    clip = Clip("clip", source, HEIGHT, WIDTH, len(boxes), objects=(ObjectInfo(1),), boxes=boxes)
    started = time.perf_counter()
    labels = label_clip(engine.load(), clip).num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return peak, time.perf_counter() - started, labels


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--engine", default="cut", help="engine by name, or package.module:Class")
    parser.add_argument("--weights", help="weights of the engine")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the engine")
    options = parser.parse_args()
    engine = EngineChoice(options.engine, parse_options(options.option), options.weights, "cpu")
    short, long = (50, 200) if options.quick else (100, 3000)
    found = {}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        for num_frames in (short, long):
            path = Path(temporary) / f"{num_frames}.mp4"
            boxes = write_video(path, num_frames)
            with context.Pool(1) as pool:  # a fresh process, so that its peak is this clip's
                found[num_frames] = pool.apply(_peak, (engine, str(path), boxes))
            peak, seconds, labels = found[num_frames]
            print(f"{num_frames:>6} frames  peak {peak:.0f} MiB, {labels} labels in {seconds:.1f} s")
    ratio = found[long][0] / found[short][0]
    finish(
        options, {"long_clip_memory": ratio}, {"peaks_mib": {frames: peak for frames, (peak, _, _) in found.items()}}
    )


if __name__ == "__main__":
    main()
