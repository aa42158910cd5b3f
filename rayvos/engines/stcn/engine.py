"""Engine `stcn`: a few masks of a clip, propagated to all of its frames by an STCN network.

Masks may be given on any frames: the forward pass starts at an object's first one, the backward pass at its last
one, and each takes up every mask it meets. Where both know an object, between its first and its last mask, their
probabilities are mixed linearly by the distance to the nearest mask on either side. A given mask stays as it is, and
an object that no pass knows yet is absent. Without `weights` it works with the packaged compact network, at 240
pixels, which also sees where optical flow carries the mask before (`models/stcn_compact.py`).

Source: STCN, with its settings (memory every 5th frame, top 20, 480p); rules and numbers of the official
implementation are in `propagation.py`. Differs: the backward pass and the mixture are ours; where a clip has boxes
besides its masks, masks end near them (`clip_to_box=false`: not); the memory holds 50 predicted frames at most by
default, so that a clip longer than 250 frames costs no more per frame than a short one (`max_memory_frames=none`: the
official way).

Why so: the backward pass is done first, for the frames that need it, and waits in a temporary file; holding it in
memory would bound the clip's length, and passes segment by segment would forget the masks beyond the nearest ones.
What the network computes of a frame alone is kept for the forward pass as far as it fits into half a gigabyte.
Labels on a CPU depend on the number of threads in their last bits, so that number is an option and no accident.

Layouts: K objects, H W pixels.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rayvos.annotations.records import Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label, ObjectProbability
from rayvos.engines.devices import find_device
from rayvos.engines.stcn.anchors import AnchorMasks, Anchors, find_anchors, working_size
from rayvos.engines.stcn.box_limits import BoxLimits
from rayvos.engines.stcn.cache import FeatureCache
from rayvos.engines.stcn.cpu import prepare_for_cpu
from rayvos.engines.stcn.fusion import fuse_passes, label_map, mask_qualities, scale_probability
from rayvos.engines.stcn.labels import Found, arrival, frame_labels, given_label, to_host
from rayvos.engines.stcn.propagation import MemoryRule, pad_to_stride, propagate, unpad
from rayvos.engines.stcn.recorded import RecordedStcn
from rayvos.engines.stcn.spool import ProbabilitySpool
from rayvos.engines.stcn.steps import Features, Network
from rayvos.errors import UsageError, choose
from rayvos.models.stcn import STCN, normalise_images
from rayvos.models.stcn_checkpoint import load_stcn

__all__ = ["StcnConfig", "StcnEngine"]

Direction = Literal["both", "forward", "backward"]
Precision = Literal["float32", "bfloat16", "float16"]

DEFAULT_WEIGHTS = "stcn_compact"
FEATURE_BYTES = 512 << 20  # of frames that both passes use: 9 of the official network at 480x864, 117 of the compact
CHUNK_BYTES, CHUNK_FRAMES = 128 << 20, 32  # of frames that are read forwards and used backwards


@dataclass(frozen=True, slots=True, kw_only=True)
class StcnConfig:
    """Options of the engine `stcn`."""

    direction: Direction = "both"
    """Propagate masks `forward`, `backward`, or `both` ways; `forward` is the rule of the VOS benchmarks."""
    memory_every: int = 5
    """Every so many frames one enters the memory."""
    top_k: int = 20
    """Memory places that each place of a frame reads."""
    remember_last: bool | Literal["auto"] = "auto"
    """Remember the frame before, too, until the next one; auto: as the network learnt it."""
    max_memory_frames: int | None = 50
    """Frames in memory at most: predicted ones, and given ones besides each object's first; none: all."""
    max_size: int | Literal["auto"] | None = "auto"
    """The shorter side of larger frames is scaled down to so many pixels; auto: to what the network is made for;
    none: frames as they are."""
    clip_to_box: bool = True
    """Where an object has a box, cut its mask off 10 % outside of it, before it is remembered."""
    antialias: bool = False
    """Smooth frames before they are scaled down; off: the official way."""
    precision: Precision = "float32"
    """Arithmetic of the network; the halves are faster on GPUs and change labels slightly."""
    threads: int = 1
    """CPU threads; other numbers change labels by rounding."""

    def __post_init__(self) -> None:
        choose("direction", self.direction, ("both", "forward", "backward"))
        choose("precision", self.precision, ("float32", "bfloat16", "float16"))
        for name in ("memory_every", "top_k", "max_memory_frames", "max_size", "threads"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{name}: expected at least 1, found {value}")


class StcnEngine:
    """Propagates the masks of a clip by the packaged compact network, or by official STCN weights."""

    name = "stcn"
    sparse = False
    """Whether given masks are just points of their objects: remembered as they are, and no labels."""

    def __init__(self, config: StcnConfig | None = None, *, weights: str | None = None, device: str = "auto") -> None:
        """Load the weights; a GPU is not touched before the first label.

        Args:
            config: options; None: the defaults.
            weights: path or URL of a rayvos weights file or of an official checkpoint; None: the packaged ones.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.

        Raises:
            WeightsError: the weights are missing, damaged or another network's.
            UsageError: there is no such kind of device.
        """
        choose("device", device.partition(":")[0], ("auto", "cpu", "cuda"))
        self._config = config or StcnConfig()
        self._device_name = device
        network, self.weights = load_stcn(weights or DEFAULT_WEIGHTS)
        self._network = network.requires_grad_(False)
        self._recorded: RecordedStcn | None = None
        self._rule = MemoryRule(
            self._config.memory_every,
            self._config.top_k,
            network.remembers_last if self._config.remember_last == "auto" else self._config.remember_last,
            self._config.max_memory_frames,
        )

    def options(self) -> Mapping[str, Any]:
        """Return everything besides the weights that labels depend on.

        The device is left out: it changes labels by rounding only, and a run may go on where the GPU is not.
        """
        return asdict(self._config)

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know; CPU seconds measured on one core, one pass, GPU ones rough."""
        on_gpu = find_device(self._device_name, check=False).type == "cuda"
        official = isinstance(self._network, STCN)
        return EngineNeeds(
            halo=None,
            seconds_per_frame=0.02 if on_gpu else 1.1 if official else 0.07,
            seconds_per_label=0.015 if on_gpu else 1.1 if official else 0.1,
            num_cpus=self._config.threads if not on_gpu else 2,
            # `auto` on a machine without a GPU may be planning for a cluster that has some.
            num_gpus=0 if self._device_name == "cpu" else 1,
            memory_bytes=(9 << 29) if official else (2 << 30),
        )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame and object, ordered by (frame, object_id).

        An object is absent where its mask says so, where nothing of it is found, where no pass knows it yet, and
        everywhere if none of its masks holds a pixel. A given mask comes back as it is, with score 1.

        Raises:
            InputError: there are no masks, or more than 254 objects with masks; a mask or a frame cannot be read.
            StorageError: the temporary folder is full.
            UsageError: the device does not exist here.
        """
        anchors = find_anchors(clip)
        behind: Found | None = None  # its masks are made while a GPU works on the next frame
        for frame, forward, backward in self._both_passes(clip, images, anchors, frames):
            found = self._find(clip, anchors, frame, forward, backward)
            if behind is not None:
                yield from frame_labels(clip, anchors, behind)
            behind = found
        if behind is not None:
            yield from frame_labels(clip, anchors, behind)

    def probabilities(self, clip: Clip, images: FrameReader, frames: Sequence[int]) -> Iterator[ObjectProbability]:
        """Yield the fused probability of every frame and object; see `Propagator`. A given mask is certain.

        Raises:
            InputError, StorageError, UsageError: see `label`.
        """
        anchors = find_anchors(clip)
        positions = {object_id: position for position, object_id in enumerate(anchors.object_ids)}
        for frame, forward, backward in self._both_passes(clip, images, anchors, frames):
            shares = [self._share(anchors, frame, position) for position in range(len(positions))]
            given = {} if self.sparse else anchors.by_frame.get(frame, {})
            known = {p for p, share in enumerate(shares) if share is not None and p not in given}
            with self._arithmetic():
                fused = fuse_passes(forward, backward, shares) if known else None
            for object_id in clip.object_ids():
                position = positions.get(object_id, -1)
                if fused is not None and position in known:
                    with self._arithmetic():
                        scaled = scale_probability(fused[position + 1], (clip.height, clip.width))
                        found = scaled.clamp(0, 1).cpu().numpy()  # sums of shares may round above 1
                else:
                    mask = given_label(clip, given[position]).mask if position in given else None
                    found = np.zeros((clip.height, clip.width), np.float32) if mask is None else np.float32(1) * mask
                yield ObjectProbability(frame, object_id, found)

    def _both_passes(
        self, clip: Clip, images: FrameReader, anchors: Anchors, frames: Sequence[int]
    ) -> Iterator[tuple[int, Tensor | None, Tensor | None]]:
        """Yield (frame, forward, backward) for ascending frames, as `fuse_passes` takes them; None: not needed."""
        device = find_device(self._device_name)
        cache = FeatureCache(FEATURE_BYTES if self._config.direction == "both" else 0)
        with ExitStack() as stack:
            spool = stack.enter_context(ProbabilitySpool())
            if self._config.direction != "forward":
                for frame, maps in self._pass(clip, images, anchors, frames, device, cache, backward=True):
                    spool.put(frame, maps[1:].cpu().numpy())
            forward = self._pass(clip, images, anchors, frames, device, cache, backward=False)
            stack.enter_context(closing(forward))
            ahead = next(forward, None)
            for frame in frames:
                found = None
                if ahead is not None and ahead[0] == frame:
                    found, ahead = ahead[1], next(forward, None)
                kept = spool.get(frame)
                yield frame, found, None if kept is None else torch.from_numpy(kept).to(device)

    def _share(self, anchors: Anchors, frame: int, position: int) -> float | None:
        direction = self._config.direction
        return anchors.forward_share(frame, position, forward=direction != "backward", backward=direction != "forward")

    def _pass(
        self,
        clip: Clip,
        images: FrameReader,
        anchors: Anchors,
        frames: Sequence[int],
        device: torch.device,
        cache: FeatureCache,
        *,
        backward: bool,
    ) -> Generator[tuple[int, Tensor], None, None]:
        """Yield (frame, probability (K + 1, H, W) at the working size) where this pass is needed."""
        num_objects = len(anchors.object_ids)
        wanted = set()
        for frame in frames:
            shares = [self._share(anchors, frame, position) for position in range(num_objects)]
            if any(share is not None and share < 1 if backward else share for share in shares):
                wanted.add(frame)
        if not wanted:
            return
        order = (
            range(max(anchors.last), min(wanted) - 1, -1) if backward else range(min(anchors.first), max(wanted) + 1)
        )
        size = working_size(clip.height, clip.width, self._max_size())
        padding = pad_to_stride(torch.empty(size))[1]
        masks = AnchorMasks(anchors, clip, size, device, backward=backward, sparse=self.sparse)
        network = self._prepared(device)
        unread = order if backward else cache.without(order)
        with closing(_pictures(images, unread, size, device, antialias=self._config.antialias)) as pictures:

            def encode(frame: int) -> tuple[Tensor, Features]:
                kept = cache.take(frame)
                if kept is not None:
                    return kept
                image = next(picture for at, picture in pictures if at == frame)
                features = network.encode_key(image)
                if backward and frame >= min(anchors.first):
                    cache.put(frame, image, features)
                return image, features

            limits = BoxLimits(clip, anchors.object_ids, size, device).on if self._config.clip_to_box else None
            found = propagate(
                network, encode, order, masks, num_objects,
                rule=self._rule, wanted=wanted, limits=limits, sparse=self.sparse,
            )  # fmt: skip
            while True:
                # Entered anew each time: a generator must not leave its settings behind while its caller works.
                with self._arithmetic(), self._mixed(device):
                    step = next(found, None)
                if step is None:
                    return
                yield step[0], unpad(step[1], padding)

    def _max_size(self) -> int | None:
        return self._network.short_side if self._config.max_size == "auto" else self._config.max_size

    def _prepared(self, device: torch.device) -> Network:
        """Return the network on the device it works on; not before, since planning needs none."""
        if device.type == "cuda" and isinstance(self._network, STCN):
            self._recorded = self._recorded or RecordedStcn(self._network, device)
            return self._recorded
        self._network.to(device)
        if device.type == "cpu" and self._config.precision == "float32" and isinstance(self._network, STCN):
            prepare_for_cpu(self._network)
        return self._network

    def _mixed(self, device: torch.device) -> torch.autocast:
        half = None if self._config.precision == "float32" else getattr(torch, self._config.precision)
        return torch.autocast(device.type, dtype=half, enabled=half is not None)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Compute without gradients, on so many threads, the same way each time; put the process's settings back."""
        num_threads = torch.get_num_threads()
        torch.set_num_threads(self._config.threads)
        settings = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        try:
            with torch.inference_mode(), settings:
                yield
        finally:
            torch.set_num_threads(num_threads)

    def _find(self, clip: Clip, anchors: Anchors, frame: int, forward: Tensor | None, backward: Tensor | None) -> Found:
        """Ask for the masks of one frame, and what speaks for them, from what the passes found there."""
        shares = [self._share(anchors, frame, position) for position in range(len(anchors.object_ids))]
        given = {} if self.sparse else anchors.by_frame.get(frame, {})
        known = [p for p, share in enumerate(shares) if share is not None and p not in given]
        if not known:
            return Found(frame, given, [], None, None, None)
        with self._arithmetic():
            fused = fuse_passes(forward, backward, shares)
            size = (fused.shape[1], fused.shape[2])
            winners = label_map(fused, size)
            numbers = to_host(mask_qualities(fused, winners, forward, backward, {p: shares[p] for p in known}))
            if size != (clip.height, clip.width):
                winners = label_map(fused, (clip.height, clip.width))
            winners = to_host(winners)
        return Found(frame, given, known, winners, numbers, arrival(fused.device))


def _pictures(
    images: FrameReader, order: range | list[int], size: tuple[int, int], device: torch.device, *, antialias: bool
) -> Generator[tuple[int, Tensor], None, None]:
    """Yield (frame, normalised, scaled, padded image (1, 3, H, W)) in an order that may go back."""

    def prepare(image: NDArray[np.uint8]) -> Tensor:
        pixels_HWC = torch.from_numpy(image)
        if device.type == "cuda":  # from ordinary memory, a copy would wait for all that the GPU still has to do
            pixels_HWC = pixels_HWC.pin_memory()
        image_1CHW = normalise_images(pixels_HWC.to(device, non_blocking=True)[None])
        if image_1CHW.shape[-2:] != size:
            image_1CHW = F.interpolate(image_1CHW, size, mode="bicubic", align_corners=False, antialias=antialias)
        return pad_to_stride(image_1CHW)[0]

    if isinstance(order, list) or order.step > 0:
        for frame, image in images.read(order):
            yield frame, prepare(image)
        return
    length = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // (12 * size[0] * size[1])))
    for start in range(0, len(order), length):
        chunk = order[start : start + length]
        prepared = [(frame, prepare(image)) for frame, image in images.read(chunk[::-1])]
        while prepared:
            yield prepared.pop()
