"""How good masks from boxes are, on clips with true masks in the layout of DAVIS.

Boxes are the tight boxes of the true masks; `--jitter` moves their sides as a hurried person draws them, `--loose`
moves them outwards, as a cautious one does. Labels are compared with the truth: mean IoU, share of labels with at least
0.5 and 0.7, boundary F; and of the score, the rank correlation with the IoU and how well it finds labels below 0.7
(AUROC). Numbers are means over the labels of a clip, then over clips; those of the score are over all labels. Masks
below 51 pixels are left out.

    python -m benchmarks.label_quality --clips DAVIS
    python -m benchmarks.label_quality --clips DAVIS --methods cut,guided --jitter 0 0.05 0.15 --step 4
    python -m benchmarks.label_quality --clips DAVIS --methods cut,guided --jitter --loose 0.05 0.1 0.2 --step 4
    python -m benchmarks.label_quality --clips DAVIS --methods cut,box2seg,my.package:Engine
    python -m benchmarks.label_quality --clips DAVIS --methods guided,propagated,adapted,finetuned-middle

`adapted` learns from each clip's boxes (`adapted-fully` goes all the way, see `adapt_share` of the engine),
`propagated` carries its own best masks through the clip, `finetuned-first` and `finetuned-middle` learn from one true
mask of each object, as a person would draw it, on the first or the middle frame that shows the object; that frame is
not counted.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import arguments, finish
from rayvos.annotations.formats.davis import read_davis
from rayvos.annotations.records import Box, Clip
from rayvos.engines.base import Engine, EngineNeeds, FrameReader, Label
from rayvos.engines.finetune import FinetuneMasks, tuning_masks
from rayvos.engines.registry import load_engine
from rayvos.evaluation.boundary_f import boundary_f
from rayvos.evaluation.calibration import Calibration, calibration_from_pairs
from rayvos.evaluation.jaccard import jaccard
from rayvos.masks.boxes import jitter_box, loosen_box, round_box
from rayvos.masks.rle import rle_area, rle_box, rle_to_mask
from rayvos.video.source import open_clip

SMALLEST_TRUTH = 51  # pixels
QUICK_STEP = 16
DEFAULT_METHODS = ["box", "ellipse", "grabcut", "cut", "guided"]


class ShapeEngine:
    """The lower bounds: the mask is the box, or the ellipse in it."""

    weights = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def options(self) -> Mapping[str, Any]:
        """Return nothing: there is nothing to choose."""
        return {}

    def needs(self) -> EngineNeeds:
        """Return the cost of next to nothing."""
        return EngineNeeds(halo=0, seconds_per_frame=0.001, seconds_per_label=0.001)

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield the shapes."""
        boxes = {(box.frame, box.object_id): box for box in clip.boxes}
        for frame in frames:
            for object_id in clip.object_ids():
                box = boxes.get((frame, object_id))
                mask = None if box is None else self._draw(box, clip.height, clip.width)
                yield Label(frame, object_id, mask, None if box is None else 0.5)

    def _draw(self, box: Box, height: int, width: int) -> NDArray[np.bool_]:
        mask = np.zeros((height, width), np.bool_)
        pixels = round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), height, width)
        if pixels is not None:
            x0, y0, x1, y1 = pixels
            y, x = np.ogrid[y0:y1, x0:x1]
            distance = ((2 * x + 1 - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y + 1 - y0 - y1) / (y1 - y0)) ** 2
            mask[y0:y1, x0:x1] = True if self.name == "box" else distance <= 1
        return mask


def boxes_only(clip: Clip, boxes: tuple[Box, ...]) -> Clip:
    """Return the clip with the boxes and nothing else: an engine that looked at the truth would be no comparison."""
    return replace(clip, boxes=boxes, masks=(), points=(), traces=())


@dataclass(frozen=True, slots=True)
class Method:
    """What is compared: an engine, and what of a clip it may see."""

    make: Callable[[], Engine]
    show: Callable[[Clip, tuple[Box, ...]], Clip] = boxes_only
    """Takes the clip with its true masks, and the boxes; methods that are given a mask say so in their name."""


def with_one_mask(choice: FinetuneMasks) -> Callable[[Clip, tuple[Box, ...]], Clip]:
    """Return what shows boxes and, of each object, the mask of its first or its middle frame."""

    def show(clip: Clip, boxes: tuple[Box, ...]) -> Clip:
        boxed = {(box.frame, box.object_id) for box in boxes}
        seen = replace(clip, boxes=boxes, masks=tuple(m for m in clip.masks if (m.frame, m.object_id) in boxed))
        masks = [mask for object_id in clip.object_ids() for mask in tuning_masks(seen, object_id, choice)]
        return replace(boxes_only(clip, boxes), masks=tuple(masks))

    return show


