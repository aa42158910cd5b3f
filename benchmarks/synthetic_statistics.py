"""How hard generated objects are, beside real ones: two statistics that need no network.

*Fill* is mask area over box area. *Colour AUC* tells how well colour alone separates an object from what else its box
holds: the log ratio of smoothed Lab histograms inside and outside the box, as a score of the box's pixels.

    python benchmarks/synthetic_statistics.py --clips 60

prints a table and JSON; real clips come from the folder RAYVOS_REAL_CLIPS (default ../shared/data/real_clips).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rayvos.video.synthetic import SynthConfig, generate_clip

BINS = 12
MARGIN = 0.25
SMALLEST_SIDE = 16  # boxes below it say nothing about texture


def colour_auc(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return (fill, colour AUC) of a mask (height, width) in its RGB image; None where its box is too small."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size < SMALLEST_SIDE or columns.size < SMALLEST_SIDE:
        return None
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    pad_x, pad_y = max(8, int(MARGIN * (x1 - x0))), max(8, int(MARGIN * (y1 - y0)))
    crop = (slice(max(0, y0 - pad_y), y1 + pad_y), slice(max(0, x0 - pad_x), x1 + pad_x))
    inside = np.zeros(mask.shape, bool)
    inside[y0:y1, x0:x1] = True
    lab = cv2.cvtColor(image[crop], cv2.COLOR_RGB2LAB).astype(np.float32)
    low, high = lab.min(axis=(0, 1)), lab.max(axis=(0, 1))
    cells = np.minimum((lab - low) / np.maximum(high - low, 1) * BINS, BINS - 1).astype(int)
    flat = (cells[..., 0] * BINS + cells[..., 1]) * BINS + cells[..., 2]
    within = inside[crop]
    scores = np.log(_histogram(flat[within]) / _histogram(flat[~within]))[flat]
    truth = mask[crop]
    if truth[within].all():
        return None
    return float(mask.sum() / ((x1 - x0) * (y1 - y0))), _auc(scores[within & truth], scores[within & ~truth])


def _histogram(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.bincount(cells, minlength=BINS**3).astype(np.float64).reshape(BINS, BINS, BINS)
    for axis in range(3):
        padded = np.pad(counts, [(1, 1) if a == axis else (0, 0) for a in range(3)])
        counts = sum(np.take(padded, range(i, BINS + i), axis) * w for i, w in enumerate((0.25, 0.5, 0.25)))
    counts = counts.ravel() + 1e-3
    return counts / counts.sum()


def _auc(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Return the chance that a positive scores above a negative, ties counted half."""
    values, inverse = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    above = np.bincount(inverse[: positive.size], minlength=values.size)
    below = np.bincount(inverse[positive.size :], minlength=values.size)
    wins = (above * (np.cumsum(below) - below / 2)).sum()
    return float(wins / (positive.size * negative.size))


def real_samples(folder: Path, stride: int = 6) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield (clip, image, mask) of the DAVIS clips in a folder."""
    for clip in sorted((folder / "DAVIS/Annotations/480p").iterdir()):
        for path in sorted(clip.glob("*.png"))[::stride]:
            picture = folder / "DAVIS/JPEGImages/480p" / clip.name / f"{path.stem}.jpg"
            yield clip.name, np.array(Image.open(picture).convert("RGB")), np.array(Image.open(path)) > 0


def generated_samples(
    seed: int, num_clips: int, config: SynthConfig
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield (clip, image, mask) of every object on the frames of generated clips."""
    for index in range(num_clips):
        clip = generate_clip(seed, index, config)
        for frame in range(0, len(clip.images), 6):
            for known in clip.objects:
                yield clip.clip_id, clip.images[frame], clip.mask(known.object_id, frame)


def summary(samples: Iterator[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]]) -> dict[str, float]:
    """Return means over clips, and percentiles over samples."""
    by_clip: dict[str, list[tuple[float, float]]] = {}
    for name, image, mask in samples:
        found = colour_auc(image, mask)
        if found is not None:
            by_clip.setdefault(name, []).append(found)
    every = np.array([pair for pairs in by_clip.values() for pair in pairs])
    means = np.array([np.mean(pairs, axis=0) for pairs in by_clip.values()]).mean(axis=0)
    fill, auc = np.percentile(every, [10, 50, 90], axis=0).T
    names = ("fill", "fill_p10", "fill_p50", "fill_p90", "auc", "auc_p10", "auc_p50", "auc_p90", "samples")
    values = (means[0], *fill, means[1], *auc, len(every))
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    default = Path(__file__).parents[1] / "../shared/data/real_clips"
    real = Path(os.environ.get("RAYVOS_REAL_CLIPS", default))
    config = SynthConfig(num_frames=options.frames)
    started = time.process_time()
    for index in range(4):
        generate_clip(options.seed, index, config)
    cost_ms = (time.process_time() - started) / (4 * options.frames) * 1e3
    rows = {"generated": summary(generated_samples(options.seed, options.clips, config))}
    if real.is_dir():
        rows["real"] = summary(real_samples(real))
    else:
        print(f"no real clips: {real} does not exist; set RAYVOS_REAL_CLIPS")
    for name, row in rows.items():
        print(f"{name:10}", *(f"{key} {value:.3f}" for key, value in row.items()), sep="  ")
    print(json.dumps({"ms_per_frame": round(cost_ms, 1), **rows}))


if __name__ == "__main__":
    main()
