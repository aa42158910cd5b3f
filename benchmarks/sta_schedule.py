"""CPU seconds of the plain STA schedule against the engine `sta`, same weights, frames and arithmetic, in turns.

The plain schedule does for every labelled frame what the authors' code does: it cuts all frames of the window, runs
backbone, features and box encoders on them, fits the first filter (x * z, the transposed product and x * g computed
anew in every step: three products, no autograd), decodes all frames in the plain form of the network, encodes them
again, fits the second filter, decodes all frames, and keeps one. Frames of a window go through the network together.
Nothing is kept between windows. The engine is what `rayvos label --engine sta` runs.

As the plain schedule keeps nothing, its cost is a sum over labels: for long clips it is measured on every n-th label
and multiplied by n. Clips of 200 frames and more go by the engine once, in pieces: each piece is one turn, and the
ratio is that of the sums. `--part` takes some frames of such a clip, as a unit of a run does: the engine then encodes
the frames around them as well, which makes it slower than on the whole clip. Both sides use one thread, and CPU time
counts: wall time of a shared machine means little.

Pixels that differ have logits within 1e-4 of zero. That many digits are not there: at 64x96 the plain schedule in
float32 is 6e-5 away from itself in float64, the engine 1e-4 (its convolutions have batch norms folded into them and
channels last in memory, its filters follow a recurrence), logits being up to 36.

    python -m benchmarks.sta_schedule
    python -m benchmarks.sta_schedule --quick
    python -m benchmarks.sta_schedule --setting 30,9,3 --size 192x320
    python -m benchmarks.sta_schedule --setting 1000,5,3 --part 400:500
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reporting import arguments, finish
from benchmarks.sta_plain import STEPS, placed_box, plain_logits
from rayvos.annotations.records import Box, Clip, ClipSource, ObjectInfo
from rayvos.engines.base import Label
from rayvos.engines.sta.crops import paste_logits, place_crop
from rayvos.engines.sta.engine import StaConfig, StaEngine
from rayvos.engines.sta.solve import FrameInput, Solved, StaRunner, Window
from rayvos.engines.sta.windows import Sampling, window_of
from rayvos.models.sta import STA, FrameCode, normalise_bgr
from rayvos.models.sta_checkpoint import load_sta
from rayvos.models.weights import save_weights

HEIGHT, WIDTH = 240, 427
SETTINGS = ((30, 9, 3), (70, 9, 5), (1000, 5, 3))  # frames, window, interval
PLAIN_LABELS = 50  # of a clip, about; see the docstring
LONG = 200  # frames of a clip that the engine labels once, in pieces
LOGIT_DEVIATION = 5.0
UNCERTAIN = 1e-4  # a pixel whose logit is nearer to zero may change sides by rounding


class Frames:
    """Frames of coloured noise in memory, made when they are read."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames, self.height, self.width = num_frames, HEIGHT, WIDTH

    def image(self, frame: int) -> NDArray[np.uint8]:
        """Return one frame."""
        small = np.random.default_rng(frame).integers(0, 256, (12, 21, 3), dtype=np.uint8)
        return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, image)."""
        for frame in frames:
            yield frame, self.image(frame)

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    device = torch.device(
        "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device.replace("auto", "cpu")
    )
    torch.set_num_threads(1)
    # The engine computes in float32, whatever the GPU offers; so does the plain side.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    height, width = (int(side) for side in options.size.split("x"))
    settings = [tuple(int(value) for value in text.split(",")) for text in options.setting]
    ratios: dict[str, float] = {}
    numbers: dict[str, Any] = {"size": options.size, "device": str(device), "steps": STEPS}
    num_flipped = 0
    with tempfile.TemporaryDirectory() as folder:
        weights = make_weights(Path(folder), (height, width))
        for num_frames, window, interval in settings or (((12, 5, 3),) if options.quick else SETTINGS):
            sampling = Sampling(window, interval)
            frames = range(*options.part) if options.part else range(num_frames)
            every = max(1, len(frames) // options.plain_labels)
            found = measure(
                weights, num_frames, sampling, (height, width), device,
                frames=frames, every=every, rounds=options.rounds,
            )  # fmt: skip
            name = f"n{num_frames}_T{window}_D{interval}"
            unit = "CPU" if device.type == "cpu" else "wall"
            print(f"{name} at {options.size}, {STEPS} steps, {device}: " + describe(found, unit), flush=True)
            ratios[f"sta_schedule_{name}"] = found["ratio"]
            numbers[name] = found
            num_flipped += found["pixels_that_differ_clearly"]
    finish(options, ratios, numbers)
    sys.exit(num_flipped > 0)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", default=None, help="HxW of crops, multiples of 32; default 128x224, 64x96 if quick")
    parser.add_argument("--setting", action="append", default=[], metavar="N,T,D", help="frames, window, interval")
    parser.add_argument(
        "--part",
        type=lambda text: [int(word) for word in text.split(":")],
        metavar="START:STOP",
        help="frames to label",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, help="default 3, 2 if quick")
    parser.add_argument("--plain-labels", type=int, default=PLAIN_LABELS, help="labels of the plain schedule, about")
    options = parser.parse_args()
    options.size = options.size or ("64x96" if options.quick else "128x224")
    options.rounds = options.rounds or (2 if options.quick else 3)
    return options


def describe(found: Mapping[str, Any], unit: str) -> str:
    """Return a line's numbers."""
    return (
        f"frames {found['frames'][0]} to {found['frames'][1] - 1}: "
        f"plain {found['plain_s']:.2f} s (every {found['plain_every']}. label measured), "
        f"engine {found['engine_s']:.2f} s {unit} time; wall ratio {found['wall_ratio']:.2f}; "
        f"frames encoded {found['plain_encoded']} and {found['engine_encoded']}, "
        f"windows solved {found['plain_windows']} and {found['engine_windows']}; "
        f"pixels that differ {found['pixels_that_differ']} of {found['pixels_drawn']} drawn, "
        f"{found['pixels_that_differ_clearly']} of them not within {UNCERTAIN} of logit zero "
        f"({found['uncertain_pixels']} are), "
        f"largest logit difference {found['largest_logit_difference']:.1e} of {found['largest_logit']:.0f}"
    )


