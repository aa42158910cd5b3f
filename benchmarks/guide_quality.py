"""How good masks of one frame are that come from a trace, points or a box: where `rayvos candidates` starts from.

Prompts are simulated from true masks, in the layout of DAVIS: a hand that wanders over the object, as in generated
clips; up to ten points on it and ten beside it, 20 px apart; its tight box. Every guide sees the same prompts, one kind
at a time. Printed is the mean IoU of the frames that were asked for, per clip, then over clips.

    python -m benchmarks.guide_quality --clips DAVIS
    python -m benchmarks.guide_quality --clips DAVIS --quick
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np

from benchmarks.reporting import arguments, finish
from rayvos.annotations.formats.davis import read_davis
from rayvos.annotations.records import Box, Clip, MaskPrompt, Point
from rayvos.engines.base import Engine
from rayvos.engines.registry import load_engine
from rayvos.evaluation.jaccard import jaccard
from rayvos.masks.points import evenly_spaced_frames, sample_points
from rayvos.masks.rle import rle_area, rle_to_mask
from rayvos.video.source import open_clip
from rayvos.video.synthetic import draw_trace

GUIDES, KINDS = ("scribble", "guided"), ("trace", "points", "box")
NUM_POINTS, DISTANCE_PX = 10, 20.0  # Point-VOS
QUICK_CLIPS = 1


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    cv2.setNumThreads(1)
    clips = list(read_davis(options.clips))[: QUICK_CLIPS if options.quick else None]
    guides: dict[str, Engine] = {
        "scribble": load_engine("scribble"), "guided": load_engine("guided", weights=options.weights)
    }  # fmt: skip
    print(f"  {'clip':20} " + " ".join(f"{f'{kind}, {name}':>17}" for kind in KINDS for name in GUIDES))
    rows = []
    for clip in clips:
        masks = prompted_masks(clip, 1 if options.quick else options.frames)
        rows.append([measure(guides[name], clip, masks, kind) for kind in KINDS for name in GUIDES])
        print(f"  {clip.clip_id:20} " + " ".join(f"{value:17.3f}" for value in rows[-1]))
    means = np.mean(rows, axis=0).tolist()
    print(f"  {'mean of clips':20} " + " ".join(f"{value:17.3f}" for value in means))
    names = [f"{kind}_{name}_iou" for kind in KINDS for name in GUIDES]
    finish(options, dict(zip(names, means, strict=True)), {"clips": [clip.clip_id for clip in clips], "rows": rows})


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--clips", required=True, metavar="DIR", help="folder with JPEGImages and Annotations")
    parser.add_argument("--weights", metavar="FILE", help="of guided, other than those of the package")
    parser.add_argument("--frames", type=int, default=5, help="prompted frames of each clip, evenly spaced")
    return parser.parse_args()


def prompted_masks(clip: Clip, num_frames: int) -> list[MaskPrompt]:
    """Return the true masks of some frames, evenly spaced, that hold pixels."""
    frames = set(evenly_spaced_frames(clip.num_frames, num_frames, "midpoints"))
    return [m for m in clip.masks if m.frame in frames and m.rle and rle_area(m.rle, clip.height, clip.width)]


def measure(guide: Engine, clip: Clip, masks: list[MaskPrompt], kind: str) -> float:
    """Return the mean IoU of a guide's masks, each frame asked alone, as `rayvos candidates` does."""
    truth = {(mask.frame, mask.object_id): true_mask(clip, mask) for mask in masks}
    found = []
    with open_clip(clip) as images:
        for frame in sorted({mask.frame for mask in masks}):
            asked = prompted(clip, [mask for mask in masks if mask.frame == frame], kind)
            for label in guide.label(asked, images, range(frame, frame + 1)):
                if (frame, label.object_id) in truth:
                    true = truth[frame, label.object_id]
                    found.append(jaccard(true, np.zeros_like(true) if label.mask is None else label.mask))
    return float(np.mean(found))


def true_mask(clip: Clip, mask: MaskPrompt) -> np.ndarray:
    """Return a mask that holds pixels."""
    assert mask.rle is not None, "chosen by its area"
    return rle_to_mask(mask.rle, clip.height, clip.width)


def prompted(clip: Clip, masks: list[MaskPrompt], kind: str) -> Clip:
    """Return the clip with one kind of prompt, and nothing else that is known of it."""
    bare = replace(clip, boxes=(), masks=(), points=(), traces=())
    if kind == "box":
        return replace(bare, boxes=tuple(tight_box(clip, mask) for mask in masks))
    if kind == "points":
        return replace(bare, points=tuple(point for mask in masks for point in simulated_points(clip, mask)))
    rngs = [np.random.default_rng(seed_of(clip, mask)) for mask in masks]
    drawn = [draw_trace(rng, true_mask(clip, m), m.object_id, m.frame) for rng, m in zip(rngs, masks, strict=True)]
    return replace(bare, traces=tuple(drawn))


def tight_box(clip: Clip, mask: MaskPrompt) -> Box:
    """Return the box around a mask, as pixel edges."""
    y, x = np.nonzero(true_mask(clip, mask))
    return Box(mask.object_id, mask.frame, float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))


def simulated_points(clip: Clip, mask: MaskPrompt) -> Iterator[Point]:
    """Yield points on an object and beside it."""
    true = true_mask(clip, mask)
    for region, label in ((true, "positive"), (~true, "negative")):
        seed = seed_of(clip, mask)
        for x, y in sample_points(region, NUM_POINTS, distance_px=DISTANCE_PX, seed=seed).tolist():
            yield Point(mask.object_id, mask.frame, x, y, label)


def seed_of(clip: Clip, mask: MaskPrompt) -> int:
    """Return a number that a clip, a frame and an object have on every machine."""
    return zlib.crc32(f"{clip.clip_id}/{mask.frame}/{mask.object_id}".encode())


if __name__ == "__main__":
    main()
