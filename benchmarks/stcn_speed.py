"""CPU seconds per frame of the engine `stcn` against the official schedule done plainly, with the same weights.

The plain side does what the official script does, step by step: memory concatenated anew for each frame, similarities
of all places, the best 20 scattered into a dense matrix, one product and one decoder pass per object, masks by
argmax. Both sides take turns in one process, frame by frame (on a GPU: 20 by 20), in the same arithmetic (no TF32
behind float32); a GPU is timed by the wall clock, a CPU by CPU time.

    python -m benchmarks.stcn_speed                  1 and 3 objects, 480x864, 60 frames
    python -m benchmarks.stcn_speed --device cuda --precision bfloat16
    python -m benchmarks.stcn_speed --objects        10 objects against one, the engine alone
    python -m benchmarks.stcn_speed --length         2,000 frames against 200 under the memory budget, the engine alone
    python -m benchmarks.stcn_speed --quick
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.reporting import arguments, finish
from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.engines.stcn.engine import StcnConfig, StcnEngine
from rayvos.engines.stcn.propagation import pad_to_stride, unpad
from rayvos.masks.rle import mask_to_rle
from rayvos.models.stcn import DEVIATION, MEAN, STCN, FrameFeatures, aggregate
from rayvos.models.stcn_checkpoint import load_stcn
from tests.goldens.stcn_cases import formula_network

MEMORY_EVERY, TOP_K = 5, 20
LONG, SHORT = 2000, 200
GPU_TURN = 20  # frames; a GPU is waited for at the end of a turn only, as it would be without a clock


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "formula.pth")
        torch.save(formula_network().state_dict(), weights)
        if options.length:
            numbers = measure_length(weights, options)
        elif options.objects:
            numbers = measure_objects(weights, options)
        else:
            numbers = measure_schedules(weights, options)
    ratios = numbers.pop("ratios")
    setting = {"height": options.height, "width": options.width, "device": options.device, "threads": options.threads}
    finish(options, ratios, setting | numbers)
    sys.exit(not numbers.get("equal", True))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--objects", action="store_true", help="10 objects against one")
    parser.add_argument("--length", action="store_true", help="2,000 frames against 200")
    parser.add_argument("--size", metavar="HxW", help="of the frames; default 480x864, with --quick 240x432")
    parser.add_argument("--frames", type=int, help="of the clip; default 60, with --quick 12")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of both sides")
    options = parser.parse_args()
    size = options.size or ("64x96" if options.quick and options.length else "240x432" if options.quick else "480x864")
    options.height, options.width = (int(side) for side in size.split("x"))
    options.frames = options.frames or (12 if options.quick else 60)
    return options


class Frames:
    """Textured patches that drift over a background, drawn when they are read."""

    def __init__(self, num_frames: int, height: int, width: int, num_objects: int) -> None:
        self.num_frames, self.height, self.width, self.num_objects = num_frames, height, width, num_objects
        self._side = (height // 2 if num_objects <= 3 else height // 4) // 8 * 8
        self._background = self._texture(0, height, width) // 3
        self._patches = [self._texture(i + 1, self._side, self._side) for i in range(num_objects)]

    @staticmethod
    def _texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
        small = np.random.default_rng(seed).integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)

    def _corner(self, number: int, frame: int) -> tuple[int, int]:
        steps_x, steps_y = self.width - self._side, self.height - self._side
        x = number * self.width // self.num_objects + (number + 1) * frame
        y = number * 37 + frame
        return abs((x + steps_x) % (2 * steps_x) - steps_x), abs((y + steps_y) % (2 * steps_y) - steps_y)

    def draw(self, frame: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return the image and its label map."""
        image, labels = self._background.copy(), np.zeros((self.height, self.width), np.uint8)
        for number, patch in enumerate(self._patches):
            x, y = self._corner(number, frame)
            image[y : y + self._side, x : x + self._side] = patch
            labels[y : y + self._side, x : x + self._side] = number + 1
        return image, labels

    def read(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield (frame, image)."""
        for frame in frames:
            yield frame, self.draw(frame)[0]

    def close(self) -> None:
        """Nothing is open."""

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def clip(self) -> Clip:
        """Return the clip with the first frame's masks."""
        labels = self.draw(0)[1]
        ids = [i for i in range(1, self.num_objects + 1) if (labels == i).any()]
        masks = tuple(MaskPrompt(i, 0, mask_to_rle(labels == i)) for i in ids)
        source = ClipSource("images", "drawn")
        objects = tuple(ObjectInfo(i) for i in ids)
        return Clip("drawn", source, self.height, self.width, self.num_frames, objects=objects, masks=masks)


def plain_label_maps(network: STCN, frames: Frames, options: argparse.Namespace) -> Iterator[NDArray[np.uint8]]:
    """Yield the label maps of all frames by the official schedule for masks on the first one."""
    labels = frames.draw(0)[1]
    given = [torch.from_numpy((labels == i).astype(np.float32)) for i in range(1, frames.num_objects + 1)]
    mean, deviation = torch.tensor(MEAN, device=options.device), torch.tensor(DEVIATION, device=options.device)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for frame, picture in frames.read(range(frames.num_frames)):
        image_HWC = (torch.from_numpy(picture).to(options.device).float() / 255 - mean) / deviation
        image, padding = pad_to_stride(image_HWC.permute(2, 0, 1)[None].contiguous())
        features = network.encode_key(image)
        if frame == 0:
            probability = aggregate(torch.stack([pad_to_stride(mask.to(options.device))[0] for mask in given]))
        else:
            readout = plain_read(torch.cat(keys, 1), torch.cat(values, 2), features.key_BChw[0].flatten(1).float())
            logits = [
                plain_decode(network, one[None], features) for one in readout.unflatten(2, features.key_BChw.shape[2:])
            ]
            probability = aggregate(torch.sigmoid(torch.cat(logits).float()))
        if frame % MEMORY_EVERY == 0 and frame < frames.num_frames - 1:
            encoded = [plain_encode_value(network, image, features, probability[1:], k) for k in range(len(given))]
            keys.append(features.key_BChw[0].flatten(1).float())
            values.append(torch.cat(encoded).flatten(2))
        yield unpad(probability, padding).argmax(0).to(torch.uint8).cpu().numpy()


def plain_read(key_CN: Tensor, value_KCN: Tensor, query_CQ: Tensor) -> Tensor:
    """Return (K, C, Q): a dense matrix of weights, one product per object."""
    with torch.autocast(key_CN.device.type, enabled=False):
        affinity_NQ = (2 * (key_CN.T @ query_CQ) - key_CN.square().sum(0)[:, None]) / key_CN.shape[0] ** 0.5
        best_TQ, index_TQ = affinity_NQ.topk(min(TOP_K, len(affinity_NQ)), 0)
        weight_NQ = torch.zeros_like(affinity_NQ).scatter_(0, index_TQ, torch.softmax(best_TQ, 0))
    return torch.stack([torch.bmm(value_CN[None], weight_NQ.to(value_CN.dtype)[None])[0] for value_CN in value_KCN])


def plain_decode(network: STCN, readout_1Chw: Tensor, features: FrameFeatures) -> Tensor:
    """Return the logits (1, H, W) of one object, everything computed for it alone."""
    decoder = network.decoder
    x = decoder.compress(torch.cat([readout_1Chw, features.thin_BChw], 1))
    x = decoder.up_16_8(decoder.up_16_8.skip_conv(features.f8_BCHW), x)
    x = decoder.up_8_4(decoder.up_8_4.skip_conv(features.f4_BCHW), x)
    logits = decoder.pred(torch.relu(x))
    return torch.nn.functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)[:, 0]


