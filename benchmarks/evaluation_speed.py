"""How fast J and F are computed: against a plain implementation of the official algorithm, and on two processes.

    python -m benchmarks.evaluation_speed [--quick] [--json FILE]

Clips of 480x854 with three objects each are generated. The plain side does what the official tools do: one object
after the other, masks of the whole image, boundaries dilated by a disk over the whole image (`cv2.dilate`, which is
what davis2017-evaluation calls). Both sides run on one core in turns and must give the same numbers.

`evaluation_speed` times the scoring of label maps right after they were decoded, in CPU seconds. The same with reading
and decoding the PNG files on both sides is printed, too: decoding (zlib) is the same work on both sides and bounds
that ratio. `evaluation_two_processes` times `evaluate()` on folders of PNG files, decoding included, in wall-clock
seconds: one process against two, starting the two included. It says nothing while other work uses the cores.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import arguments, finish
from rayvos.annotations.formats.label_maps import read_label_map, write_label_map
from rayvos.evaluation.frame_scores import score_objects
from rayvos.evaluation.mask_frames import LabelMapFrame
from rayvos.evaluation.outlines import boundary_radius
from rayvos.evaluation.png_source import open_pngs
from rayvos.evaluation.protocols import Davis2017
from rayvos.evaluation.scoring import evaluate
from rayvos.evaluation.tasks import keep_freed_memory, run_here, run_in_processes

HEIGHT, WIDTH, NUM_OBJECTS = 480, 854, 3
Ids = NDArray[np.uint8]
T = TypeVar("T")


def draw_blob(ids: Ids, value: int, centre: NDArray[np.float64], radius: float, waves: NDArray[np.float64]) -> None:
    """Fill a closed curve whose distance from its centre is a sum of waves."""
    angles = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    orders = np.arange(2, 2 + waves.shape[1])[:, None]
    distance = radius * (1 + (waves[0][:, None] * np.cos(orders * angles + waves[1][:, None])).sum(axis=0))
    outline = centre + distance[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(ids, [np.round(outline).astype(np.int32)], value)


def draw_clip(seed: int, num_frames: int) -> list[tuple[Ids, Ids]]:
    """Return (truth, prediction) label maps: moving blobs, and the same blobs with other edges, somewhat shifted."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform((150, 110), (WIDTH - 150, HEIGHT - 110), (NUM_OBJECTS, 2))
    steps = rng.normal(0, 2, (NUM_OBJECTS, 2))
    radii = rng.uniform(45, 110, NUM_OBJECTS)  # 1.5 to 9 % of the image
    waves = np.stack([rng.normal(0, 0.07, (NUM_OBJECTS, 8)), rng.uniform(0, 2 * np.pi, (NUM_OBJECTS, 8))], axis=1)
    frames = []
    for frame in range(num_frames):
        truth, mask = np.zeros((2, HEIGHT, WIDTH), np.uint8)
        for index in range(NUM_OBJECTS):
            centre = starts[index] + frame * steps[index]
            draw_blob(truth, index + 1, centre, radii[index], waves[index])
            noise = np.stack([rng.normal(0, 0.02, 8), np.zeros(8)])
            draw_blob(mask, index + 1, centre + rng.normal(0, 2, 2), radii[index], waves[index] + noise)
        frames.append((truth, mask))
    return frames


