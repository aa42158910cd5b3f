"""Engine `box2seg`: each boxed object of each frame is cropped, segmented on its own, and pasted back.

Source: Box2Seg, with the encoding of the refinement network it re-uses: round the box, paint it, add the margin, clip
to the frame, crop, resize to the network's size on both axes independently; back: resize the probability bilinearly
to the crop, 0.5, paste into zeros. Objects may overlap: that is left to whoever merges them.
Differs: by default a mask ends 10 % outside its box and holds no specks (`clip_to_box`, off for the paper's way);
the margin comes from the weights file, because a network knows only the margin it was trained with.

Why so: results must not depend on which crops share a forward pass. On a GPU kernels are chosen by the batch's size,
so every pass has the same size, filled up with zeros. On a CPU one crop at a time on one thread is fastest (measured
at 385x385: four and eight crops a pass take 5 to 35 % more time per crop), so threads work on different crops;
a pass split over threads sums in another order, and labels would depend on the number of cores.
Tensor layouts: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rayvos.annotations.records import Box, Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label
from rayvos.engines.box2seg.tuning import Box2SegSamples, encode_crop, read_examples
from rayvos.engines.cuda_graphs import RecordedCall
from rayvos.engines.devices import find_device, single_threads
from rayvos.engines.finetune import (
    FinetuneMasks,
    check_finetuning,
    finetune_network,
    masked_objects,
    object_generator,
    tune_objects,
    tuning_masks,
    used_options,
)
from rayvos.engines.scores import mean_margin, predicted_iou
from rayvos.errors import UsageError, WeightsError, choose
from rayvos.masks.agreement import box_agreement
from rayvos.masks.boxes import Margin, crop_around, near_box, paste_probability, round_box
from rayvos.masks.components import drop_specks
from rayvos.models.box2seg import Box2Seg, normalise_crops
from rayvos.models.layers import fold_batch_norms
from rayvos.models.registry import load_model

__all__ = ["Box2SegConfig", "Box2SegEngine", "Precision"]

Precision = Literal["float32", "bfloat16", "float16"]
IntBox = tuple[int, int, int, int]

WORKERS_BESIDE_GPU = 4  # Python threads: more of them keep the one that launches the GPU's work waiting
CPU_BATCH, GPU_BATCH = 1, 32  # crops per forward pass; see "Why so" and benchmarks/box2seg_throughput.py
THRESHOLD = 0.5  # Box2Seg specification
ROWS_PER_BATCH = 1024  # frames without boxes make no crops: yield their labels before a batch is full


@dataclass(frozen=True, slots=True, kw_only=True)
class Box2SegConfig:
    """Options of the engine `box2seg`."""

    margin: str | None = None
    """Context around the box, `abs:50` or `rel:0.2,min16`; None: as the weights were trained, the only one allowed."""
    clip_to_box: bool = True
    """Cut masks off 10 % outside their box, and drop specks; off: the paper's way."""
    precision: Precision = "float32"
    """Arithmetic of the network; the halves are faster on GPUs and change labels slightly."""
    batch_size: int | None = None
    """Crops per forward pass; None: 1 on a CPU, 32 on a GPU."""
    finetune: FinetuneMasks = "none"
    """Sharpen the network for each object with `all` its masks in turn, the `middle` one, or the `first`."""
    finetune_steps: int = 300
    """Steps of the sharpening."""
    finetune_rate: float = 1e-5
    """Learning rate of the sharpening."""
    seed: int = 0
    """Of the sharpening's random numbers."""

    def __post_init__(self) -> None:
        choose("precision", self.precision, ("float32", "bfloat16", "float16"))
        check_finetuning(self.finetune, self.finetune_steps, self.finetune_rate)
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size: expected at least 1, found {self.batch_size}")
        if self.margin is not None:
            Margin.parse(self.margin)


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """Where one object's crop lies."""

    pixels: IntBox
    """The rounded box."""
    area: IntBox
    """The box with its margin, clipped to the frame."""
    box: NDArray[np.float32]
    """The box as it was given."""
    network: nn.Module
    """The one that answers it: the base network, or the one sharpened for its object."""


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What was found in one crop; as large as the crop, so that waiting results stay small."""

    mask: NDArray[np.bool_]
    quality: Mapping[str, float]


@dataclass(slots=True, eq=False)
class _Batch:
    """Consecutive rows of the result, and the crops that one forward pass answers for them."""

    inputs_BHWC: NDArray[np.uint8]
    """RGB and guidance; crops beyond `crops` stay zero."""
    rows: list[tuple[int, int, _Crop | Label]]
    """(frame, object_id, the crop or the label that needs none), ordered."""
    crops: list[_Crop]


class Box2SegEngine:
    """Segments the object in each box; needs a weights file.

    Labels are the same, bit for bit, however frames are split, whichever objects share a frame, and however many
    threads work: on CPUs of one kind, or on GPUs of one kind.
    """

    name = "box2seg"

    def __init__(
        self, config: Box2SegConfig | None = None, *, weights: str | None = None, device: str = "auto"
    ) -> None:
        """Load the weights; a GPU is not touched before the first label.

        Args:
            config: options; None: the defaults.
            weights: path or URL of a box2seg weights file, or the name of packaged ones.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.

        Raises:
            WeightsError: no weights are given, or they are missing, damaged or another network's.
            UsageError: the margin is not that of the weights, or there is no such kind of device.
        """
        if weights is None:
            raise WeightsError(
                "engine 'box2seg' needs --weights FILE: default weights are not packaged yet; use --engine cut"
            )
        choose("device", device.partition(":")[0], ("auto", "cpu", "cuda"))
        self._config = config or Box2SegConfig()
        self._device_name = device
        network, info = load_model(weights, architecture="box2seg")
        model = cast(Box2Seg, network).model
        self._margin = Margin.parse(model.margin)
        if self._config.margin is not None and Margin.parse(self._config.margin) != self._margin:
            raise UsageError(
                f"margin {self._config.margin!r}: the weights {weights} were trained with {model.margin!r}; "
                "leave the option out, or give weights trained with that margin"
            )
        self.weights = info.digest
        self._size = model.size
        # Folded batch norms can neither be trained nor frozen: sharpening starts from a network that has them.
        self._trainable = None if self._config.finetune == "none" else copy.deepcopy(network)
        self._network = fold_batch_norms(network).requires_grad_(False)
        self._network_bytes = sum(parameter.nbytes for parameter in self._network.parameters())
        self._depthwise = any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in network.modules())
        self._one_pass = threading.Lock()
        self._recorded = RecordedCall(lambda inputs_BCHW: (_probability(self._network, inputs_BCHW),))

    def options(self) -> Mapping[str, Any]:
        """Return everything besides the weights that labels depend on.

        The device is left out: it changes labels by rounding only, and a run may go on where the GPU is not.
        """
        return used_options(asdict(self._config))

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know; seconds measured with backbone `tiny` at 385x385."""
        on_gpu = find_device(self._device_name, check=False).type == "cuda"
        tunes = self._config.finetune != "none"
        seconds_per_step = 0.05 if on_gpu else 0.5
        return EngineNeeds(
            halo=None if tunes else 0,  # a mask anywhere in the clip sharpens the labels of all of it
            seconds_per_frame=0.004,
            seconds_per_label=0.01 if on_gpu else 0.13,
            seconds_per_masked_object=seconds_per_step * self._config.finetune_steps if tunes else 0.0,
            separate_objects=True,
            num_cpus=4 if on_gpu else 1,
            # `auto` on a machine without a GPU may be planning for a cluster that has some.
            num_gpus=0 if self._device_name == "cpu" else 1,
            # Sharpened networks stay until the clip is done; one in the making has gradients and two moments.
            memory_bytes=((3 if on_gpu else 1 + tunes) << 30) + (20 if tunes else 4) * self._network_bytes,
        )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame and object, ordered by (frame, object_id).

        An object without a visible box on a frame is absent there. A box outside the frame, and a box in which
        nothing is found, give an empty mask with score 0; `quality` says `box_outside` in the first case.

        Raises:
            InputError: a frame cannot be read.
            UsageError: the device does not exist here.
        """
        device = find_device(self._device_name)
        self._network.to(device, memory_format=self._memory_format(device))  # type: ignore[call-overload]
        networks = self._sharpened(clip, images, device)
        most = None if device.type == "cpu" else WORKERS_BESIDE_GPU
        with single_threads(device, "box2seg", most=most) as (pool, num_workers):
            pending: deque[tuple[_Batch, Future[list[_Found]]]] = deque()
            for batch in self._batches(clip, images, frames, device, networks):
                pending.append((batch, pool.submit(self._segment, batch, device)))
                if len(pending) > num_workers:
                    yield from _labels(*pending.popleft(), clip)
            while pending:
                yield from _labels(*pending.popleft(), clip)

    def _sharpened(self, clip: Clip, images: FrameReader, device: torch.device) -> dict[int, nn.Module]:
        """Return the networks of the objects of which a person gave masks."""
        if self._trainable is None:
            return {}
        config, base = self._config, self._trainable
        base.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        masks = [mask for object_id in masked_objects(clip) for mask in tuning_masks(clip, object_id, config.finetune)]
        examples = read_examples(clip, images, masks, self._margin)

        def job(object_id: int) -> Callable[[], nn.Module]:
            draw = Box2SegSamples(examples[object_id], self._margin, self._size)
            return lambda: fold_batch_norms(
                finetune_network(
                    base, draw,
                    num_masks=len(examples[object_id]), logits=_object_logits, steps=config.finetune_steps,
                    learning_rate=config.finetune_rate,
                    generator=object_generator(config.seed, clip.clip_id, object_id),
                )
            )  # fmt: skip

        return tune_objects({object_id: job(object_id) for object_id in examples}, device)

    def _batches(
        self,
        clip: Clip,
        images: FrameReader,
        frames: range,
        device: torch.device,
        networks: Mapping[int, nn.Module],
    ) -> Iterator[_Batch]:
        """Cut the rows of the result into batches, each with at most as many crops as one forward pass takes."""
        size = self._config.batch_size or (GPU_BATCH if device.type == "cuda" else CPU_BATCH)
        boxes = {(box.frame, box.object_id): box for box in clip.boxes if box.visible and box.frame in frames}
        boxed = {frame for frame, _ in boxes}
        pictures = images.read(sorted(boxed))
        batch = self._empty_batch(size)
        for frame in frames:
            image = next(pictures)[1] if frame in boxed else None
            for object_id in clip.object_ids():
                box = boxes.get((frame, object_id))
                if image is None or box is None:
                    batch.rows.append((frame, object_id, Label(frame, object_id, None)))
                else:
                    self._add(batch, box, image, networks.get(object_id, self._network))
                if len(batch.crops) == size or len(batch.rows) == ROWS_PER_BATCH:
                    yield batch
                    batch = self._empty_batch(size)
        yield batch

    def _empty_batch(self, size: int) -> _Batch:
        return _Batch(np.zeros((size, self._size, self._size, 4), np.uint8), [], [])

    def _add(self, batch: _Batch, box: Box, image: NDArray[np.uint8], network: nn.Module) -> None:
        """Encode one box into the batch."""
        height, width = image.shape[:2]
        corners = np.array([box.x0, box.y0, box.x1, box.y1], np.float32)
        pixels = round_box(corners, height, width)
        if pixels is None:
            empty = np.zeros((height, width), np.bool_)
            label = Label(box.frame, box.object_id, empty, 0.0, {"box_outside": 1.0})
            batch.rows.append((box.frame, box.object_id, label))
            return
        crop = _Crop(pixels, crop_around(pixels, self._margin, height, width), corners, network)
        x0, y0, x1, y1 = crop.area
        batch.inputs_BHWC[len(batch.crops)] = encode_crop(image[y0:y1, x0:x1], pixels, crop.area, self._size)
        batch.crops.append(crop)
        batch.rows.append((box.frame, box.object_id, crop))

    def _segment(self, batch: _Batch, device: torch.device) -> list[_Found]:
        """Answer the crops of one batch; runs in a worker."""
        if not batch.crops:
            return []
        # Each network sees the whole batch, whose size decides what is computed, and answers its own crops.
        networks = list({id(crop.network): crop.network for crop in batch.crops}.values())
        answers = {}
        for network in networks:
            if device.type != "cuda":
                answers[id(network)] = self._probabilities(network, batch.inputs_BHWC, device)
                continue
            # One pass at a time: activations of several would add up, and these settings are the process's.
            settings = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            with self._one_pass, settings:
                answers[id(network)] = self._probabilities(network, batch.inputs_BHWC, device)
        return [self._find(crop, answers[id(crop.network)][place]) for place, crop in enumerate(batch.crops)]

    def _memory_format(self, device: torch.device) -> torch.memory_format:
        """Return how maps should lie in memory.

        Channels last is faster, but for depthwise convolutions on a GPU, where it takes cuDNN's slow general algorithm.
        """
        return torch.contiguous_format if self._depthwise and device.type == "cuda" else torch.channels_last

    def _probabilities(
        self, network: nn.Module, crops_BHWC: NDArray[np.uint8], device: torch.device
    ) -> NDArray[np.float32]:
        """Return the object's probability (B, height, width)."""
        half = None if self._config.precision == "float32" else getattr(torch, self._config.precision)
        with torch.inference_mode(), torch.autocast(device.type, dtype=half, enabled=half is not None):
            inputs_BCHW = normalise_crops(torch.from_numpy(crops_BHWC).to(device))
            inputs_BCHW = inputs_BCHW.contiguous(memory_format=self._memory_format(device))
            # Sharpened networks come and go with their clips; recordings of them would pile up.
            if network is self._network:
                (probability_BHW,) = self._recorded(inputs_BCHW)
            else:
                probability_BHW = _probability(network, inputs_BCHW)
        found: NDArray[np.float32] = probability_BHW.cpu().numpy()
        return found

    def _find(self, crop: _Crop, probability: NDArray[np.float32]) -> _Found:
        """Return the mask of a crop from its probability (size, size)."""
        x0, y0, x1, y1 = crop.area
        width, height = x1 - x0, y1 - y0
        fitted = paste_probability(probability, (0, 0, width, height), height, width)
        mask: NDArray[np.bool_] = fitted >= THRESHOLD
        if self._config.clip_to_box:
            mask = drop_specks(mask & near_box(crop.pixels, crop.area))
        inside = np.zeros(fitted.shape, np.bool_)
        inside[crop.pixels[1] - y0 : crop.pixels[3] - y0, crop.pixels[0] - x0 : crop.pixels[2] - x0] = True
        quality = {
            "box_agreement": box_agreement(mask, crop.box - np.array([x0, y0, x0, y0], np.float32)),
            "margin": mean_margin(fitted, inside),
        }
        return _Found(mask, quality)


def _probability(network: nn.Module, inputs_BCHW: Tensor) -> Tensor:
    """Return the object's probability (B, H, W)."""
    return torch.sigmoid(_object_logits(network, inputs_BCHW))


def _object_logits(network: nn.Module, inputs_BCHW: Tensor) -> Tensor:
    """Return the logit (B, H, W) whose sigmoid is the softmax of the network's two, for the second one."""
    logits_BCHW = network(inputs_BCHW).float()
    return cast(Tensor, logits_BCHW[:, 1] - logits_BCHW[:, 0])


def _labels(batch: _Batch, answer: Future[list[_Found]], clip: Clip) -> Iterator[Label]:
    """Yield the labels of a batch, pasted into their frames."""
    found = iter(answer.result())
    for frame, object_id, row in batch.rows:
        if isinstance(row, Label):
            yield row
            continue
        x0, y0, x1, y1 = row.area
        result = next(found)
        mask = np.zeros((clip.height, clip.width), np.bool_)
        mask[y0:y1, x0:x1] = result.mask
        score = predicted_iou(result.quality["box_agreement"], result.quality["margin"])
        yield Label(frame, object_id, mask, score, result.quality)