def plain_encode_value(network: STCN, image: Tensor, features: FrameFeatures, masks_KHW: Tensor, k: int) -> Tensor:
    """Return the values (1, 512, h, w) of one object."""
    encoder = network.value_encoder
    others = masks_KHW.sum(0) - masks_KHW[k] if len(masks_KHW) > 1 else torch.zeros_like(masks_KHW[k])
    x = encoder.conv1(torch.cat([image, masks_KHW[k][None, None], others[None, None]], 1))
    x = torch.nn.functional.max_pool2d(torch.relu(encoder.bn1(x)), 3, 2, 1)
    x = encoder.fuser.block1(torch.cat([encoder.layer3(encoder.layer2(encoder.layer1(x))), features.f16_BChw], 1))
    if encoder.fuser.attention is not None:
        x = x + encoder.fuser.attention(x)
    found: Tensor = encoder.fuser.block2(x)
    return found


def engine_label_maps(engine: StcnEngine, frames: Frames) -> Iterator[NDArray[np.uint8]]:
    """Yield the label maps of all frames by the engine."""
    clip = frames.clip()
    labels = np.zeros((frames.height, frames.width), np.uint8)
    last = clip.object_ids()[-1]
    for label in engine.label(clip, frames, range(frames.num_frames)):
        if label.mask is not None:
            labels[label.mask] = label.object_id
        if label.object_id == last:
            yield labels
            labels = np.zeros_like(labels)


