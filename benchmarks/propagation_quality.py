"""How good propagated masks are, on clips with true masks in the layout of DAVIS: the first mask of each object given.

Methods: `copy` repeats the first mask; `warp` carries it on by DIS flow from frame to frame; `stcn` is the engine with
the packaged weights, or with `--weights FILE`. Printed is the mean IoU of all frames after an object's first one, per
clip, then over clips (frames without the object and without a label count as 1, as in the benchmarks of DAVIS).

    python -m benchmarks.propagation_quality --clips DAVIS
    python -m benchmarks.propagation_quality --clips DAVIS --frames 300 --budgets none,50,10
                          clips played to and fro until they have 300 frames, with so many predicted frames in memory
    python -m benchmarks.propagation_quality --clips DAVIS --quick
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import arguments, finish
from rayvos.annotations.formats.davis import read_davis
from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import Engine, EngineNeeds, FrameReader, Label
from rayvos.engines.motion import dense_flow, flow_picture
from rayvos.engines.registry import load_engine
from rayvos.evaluation.jaccard import jaccard
from rayvos.masks.rle import rle_area, rle_to_mask
from rayvos.video.source import open_clip

QUICK_CLIPS, QUICK_FRAMES = 2, 8


class CopyEngine:
    """A lower bound: every frame has the first mask."""

    name, weights = "copy", ""

    def options(self) -> Mapping[str, Any]:
        """Return nothing: there is nothing to choose."""
        return {}

    def needs(self) -> EngineNeeds:
        """Return the cost of next to nothing."""
        return EngineNeeds(halo=None, seconds_per_frame=0.001, seconds_per_label=0.001)

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield the first masks."""
        masks = {mask.object_id: rle_to_mask(mask.rle, clip.height, clip.width) for mask in clip.masks if mask.rle}
        for frame in frames:
            for object_id in clip.object_ids():
                yield Label(frame, object_id, masks.get(object_id), 0.5)


class WarpEngine(CopyEngine):
    """A lower bound: the mask before, carried on by DIS flow."""

    name = "warp"

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield the carried masks; all must start on the first frame of `frames`."""
        maps: dict[int, NDArray[np.float32]] = {}
        before: NDArray[np.uint8] | None = None
        for frame, image in images.read(frames):
            grey, _ = flow_picture(image)
            size = (grey.shape[1], grey.shape[0])
            if before is not None:
                y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
                flow = dense_flow(grey, before)
                place = x + flow[..., 0], y + flow[..., 1]
                for object_id, carried in maps.items():
                    maps[object_id] = cv2.remap(carried, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for mask in clip.masks:
                if mask.frame == frame and mask.rle is not None:
                    given = rle_to_mask(mask.rle, clip.height, clip.width).astype(np.float32)
                    maps[mask.object_id] = cv2.resize(given, size, interpolation=cv2.INTER_AREA)
            before = grey
            for object_id in clip.object_ids():
                carried = maps.get(object_id)
                large = None if carried is None else cv2.resize(carried, (clip.width, clip.height)) > 0.5
                yield Label(frame, object_id, large, None if large is None else 0.5)


class ToAndFro:
    """A reader of a clip that is played forwards and backwards, again and again, until it is long enough."""

    def __init__(self, images: FrameReader, num_frames: int) -> None:
        self.height, self.width, self.num_frames = images.height, images.width, num_frames
        self._pictures = [image for _, image in images.read(range(images.num_frames))]

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, image)."""
        for frame in frames:
            yield frame, self._pictures[source_frame(frame, len(self._pictures))]

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> ToAndFro:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def source_frame(frame: int, length: int) -> int:
    """Return the frame of a clip of `length` frames that is shown when it is played to and fro."""
    period = max(1, 2 * (length - 1))
    place = frame % period
    return place if place < length else period - place


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    cv2.setNumThreads(1)
    clips = list(read_davis(options.clips))[: QUICK_CLIPS if options.quick else None]
    methods: dict[str, Engine] = {"copy": CopyEngine(), "warp": WarpEngine()} if options.frames is None else {}
    for budget in options.budgets:
        name = "stcn" if len(options.budgets) == 1 else f"stcn, budget {budget}"
        methods[name] = load_engine(
            "stcn", weights=options.weights, device="cpu", max_memory_frames=budget, direction="forward"
        )
    results = {name: measure(engine, clips, options) for name, engine in methods.items()}
    print(f"  {'clip':20} {'frames':>6} " + " ".join(f"{name:>16}" for name in methods))
    for clip in clips:
        row = " ".join(f"{results[name][0][clip.clip_id]:16.3f}" for name in methods)
        print(f"  {clip.clip_id:20} {length_of(clip, options):6} {row}")
    means = {name: float(np.mean(list(scores.values()))) for name, (scores, _) in results.items()}
    print(f"  {'mean of clips':27} " + " ".join(f"{mean:16.3f}" for mean in means.values()))
    print(f"  {'CPU seconds per frame':27} " + " ".join(f"{seconds:16.3f}" for _, seconds in results.values()))
    ratios = {f"{name.replace(', ', '_').replace(' ', '_')}_j": mean for name, mean in means.items()}
    if "warp" in means:
        ratios["stcn_over_warp"] = means["stcn"] / means["warp"]
    clips_found = {name: scores for name, (scores, _) in results.items()}
    finish(options, ratios, {"clips": clips_found, "frames": options.frames})


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--clips", required=True, metavar="DIR", help="folder with JPEGImages and Annotations")
    parser.add_argument("--weights", metavar="FILE", help="other weights than those of the package")
    parser.add_argument("--frames", type=int, help="play each clip to and fro until it has so many frames")
    parser.add_argument(
        "--budgets",
        type=lambda text: [None if part == "none" else int(part) for part in text.split(",")],
        default=[50],
        help="predicted frames in memory at most, several to compare",
    )
    return parser.parse_args()