def plain_boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the boundary map, over the whole image."""
    right, below, diagonal = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    right[:, :-1] = mask[:, 1:]
    below[:-1] = mask[1:]
    diagonal[:-1, :-1] = mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def plain_score(truth: NDArray[np.bool_], mask: NDArray[np.bool_], disk: NDArray[np.uint8]) -> tuple[float, float]:
    """Return J and F of one object, over the whole image."""
    union = np.sum(truth | mask)
    jaccard = np.sum(truth & mask) / union if union else 1.0
    true_edge, mask_edge = plain_boundary(truth), plain_boundary(mask)
    true_reach = cv2.dilate(true_edge.astype(np.uint8), disk)
    mask_reach = cv2.dilate(mask_edge.astype(np.uint8), disk)
    num_true, num_mask = np.sum(true_edge), np.sum(mask_edge)
    if num_true == 0 or num_mask == 0:
        return float(jaccard), float(num_true == num_mask)
    precision = np.sum(mask_edge * true_reach) / num_mask
    recall = np.sum(true_edge * mask_reach) / num_true
    total = precision + recall
    return float(jaccard), float(2 * precision * recall / total) if total else 0.0


def plain_side(pair: tuple[Ids, Ids], disk: NDArray[np.uint8]) -> list[tuple[float, float]]:
    """Score all objects of a frame, one after the other."""
    return [plain_score(pair[0] == value, pair[1] == value, disk) for value in range(1, NUM_OBJECTS + 1)]


def our_side(pair: tuple[Ids, Ids], radius: int) -> list[tuple[float, float]]:
    """Score all objects of a frame with rayvos."""
    truth, mask = (LabelMapFrame(ids) for ids in pair)
    return [(score.j, score.f) for score in score_objects(truth, mask, range(1, NUM_OBJECTS + 1), radius)]


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what `work` returns and the CPU seconds it takes."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def measure_one_core(folder: Path, clips: list[str], rounds: int) -> dict[str, float]:
    """Time decoding and both sides frame by frame and check that they agree; the best round of each frame counts.

    Each side scores label maps that were decoded right before, as it is in use.
    """
    keep_freed_memory()  # as `evaluate` does; it serves both sides
    radius = boundary_radius(HEIGHT, WIDTH)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    files = [
        (folder / "gt" / clip / path.name, path)
        for clip in clips
        for path in sorted((folder / "pred" / clip).iterdir())
    ]
    times = np.full((3, len(files)), np.inf)
    for _ in range(rounds):
        for number, (truth, mask) in enumerate(files):

            def decode(truth: Path = truth, mask: Path = mask) -> tuple[Ids, Ids]:
                return read_label_map(str(truth)).ids, read_label_map(str(mask)).ids

            pair, decoding = timed(decode)
            plain, plain_s = timed(lambda pair=pair: plain_side(pair, disk))
            pair = decode()
            ours, ours_s = timed(lambda pair=pair: our_side(pair, radius))
            assert np.abs(np.array(plain) - np.array(ours)).max() <= 1e-12, "both sides must give the same numbers"
            times[:, number] = np.minimum(times[:, number], (plain_s, ours_s, decoding))
    plain_s, ours_s, decode_s = times.sum(axis=1).tolist()
    num_masks = len(files) * NUM_OBJECTS
    return {
        "masks": num_masks,
        "plain_ms_per_mask": 1000 * plain_s / num_masks,
        "ours_ms_per_mask": 1000 * ours_s / num_masks,
        "decode_ms_per_mask": 1000 * decode_s / num_masks,
        "ratio_scoring": plain_s / ours_s,
        "ratio_with_decoding": (plain_s + decode_s) / (ours_s + decode_s),
    }


def measure_two_processes(folder: Path, num_frames: int, rounds: int) -> dict[str, float]:
    """Time `evaluate()` on one process and on two, in turns; the best round of each counts."""
    truth, prediction = open_pngs(str(folder / "gt")), open_pngs(str(folder / "pred"))
    seconds = {1: np.inf, 2: np.inf}
    summaries = {}
    for _ in range(rounds):
        for workers, run in ((1, run_here), (2, run_in_processes(2))):
            start = time.perf_counter()
            summaries[workers] = evaluate(truth, prediction, Davis2017(), run=run).summary
            seconds[workers] = min(seconds[workers], time.perf_counter() - start)
    assert summaries[1] == summaries[2], "one process and two must give the same numbers"
    return {"frames": num_frames, "one_s": seconds[1], "two_s": seconds[2], "ratio": seconds[1] / seconds[2]}


def write_clips(folder: Path, num_clips: int, num_frames: int, copies: int) -> list[str]:
    """Write label maps as PNG files; copies of a clip are links to its files."""
    names = []
    for number in range(num_clips):
        for copy in range(copies):
            names.append(f"clip{number:02d}_{copy:02d}")
            for side in ("gt", "pred"):
                (folder / side / names[-1]).mkdir(parents=True)
        first = names[-copies]
        for frame, pair in enumerate(draw_clip(number, num_frames)):
            for side, ids in zip(("gt", "pred"), pair, strict=True):
                path = folder / side / first / f"{frame:05d}.png"
                write_label_map(str(path), ids)
                for name in names[len(names) - copies + 1 :]:
                    os.link(path, folder / side / name / path.name)
    return names


def main() -> None:
    """Run both comparisons."""
    options = arguments(__doc__ or "").parse_args()
    cv2.setNumThreads(1)
    num_clips, num_frames, copies, rounds = (3, 10, 10, 10) if options.quick else (8, 25, 40, 10)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = write_clips(folder, num_clips, num_frames, copies)
        one_core = measure_one_core(folder, clips[::copies], rounds)
        processes = measure_two_processes(folder, len(clips) * num_frames, 1 if options.quick else 2)
    print(f"{HEIGHT}x{WIDTH}, {one_core['masks']} masks of {NUM_OBJECTS} a frame; CPU ms a mask, one core:")
    for side in ("plain", "ours", "decode"):
        print(f"  {side:8s} {one_core[f'{side}_ms_per_mask']:.3f}")
    print(f"  with decoding on both sides: {one_core['ratio_with_decoding']:.2f} times as fast")
    print(
        f"{processes['frames']} frames, decoding included: {processes['one_s']:.2f} s on one process, "
        f"{processes['two_s']:.2f} s on two"
    )
    ratios = {"evaluation_speed": one_core["ratio_scoring"], "evaluation_two_processes": processes["ratio"]}
    finish(options, ratios, {"one_core": one_core, "processes": processes})


if __name__ == "__main__":
    main()