class Side:
    """One of two computations that take turns."""

    def __init__(self, steps: Iterator[NDArray[np.uint8]], options: argparse.Namespace) -> None:
        self.steps, self.options = steps, options
        self.seconds = 0.0
        self.num_frames = 0

    def advance(self) -> list[NDArray[np.uint8]]:
        """Return the next label maps, of as many frames as a turn takes; none at the end."""
        started = self._clock()
        found = list(itertools.islice(self.steps, 1 if self.options.device == "cpu" else GPU_TURN))
        self.seconds += self._clock() - started
        self.num_frames += len(found)
        return found

    def _clock(self) -> float:
        if self.options.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def per_frame(self) -> float:
        """Seconds per frame so far."""
        return self.seconds / self.num_frames


def make_engine(weights: str, options: argparse.Namespace, max_memory_frames: int | None) -> StcnEngine:
    """Return an engine that has prepared its network already."""
    config = StcnConfig(
        max_memory_frames=max_memory_frames, max_size=None, precision=options.precision, threads=options.threads
    )
    engine = StcnEngine(config, weights=weights, device=options.device)
    for _ in engine_label_maps(engine, Frames(2, options.height, options.width, 1)):
        pass
    return engine


def measure_schedules(weights: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare the plain schedule with the engine, for 1 and 3 objects."""
    network = load_stcn(weights)[0].requires_grad_(False).to(options.device)
    engine = make_engine(weights, options, None)
    half = None if options.precision == "float32" else getattr(torch, options.precision)
    numbers: dict[str, Any] = {"ratios": {}, "equal": True}
    for num_objects in (1, 3):
        frames = Frames(options.frames, options.height, options.width, num_objects)
        plain = Side(plain_label_maps(network, frames, options), options)
        ours = Side(engine_label_maps(engine, frames), options)
        differing = 0
        while True:
            with torch.inference_mode(), torch.autocast(options.device, dtype=half, enabled=half is not None):
                expected = plain.advance()
            found = ours.advance()
            if not expected or not found:
                break
            differing += sum(int((one != other).sum()) for one, other in zip(expected, found, strict=True))
        pixels = options.frames * options.height * options.width
        print(
            f"{num_objects} objects, {options.height}x{options.width}, {options.frames} frames: plain "
            f"{plain.per_frame:.3f} s/frame, engine {ours.per_frame:.3f} s/frame; {differing} of {pixels} pixels differ"
        )
        numbers["ratios"][f"stcn_speed_{num_objects}"] = plain.seconds / ours.seconds
        numbers[f"differing_pixels_{num_objects}"] = differing
        numbers[f"seconds_per_frame_{num_objects}"] = {"plain": plain.per_frame, "engine": ours.per_frame}
        # Rounding flips pixels on a near tie; a defect of either side changes thousands.
        numbers["equal"] &= half is not None or differing <= pixels * 1e-4
    return numbers


def measure_objects(weights: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare 10 objects with one."""
    engine = make_engine(weights, options, None)
    few, many = (
        Side(engine_label_maps(engine, Frames(options.frames, options.height, options.width, number)), options)
        for number in (1, 10)
    )
    while few.advance() and many.advance():
        pass
    print(f"1 object {few.per_frame:.3f} s/frame, 10 objects {many.per_frame:.3f} s/frame")
    return {"ratios": {"stcn_10_objects_cost": many.per_frame / few.per_frame}}


def measure_length(weights: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare a clip of 2,000 frames with one of 200 (with --quick 500 and 50), memory capped at its default."""
    engine = make_engine(weights, options, 5 if options.quick else StcnConfig().max_memory_frames)
    lengths = (SHORT // 4, LONG // 4) if options.quick else (SHORT, LONG)
    short, long = (
        Side(engine_label_maps(engine, Frames(length, options.height, options.width, 1)), options) for length in lengths
    )
    while short.advance():
        for _ in range(lengths[1] // lengths[0]):
            long.advance()
    print(f"{lengths[0]} frames {short.per_frame:.4f} s/frame, {lengths[1]} frames {long.per_frame:.4f} s/frame")
    return {"ratios": {"stcn_length_cost": long.per_frame / short.per_frame}}


if __name__ == "__main__":
    main()