def length_of(clip: Clip, options: argparse.Namespace) -> int:
    """Return the number of frames that a clip is measured on."""
    return min(QUICK_FRAMES, clip.num_frames) if options.quick else options.frames or clip.num_frames


def measure(engine: Engine, clips: list[Clip], options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Return the mean IoU of every clip, and the CPU seconds per frame (decoding included)."""
    scores: dict[str, float] = {}
    seconds, num_frames = 0.0, 0
    for clip in clips:
        truth = {(mask.frame, mask.object_id): mask for mask in clip.masks}
        length = length_of(clip, options)
        task = replace(clip, num_frames=length, masks=tuple(first_masks(clip)), boxes=(), points=(), traces=())
        starts = {mask.object_id: mask.frame for mask in task.masks}
        found = []
        with open_clip(clip) as opened:
            images = opened if options.frames is None else ToAndFro(opened, length)
            started = time.process_time()
            for label in engine.label(task, images, range(length)):
                if label.frame <= starts.get(label.object_id, length):
                    continue
                seconds += time.process_time() - started
                true = truth.get((source_frame(label.frame, clip.num_frames), label.object_id))
                if true is not None:
                    found.append(overlap(clip, true, label.mask))
                started = time.process_time()
            seconds += time.process_time() - started
        scores[clip.clip_id] = float(np.mean(found))
        num_frames += length
    return scores, seconds / num_frames


def first_masks(clip: Clip) -> Iterator[MaskPrompt]:
    """Yield each object's first mask that holds pixels."""
    seen = set()
    for mask in sorted(clip.masks, key=lambda mask: mask.frame):
        if mask.object_id not in seen and mask.rle is not None and rle_area(mask.rle, clip.height, clip.width):
            seen.add(mask.object_id)
            yield mask


def overlap(clip: Clip, true: MaskPrompt, mask: NDArray[np.bool_] | None) -> float:
    """Return the IoU of a label with the truth."""
    empty = np.zeros((clip.height, clip.width), np.bool_)
    expected = empty if true.rle is None else rle_to_mask(true.rle, clip.height, clip.width)
    return jaccard(expected, empty if mask is None else mask)


if __name__ == "__main__":
    main()