METHODS: dict[str, Method] = {
    "box": Method(lambda: ShapeEngine("box")),
    "ellipse": Method(lambda: ShapeEngine("ellipse")),
    "grabcut": Method(lambda: load_engine("cut", cues="color")),
    "adapted": Method(lambda: load_engine("guided", adapt=True)),
    "adapted-fully": Method(lambda: load_engine("guided", adapt=True, adapt_share=1.0)),
    "propagated": Method(lambda: load_engine("guided", propagate=True)),
    "finetuned-first": Method(lambda: load_engine("guided", finetune="first"), with_one_mask("first")),
    "finetuned-middle": Method(lambda: load_engine("guided", finetune="middle"), with_one_mask("middle")),
}
"""Methods that are no engine of their own; any other name is one of `rayvos.engines.registry`, with boxes only."""


@dataclass(frozen=True, slots=True)
class Hand:
    """How somebody draws boxes."""

    jitter: float = 0.0
    """Standard deviation of every side, as a share of the box."""
    loose: float = 0.0
    """How far every side lies outside the object, as a share of the box."""

    def __str__(self) -> str:
        """Say it in words."""
        return f"loose by {self.loose:g}" if self.loose else f"with jitter {self.jitter:g}"

    @property
    def suffix(self) -> str:
        """Of the names of results; empty for exact boxes."""
        if self.loose:
            return f"_loose_{self.loose:g}"
        return f"_jitter_{self.jitter:g}" if self.jitter else ""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over labels."""

    iou: float
    recall_50: float
    recall_70: float
    boundary_f: float
    num_labels: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One label against the truth."""

    iou: float
    boundary_f: float
    score: float


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    # One thread: the time printed is that of one core, as a worker of a job has it.
    cv2.setNumThreads(1)
    step = QUICK_STEP if options.quick else options.step
    clips = list(read_davis(options.clips))
    means: dict[tuple[str, Hand], float] = {}
    results: dict[str, Any] = {}
    for hand in [*(Hand(jitter=share) for share in options.jitter), *(Hand(loose=share) for share in options.loose)]:
        for method in options.methods:
            chosen = METHODS.get(method) or Method(
                lambda name=method: load_engine(name, weights=options.weights.get(name))
            )
            labels, seconds = measure(chosen, clips, hand, step)
            per_clip = {clip_id: summarize(found) for clip_id, found in labels.items()}
            overall = mean_of_clips(per_clip)
            pooled = [label for found in labels.values() for label in found]
            seconds_per_label = seconds / max(1, len(pooled))
            calibration = calibrate(pooled)
            report(method, hand, per_clip, overall, calibration, seconds_per_label)
            means[method, hand] = overall.iou
            results[method + hand.suffix] = {
                "overall": asdict(overall),
                "clips": {clip_id: asdict(quality) for clip_id, quality in per_clip.items()},
                "spearman": calibration and calibration.spearman,
                "auroc_below_70": calibration and calibration.auroc,
                "seconds_per_label": seconds_per_label,
            }
    finish(options, ratios(means), {"step": step, "results": results})


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = arguments(__doc__)
    parser.add_argument("--clips", required=True, metavar="DIR", help="folder with JPEGImages and Annotations")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=DEFAULT_METHODS)
    parser.add_argument(
        "--weights", type=lambda text: tuple(text.split("=", 1)), action="append", default=[], metavar="METHOD=FILE",
        help="weights of an engine among the methods",
    )  # fmt: skip
    parser.add_argument("--jitter", type=float, nargs="*", default=[0.0], help="shares of the box, as 0 0.05 0.15")
    parser.add_argument("--loose", type=float, nargs="*", default=[], help="shares of the box, as 0.05 0.1 0.2")
    parser.add_argument("--step", type=int, default=1, help="label every n-th frame only; scores then lack a term")
    options = parser.parse_args()
    options.weights = dict(options.weights)
    return options


