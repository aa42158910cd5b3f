"""Masks per second of the engine `box2seg` against one crop at a time, with the same weights in one process.

The plain loop reads a frame, encodes a crop, runs the network on it with torch's default threads, pastes the mask and
goes on: nothing overlaps. The engine decodes ahead, works on several crops at once (CPU) or in batches (GPU), and
folds batch norms. Both label the same clip with random weights, in the same arithmetic (no TF32 behind float32); in
float32 the masks must agree.

    python -m benchmarks.box2seg_throughput
    python -m benchmarks.box2seg_throughput --device cuda --backbone convnext_tiny --precision bfloat16
    python -m benchmarks.box2seg_throughput --quick --backbone mobilenet_v3_large
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.reporting import arguments, finish
from rayvos.annotations.records import Box, Clip, ClipSource, ObjectInfo
from rayvos.engines.box2seg.engine import Box2SegConfig, Box2SegEngine, Precision
from rayvos.masks.boxes import Margin, crop_around, paint_guidance, paste_probability, round_box
from rayvos.models.box2seg import normalise_crops
from rayvos.models.registry import build_model, load_model
from rayvos.models.weights import save_weights
from rayvos.video.source import open_clip

HEIGHT, WIDTH, NUM_OBJECTS = 480, 854, 2


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device.replace("auto", "cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    num_frames = options.frames or (100 if device == "cuda" else 12 if options.quick else 40)
    with tempfile.TemporaryDirectory() as folder:
        weights = make_weights(Path(folder), options.backbone)
        clip = make_clip(Path(folder) / "frames", num_frames)
        result = measure(clip, weights, device, options.precision, rounds=2 if options.quick else 3)
    print(
        f"{options.backbone} on {device}, {options.precision}, {torch.get_num_threads()} threads, {num_frames} frames"
    )
    print(f"plain loop  {result['plain_masks_per_s']:8.1f} masks/s")
    print(f"engine      {result['engine_masks_per_s']:8.1f} masks/s")
    print(f"masks equal: {result['equal_masks']} of {result['masks']}, lowest IoU {result['lowest_iou']:.5f}")
    setting = {"backbone": options.backbone, "device": device, "precision": options.precision, "frames": num_frames}
    threads = {"threads": torch.get_num_threads()}
    finish(options, {"box2seg_throughput": result["ratio"]}, setting | threads | result)
    # A few pixels within rounding of one half may differ; anything more is an error of the engine.
    sys.exit(options.precision == "float32" and result["lowest_iou"] < 0.99)


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, help="CPU threads for both sides; default: what torch takes")
    parser.add_argument("--frames", type=int)
    return parser.parse_args()


def make_weights(folder: Path, backbone: str) -> str:
    """Write random weights whose masks are neither empty nor full; return their path."""
    torch.manual_seed(0)
    model = {"backbone": backbone, "size": 384 if backbone == "convnext_tiny" else 385, "margin": "abs:50"}
    network = build_model("box2seg", model)
    with torch.no_grad():
        network.logits.weight.mul_(100)
    path = str(folder / "random.safetensors")
    save_weights(path, network.state_dict(), architecture="box2seg", model=model)
    return path


def make_clip(folder: Path, num_frames: int) -> Clip:
    """Write JPEG frames of coloured noise in which two boxes move; return their clip."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    names = [f"{frame:05d}.jpg" for frame in range(num_frames)]
    for name in names:
        small = generator.integers(0, 256, (24, 43, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))
    boxes = [
        Box(object_id, frame, 100.0 * object_id + frame, 90, 100.0 * object_id + frame + 180, 330)
        for frame in range(num_frames)
        for object_id in range(1, NUM_OBJECTS + 1)
    ]
    source = ClipSource("images", str(folder), tuple(names))
    objects = tuple(ObjectInfo(object_id) for object_id in range(1, NUM_OBJECTS + 1))
    return Clip("noise", source, HEIGHT, WIDTH, num_frames, objects=objects, boxes=tuple(boxes))


def measure(clip: Clip, weights: str, device: str, precision: Precision, *, rounds: int) -> dict[str, Any]:
    """Return masks per second of both sides, the fastest of rounds in turns, and how far the masks agree."""
    network, info = load_model(weights)
    network.to(device)
    engine = Box2SegEngine(Box2SegConfig(clip_to_box=False, precision=precision), weights=weights, device=device)
    margin = Margin.parse(info.model["margin"])

    def plain() -> list[NDArray[np.bool_]]:
        half = None if precision == "float32" else getattr(torch, precision)
        with torch.inference_mode(), torch.autocast(device, dtype=half, enabled=half is not None):
            return list(plain_masks(network, clip, margin, int(info.model["size"]), device))

    def ours() -> list[NDArray[np.bool_]]:
        with open_clip(clip) as images:
            labels = engine.label(clip, images, range(clip.num_frames))
            return [found.mask for found in labels if found.mask is not None]

    sides = {"plain": plain, "engine": ours}
    masks = {name: side() for name, side in sides.items()}  # warms up caches and kernels, too
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - started)
    rates = {name: len(masks[name]) / min(values) for name, values in seconds.items()}
    ious = [iou(a, b) for a, b in zip(masks["plain"], masks["engine"], strict=True)]
    return {
        "plain_masks_per_s": rates["plain"],
        "engine_masks_per_s": rates["engine"],
        "ratio": rates["engine"] / rates["plain"],
        "masks": len(ious),
        "equal_masks": sum(value == 1 for value in ious),
        "lowest_iou": min(ious),
        "seconds": seconds,
    }


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the IoU of two masks; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def plain_masks(
    network: torch.nn.Module, clip: Clip, margin: Margin, size: int, device: str
) -> Iterator[NDArray[np.bool_]]:
    """Yield the masks of all boxes, one crop after the other."""
    for frame, name in enumerate(clip.source.frame_names):
        image = cv2.imread(f"{clip.source.uri}/{name}", cv2.IMREAD_COLOR_RGB)
        for box in sorted((box for box in clip.boxes if box.frame == frame), key=lambda box: box.object_id):
            pixels = round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), clip.height, clip.width)
            assert pixels is not None, "the boxes of this clip lie inside"
            x0, y0, x1, y1 = crop = crop_around(pixels, margin, clip.height, clip.width)
            guided = np.empty((1, size, size, 4), np.uint8)
            guided[0, ..., :3] = cv2.resize(image[y0:y1, x0:x1], (size, size), interpolation=cv2.INTER_LINEAR)
            guided[0, ..., 3] = paint_guidance(pixels, crop, size)
            logits = network(normalise_crops(torch.from_numpy(guided).to(device)).contiguous())
            probability = logits.float().softmax(dim=1)[0, 1].cpu().numpy()
            yield paste_probability(probability, crop, clip.height, clip.width) >= 0.5


if __name__ == "__main__":
    main()
