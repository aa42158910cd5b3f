"""What the packaged calibration of the engine `guided` is worth: fitted on generated clips, judged on real ones.

The clips it is fitted on are generated with texture programs that no training saw; every second one has boxes drawn
5 % off. On the clips of `--clips` (layout of DAVIS, exact boxes) labels are compared with the truth before and after.

    python -m benchmarks.score_calibration --clips DAVIS
    python -m benchmarks.score_calibration --write rayvos/models/guided.calibration.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.label_quality import Hand, Measured, Method, measure
from benchmarks.reporting import arguments, finish
from rayvos.annotations.formats.davis import read_davis
from rayvos.engines.base import Engine
from rayvos.engines.registry import load_engine
from rayvos.engines.score_calibration import ScoreCalibration, write_calibration
from rayvos.evaluation.calibration import Calibration, calibration_from_pairs
from rayvos.evaluation.isotonic import fit_curve
from rayvos.training.guided_task import HELD_OUT_PROGRAMS
from rayvos.video.synthetic import SynthConfig
from rayvos.video.synthetic_set import SetSettings, write_set

SEED = 2_000_003  # neither training nor validation draws from it
NUM_CLIPS, NUM_FRAMES = 24, 10
JITTERS = (0.0, 0.05)  # of every second clip
SHOWN = ("spearman", "auroc", "expected_error", "mean_absolute_error")


def main() -> None:
    """Fit, judge and print."""
    parser = arguments(__doc__)
    parser.add_argument("--clips", metavar="DIR", help="real clips in the layout of DAVIS")
    parser.add_argument("--write", metavar="FILE", help="write the calibration there")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    method = Method(raw_engine)
    engine = method.make()
    fitted_on = generated_labels(method, 2 if options.quick else NUM_CLIPS)
    scores, ious = columns(fitted_on)
    knots, levels = fit_curve(scores, ious)
    calibration = ScoreCalibration(
        engine=engine.name, weights=engine.weights, scores=tuple(np.round(knots, 6).tolist()),
        ious=tuple(np.round(levels, 6).tolist()), num_masks=len(fitted_on),
    )  # fmt: skip
    numbers: dict[str, Any] = {"num_masks": len(fitted_on), "points": len(calibration.scores)}
    report("generated", fitted_on, calibration, numbers)
    if options.clips:
        clips = list(read_davis(options.clips))[: 1 if options.quick else None]
        found, _ = measure(method, clips, Hand(), 1)
        report("real", [label for labels in found.values() for label in labels], calibration, numbers)
    if options.write:
        write_calibration(calibration, options.write)
    finish(options, {name: value for name, value in numbers.items() if name.endswith("expected_error")}, numbers)


def raw_engine() -> Engine:
    """Return the engine with its own scores."""
    return load_engine("guided", calibration="none", device="cpu")


def generated_labels(method: Method, num_clips: int) -> list[Measured]:
    """Return labels of generated clips, measured."""
    config = SynthConfig(num_frames=NUM_FRAMES, height=300, width=480, num_objects=2, programs=HELD_OUT_PROGRAMS)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "clips")
        write_set(out, SetSettings(config, seed=SEED), num_clips)
        clips = list(read_davis(out))
        hands = [Hand(jitter=share) for share in JITTERS]
        measured = [measure(method, clips[part :: len(hands)], hand, 1)[0] for part, hand in enumerate(hands)]
    return [label for found in measured for labels in found.values() for label in labels]


def columns(labels: list[Measured]) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and IoUs."""
    return np.array([label.score for label in labels]), np.array([label.iou for label in labels])


def report(name: str, labels: list[Measured], calibration: ScoreCalibration, numbers: dict[str, Any]) -> None:
    """Print how well scores tell IoUs before and after, and note the numbers."""
    scores, ious = columns(labels)
    mapped = np.array([calibration.apply(float(score)) for score in scores])
    found: dict[str, Calibration] = {
        "before": calibration_from_pairs(scores, ious), "after": calibration_from_pairs(mapped, ious)
    }  # fmt: skip
    print(f"{name}: {len(labels)} masks, mean IoU {ious.mean():.3f}")
    for when, values in found.items():
        mean = (scores if when == "before" else mapped).mean()
        print(f"  {when:7} mean score {mean:.3f}  " + "  ".join(f"{key} {getattr(values, key):.3f}" for key in SHOWN))
        numbers |= {f"{name}_{when}_{key}": getattr(values, key) for key in SHOWN}


if __name__ == "__main__":
    main()