def measure(method: Method, clips: list[Clip], hand: Hand, step: int) -> tuple[dict[str, list[Measured]], float]:
    """Return the measured labels of every clip, and the seconds the engine took (decoding included)."""
    engine = method.make()
    measured: dict[str, list[Measured]] = {}
    seconds = 0.0
    for clip in clips:
        truth = {
            (mask.frame, mask.object_id): mask.rle
            for mask in clip.masks
            if mask.rle is not None
            and mask.frame % step == 0
            and rle_area(mask.rle, clip.height, clip.width) >= SMALLEST_TRUTH
        }
        boxes = tuple(draw_box(clip, *place, rle, hand) for place, rle in truth.items())
        task = method.show(clip, boxes)
        for mask in task.masks:
            del truth[mask.frame, mask.object_id]  # given, so nothing is left to find there
        measured[clip.clip_id] = []
        started = time.perf_counter()
        with open_clip(task) as images:
            for label in engine.label(task, images, range(clip.num_frames)):
                rle = truth.get((label.frame, label.object_id))
                if rle is not None and label.mask is not None and label.score is not None:
                    seconds += time.perf_counter() - started
                    true = rle_to_mask(rle, clip.height, clip.width)
                    found = Measured(jaccard(true, label.mask), boundary_f(true, label.mask), label.score)
                    measured[clip.clip_id].append(found)
                    started = time.perf_counter()
        seconds += time.perf_counter() - started
        assert len(measured[clip.clip_id]) == len(truth), "a label for every box"
    return measured, seconds


def draw_box(clip: Clip, frame: int, object_id: int, rle: bytes, hand: Hand) -> Box:
    """Return the box a person would draw; its jitter depends on the clip, the frame and the object alone."""
    tight = rle_box(rle, clip.height, clip.width)
    assert tight is not None, "masks without pixels are left out"
    drawn = tight
    if hand.jitter:
        generator = np.random.default_rng([zlib.crc32(clip.clip_id.encode()), frame, object_id])
        drawn = jitter_box(tight, hand.jitter, clip.height, clip.width, generator)
    elif hand.loose:
        drawn = loosen_box(tight, hand.loose, clip.height, clip.width)
    x0, y0, x1, y1 = drawn.tolist()
    return Box(object_id, frame, x0, y0, x1, y1)


def summarize(labels: list[Measured]) -> Quality:
    """Return the means over labels."""
    iou = np.array([label.iou for label in labels])
    return Quality(
        iou=float(iou.mean()),
        recall_50=float((iou >= 0.5).mean()),
        recall_70=float((iou >= 0.7).mean()),
        boundary_f=float(np.mean([label.boundary_f for label in labels])),
        num_labels=len(labels),
    )


def mean_of_clips(clips: Mapping[str, Quality]) -> Quality:
    """Return the means over clips."""
    found = list(clips.values())
    return Quality(
        iou=float(np.mean([quality.iou for quality in found])),
        recall_50=float(np.mean([quality.recall_50 for quality in found])),
        recall_70=float(np.mean([quality.recall_70 for quality in found])),
        boundary_f=float(np.mean([quality.boundary_f for quality in found])),
        num_labels=sum(quality.num_labels for quality in found),
    )


def calibrate(labels: list[Measured]) -> Calibration | None:
    """Return how well scores tell IoUs, over all labels; None where all scores are equal."""
    if len({label.score for label in labels}) < 2:
        return None
    return calibration_from_pairs([label.score for label in labels], [label.iou for label in labels])


def ratios(means: Mapping[tuple[str, Hand], float]) -> dict[str, float]:
    """Return the mean IoU of every method, and each against guarded GrabCut with the same boxes."""
    found = {f"{method}{hand.suffix}_iou": mean for (method, hand), mean in means.items()}
    for (method, hand), mean in means.items():
        base = means.get(("grabcut", hand))
        if method != "grabcut" and base:
            found[f"{method}_over_grabcut{hand.suffix}"] = mean / base
    return found


def report(
    method: str,
    hand: Hand,
    clips: Mapping[str, Quality],
    overall: Quality,
    calibration: Calibration | None,
    seconds_per_label: float,
) -> None:
    """Print one method's table."""
    score = ""
    if calibration is not None:
        score = f", score: Spearman {calibration.spearman:.2f}, AUROC below 0.7 {calibration.auroc:.2f}"
    print(f"{method}, boxes {hand}: {1000 * seconds_per_label:.0f} ms a label{score}")
    print(f"  {'clip':24} {'labels':>6} {'IoU':>6} {'r@50':>6} {'r@70':>6} {'F':>6}")
    for name, row in [*clips.items(), ("mean of clips", overall)]:
        numbers = f"{row.iou:6.3f} {row.recall_50:6.2f} {row.recall_70:6.2f} {row.boundary_f:6.3f}"
        print(f"  {name:24} {row.num_labels:6} {numbers}")
    print(flush=True)


if __name__ == "__main__":
    main()