def make_weights(folder: Path, size: tuple[int, int]) -> str:
    """Write random weights that draw about half of a box, most of it with certainty; return their path."""
    torch.manual_seed(0)
    network = STA()
    image, box = torch.from_numpy(Frames(1).image(0)).permute(2, 0, 1)[None].float(), torch.zeros(1, 1, *size)
    height, width = size
    inside = (..., slice(height // 4, 3 * height // 4), slice(width // 4, 3 * width // 4))
    box[inside] = 1
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 4:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
            if name.endswith("bn3.weight"):
                parameter.fill_(0.5)  # sixteen blocks would add up otherwise
        network.feature_extractor.conv1.weight.mul_(1 / 64)  # pixels are in 0…255
        for tse in network.decoder.TSE.values():
            tse.reduce[0].weight.mul_(0.02)  # features are larger than codes
        last = network.decoder.project.conv2
        logits = network(normalise_bgr(F.interpolate(image, size=size))[None], box, STEPS).logits2_TSHW[inside]
        scale = LOGIT_DEVIATION / logits.std()
        last.weight.mul_(scale)
        last.bias.copy_((last.bias - logits.median()) * scale)
    path = str(folder / "random.safetensors")
    save_weights(path, network.state_dict(), architecture="sta", model={})
    return path


def make_clip(num_frames: int) -> Clip:
    """Return a clip with one box that moves and grows."""
    boxes = tuple(
        Box(1, frame, 120 + 30 * np.sin(frame / 9), 60, 250 + 40 * np.sin(frame / 7), 190)
        for frame in range(num_frames)
    )
    source = ClipSource("images", "memory")
    return Clip("noise", source, HEIGHT, WIDTH, num_frames, objects=(ObjectInfo(1),), boxes=boxes)


def measure(
    weights: str,
    num_frames: int,
    sampling: Sampling,
    size: tuple[int, int],
    device: torch.device,
    *,
    frames: range,
    every: int,
    rounds: int,
) -> dict[str, Any]:
    """Return times, ratio, counts and differences of both sides on some frames of a clip, measured in turns."""
    clip, images = make_clip(num_frames), Frames(num_frames)
    in_pieces, chosen = num_frames >= LONG, frames[::every]
    network = load_sta(weights)[0].to(device).requires_grad_(False)
    config = StaConfig(
        window=sampling.window, interval=sampling.interval, iterations=STEPS, height=size[0], width=size[1]
    )
    engine = StaEngine(config, weights=weights, device=str(device))

    def plain(frames: Sequence[int]) -> dict[int, Tensor]:
        return {frame: plain_logits(network, clip, images.image, frame, sampling, size, device) for frame in frames}

    expected: dict[int, Tensor] = {}
    masks: dict[int, NDArray[np.bool_]] = {}
    times: list[tuple[float, tuple[float, float], tuple[float, float]]] = []
    with Watch() as watch:
        if in_pieces:
            labels = engine.label(clip, images, frames)
            plain([0]), next(engine.label(clip, images, range(1)))  # warm-up
            watch.clear()
            for part in np.array_split(np.array(frames), rounds):
                sampled = part[::every].tolist()
                plain_times = clocked(lambda sampled=sampled: expected.update(plain(sampled)), device)
                engine_times = clocked(lambda part=part: masks.update(taken(labels, len(part))), device)
                times.append((len(part) / len(sampled), plain_times, engine_times))
        else:
            expected = plain(chosen)
            masks = taken(engine.label(clip, images, frames), len(frames))
    difference = compare(clip, sampling, size, {f: v.cpu().numpy() for f, v in expected.items()}, watch.drawn, masks)
    if not in_pieces:
        for _ in range(rounds):
            plain_times = clocked(lambda: plain(chosen), device)
            engine_times = clocked(lambda: taken(engine.label(clip, images, frames), len(frames)), device)
            times.append((len(frames) / len(chosen), plain_times, engine_times))
    clock = 0 if device.type == "cpu" else 1
    ratios = [[factor * a[kind] / b[kind] for factor, a, b in times] for kind in (0, 1)]
    whole: Callable[[Iterable[float]], float] = sum if in_pieces else statistics.median
    plain_s = whole(factor * seconds[clock] for factor, seconds, _ in times)
    engine_s = whole(seconds[clock] for _, _, seconds in times)
    windows = [window_of(frame, range(num_frames), 0, num_frames, sampling) for frame in frames]
    return {
        "frames": [frames.start, frames.stop],
        "ratio": plain_s / engine_s if in_pieces else statistics.median(ratios[clock]),
        "ratios": ratios[clock],
        "wall_ratio": statistics.median(ratios[1]),
        "plain_s": plain_s,
        "engine_s": engine_s,
        "plain_every": every,
        "plain_encoded": sum(len(window) for window in windows),
        "plain_windows": len(frames),
        "engine_encoded": watch.num_frames,
        "engine_windows": watch.num_windows,
        **difference,
    }


def clocked(side: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Return CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    side()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def taken(labels: Iterator[Label], count: int) -> dict[int, NDArray[np.bool_]]:
    """Return the masks of the next labels, by frame."""
    return {label.frame: label.mask for label in itertools.islice(labels, count) if label.mask is not None}


class Watch:
    """Sees what the engine computes: frames, windows, and logits of labels in the order they are drawn."""

    def __enter__(self) -> Watch:
        self.clear()
        self._encode, self._solve = encode, solve = StaRunner.encode, StaRunner.solve

        def count_frames(runner: StaRunner, inputs: Sequence[FrameInput]) -> list[FrameCode]:
            self.num_frames += len(inputs)
            return encode(runner, inputs)

        def count_windows(runner: StaRunner, windows: Sequence[Window]) -> list[Solved]:
            self.num_windows += len(windows)
            answers = solve(runner, windows)
            self.drawn.extend(logits for answer in answers for logits in answer.logits.values())
            return answers

        StaRunner.encode, StaRunner.solve = count_frames, count_windows  # type: ignore[method-assign]
        return self

    def clear(self) -> None:
        """Forget what was seen."""
        self.num_frames = self.num_windows = 0
        self.drawn: list[NDArray[np.float32]] = []

    def __exit__(self, *_: object) -> None:
        StaRunner.encode, StaRunner.solve = self._encode, self._solve  # type: ignore[method-assign]


def compare(
    clip: Clip,
    sampling: Sampling,
    size: tuple[int, int],
    expected: Mapping[int, NDArray[np.float32]],
    drawn: Sequence[NDArray[np.float32]],
    masks: Mapping[int, NDArray[np.bool_]],
) -> dict[str, Any]:
    """Return how far both sides' masks and logits are apart."""
    num_flipped = num_clear = num_uncertain = num_drawn = 0
    differences = []
    for frame, logits in expected.items():
        box = placed_box(clip.boxes[frame])
        crop = place_crop(box, (HEIGHT, WIDTH), size, 4.0)
        part, (top, left) = paste_logits(logits, crop, box, (HEIGHT, WIDTH))
        mask = np.zeros((HEIGHT, WIDTH), np.bool_)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part > 0
        wrong = mask != masks[frame]
        clear = np.ones_like(mask)
        clear[top : top + part.shape[0], left : left + part.shape[1]] = np.abs(part) >= UNCERTAIN
        num_flipped += int(wrong.sum())
        num_clear += int((wrong & clear).sum())
        num_uncertain += int((~clear).sum())
        num_drawn += int(mask.sum())
        # Labels of one window are drawn together, in another order than frames: the nearest one is this frame's.
        differences.append(min(float(np.abs(logits - found).max()) for found in drawn))
    return {
        "pixels_that_differ": num_flipped,
        "pixels_that_differ_clearly": num_clear,
        "uncertain_pixels": num_uncertain,
        "pixels_drawn": num_drawn,
        "largest_logit_difference": max(differences),
        "largest_logit": max(float(np.abs(logits).max()) for logits in expected.values()),
    }


if __name__ == "__main__":
    main()
