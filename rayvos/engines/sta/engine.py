"""Engine `sta`: masks from boxes by windows of boxed frames and a filter that is fitted online, twice.

Each object of a frame is cropped on its own; the window's frames are solved together, the masks that this draws are
encoded and solved again, and the second masks of labelled frames are pasted back, cut at the box, and merged: a pixel
goes to the most probable object. An object is absent where it has no visible box; such frames are in no window.

Source: STA; facts and differences: `models/sta.py`, `engines/sta/crops.py` and `engines/sta/windows.py`.
Differs here: an object's first frame is labelled like any other (the authors put its true mask there).
The schedule is exact: a frame is encoded once (see `engines/sta/ring.py`), equal windows are solved once, and second
masks are drawn for labelled frames only. `benchmarks/sta_schedule.py` measures it against the plain schedule.
Layouts: H W pixels of the crop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Box, Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label
from rayvos.engines.devices import find_device, single_threads
from rayvos.engines.scores import mean_margin, overlap, predicted_iou
from rayvos.engines.sta.crops import Crop, cut_crop, label_map, paint_box, paste_logits, place_crop
from rayvos.engines.sta.ring import BLOCK_REACHES, Key, Step, plan_steps
from rayvos.engines.sta.solve import FrameInput, Precision, Solved, StaRunner, Window, code_bytes
from rayvos.engines.sta.windows import RECIPES, Recipe, Sampling, WindowJob, plan_jobs
from rayvos.errors import UsageError, WeightsError, choose
from rayvos.masks.agreement import box_agreement
from rayvos.masks.boxes import round_box
from rayvos.models.sta import STRIDE, FrameCode
from rayvos.models.sta_checkpoint import load_sta

__all__ = ["StaConfig", "StaEngine"]

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class StaConfig:
    """Options of the engine `sta`."""

    recipe: Recipe = "youtube-vos"
    """The authors' windows for a data set: `youtube-vos` (9 frames, 15 apart), `davis` (9, 5 apart), `got10k` (5, 15
    apart) or `lasot` (5, 15 apart; every 5th frame of an object gets a label, 200 at most)."""
    window: int | None = None
    """Frames of a window; None: as the recipe has it."""
    interval: int | None = None
    """Frames between neighbours in a window; None: as the recipe has it."""
    label_every: int | None = None
    """Label every so many frames from an object's first one; the others stay absent. None: as the recipe has it."""
    max_labels: int | None = None
    """Labels of an object at most; None: as the recipe has it."""
    iterations: int = 15
    """Steps of each filter; the authors' 15."""
    context: float = 4.0
    """Extent of a crop in extents of its box; the authors' 4."""
    height: int | None = None
    """Height of the network's input, a multiple of 32; None: that of the crops it learnt from (the authors': 480)."""
    width: int | None = None
    """Width of the network's input, a multiple of 32; None: that of the crops it learnt from (the authors': 832)."""
    precision: Precision = "float32"
    """Arithmetic of convolutions; the halves are faster on GPUs and move about one pixel in a thousand. Filters, and
    with bfloat16 the decoder, are float32."""
    memory_gb: float = 2.0
    """Memory for codes of frames; where it is short, some are computed twice. Labels do not depend on it."""

    def __post_init__(self) -> None:
        choose("recipe", self.recipe, RECIPES)
        choose("precision", self.precision, ("float32", "bfloat16", "float16"))
        for name in ("window", "interval", "label_every", "max_labels", "iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected at least 1, found {value}")
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and (value < 2 * STRIDE or value % STRIDE):
                raise UsageError(f"{name}: expected a multiple of {STRIDE} from {2 * STRIDE}, found {value}")
        if not 1 <= self.context <= 20:
            raise UsageError(f"context: expected 1 to 20 times the box, found {self.context}")
        if not self.memory_gb > 0:
            raise UsageError(f"memory_gb: expected more than 0, found {self.memory_gb}")

    def sampling(self) -> Sampling:
        """Return the windows of the recipe with the options that replace parts of it."""
        given = {name: getattr(self, name) for name in ("window", "interval", "label_every", "max_labels")}
        return Sampling(**(asdict(RECIPES[self.recipe]) | {key: value for key, value in given.items() if value}))


@dataclass(frozen=True, slots=True, eq=False)
class _Target:
    """One object on one frame where it is visible."""

    box: NDArray[np.float64]
    """`x, y, width, height`."""
    crop: Crop
    painted: NDArray[np.bool_]
    """(H, W): the box in the crop."""


@dataclass(slots=True, eq=False)
class _Pending:
    """What is known so far of one label."""

    needs_check: bool
    part: tuple[NDArray[np.float32], tuple[int, int]] | None = None
    """Final logits inside the box, in the frame, and where they start."""
    quality: dict[str, float] = field(default_factory=dict)
    own: NDArray[np.bool_] | None = None
    """First mask by its own window, pixels of the painted box."""
    check: NDArray[np.bool_] | None = None
    """First mask by another window."""

    @property
    def complete(self) -> bool:
        """Whether everything is known."""
        return self.part is not None and (self.check is not None or not self.needs_check)


class StaEngine:
    """Labels boxes by spatio-temporal aggregation; needs a weights file, ours or the authors'.

    Labels are the same, bit for bit, however frames are split, whichever objects share a frame, and however many
    threads work: on CPUs of one kind, or on GPUs of one kind.
    """

    name = "sta"

    def __init__(self, config: StaConfig | None = None, *, weights: str | None = None, device: str = "auto") -> None:
        """Load the weights; a GPU is not touched before the first label.

        Args:
            config: options; None: the defaults.
            weights: path or URL of a rayvos weights file or of the authors' checkpoint.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.

        Raises:
            WeightsError: no weights are given, or they are missing, damaged or another network's.
            UsageError: there is no such kind of device.
        """
        if weights is None:
            raise WeightsError(
                "engine 'sta' needs --weights FILE: the authors' checkpoint or one that rayvos trained; "
                "none is packaged; use --engine cut"
            )
        choose("device", device.partition(":")[0], ("auto", "cpu", "cuda"))
        self._config = config or StaConfig()
        self._device_name = device
        self._sampling = self._config.sampling()
        network, self.weights = load_sta(weights)
        self._model = network.model
        self._size = (self._config.height or network.model.height, self._config.width or network.model.width)
        self._runner = StaRunner(
            network, size=self._size, steps=self._config.iterations, precision=self._config.precision
        )

    def options(self) -> Mapping[str, Any]:
        """Return everything besides the weights that labels depend on, recipes resolved.

        Device and memory are left out: they change labels by rounding only, or not at all.
        """
        left_out = ("recipe", "memory_gb")
        own = {key: value for key, value in asdict(self._config).items() if key not in left_out}
        return own | asdict(self._sampling) | {"height": self._size[0], "width": self._size[1]}

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know."""
        on_gpu = find_device(self._device_name, check=False).type == "cuda"
        # 0.8 s a label on one CPU core with 5 frames at 192x320; the time grows with the crop's area and, as one part
        # in about three depends on the frame alone, with the window. An H200 took 0.03 s at 480x832.
        share = self._size[0] * self._size[1] / (192 * 320) * (2 + self._sampling.window) / 7
        if self._model.variant == "compact":
            share *= 0.35
        # Pictures wait for the codes that are made of them: a block of the ring and a window's reach, at most.
        pictures = (1 + BLOCK_REACHES) * (1 + self._sampling.reach) * 1080 * 1920 * 3
        return EngineNeeds(
            halo=self._sampling.reach,
            seconds_per_frame=0.01,
            seconds_per_label=0.01,
            seconds_per_crop=(0.0045 if on_gpu else 0.8) * share,
            num_cpus=2 if on_gpu else 1,
            # `auto` on a machine without a GPU may be planning for a cluster that has some.
            num_gpus=0 if self._device_name == "cpu" else 1,
            # 1.5 GB at 480x832 with 9 frames and 12 codes, measured; the codes and pictures of longer reaches added.
            memory_bytes=(2 << 30) + int(self._config.memory_gb * (1 << 30)) + pictures,
        )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame and object, ordered by (frame, object_id).

        An object without a visible box on a frame is absent there, and so it is on frames that the recipe leaves out.
        A box outside the frame gives an empty mask with score 0, and `quality` says `box_outside`; its frame is in no
        window.

        Raises:
            InputError: a frame cannot be read.
            UsageError: the device does not exist here.
        """
        boxes = {(box.object_id, box.frame): box for box in clip.boxes if box.visible}
        visible: dict[int, set[int]] = {object_id: set() for object_id in clip.object_ids()}
        for (object_id, frame), box in boxes.items():
            if object_id in visible and _touches(box, clip):
                visible[object_id].add(frame)
        jobs, wanted = plan_jobs(visible, frames, clip.num_frames, self._sampling)
        pending = {key: _Pending(checked) for key, checked in wanted.items()}
        with closing(self._solved(clip, images, jobs, boxes, pending)) as solved:
            for frame in frames:
                shown = [object_id for object_id in clip.object_ids() if (frame, object_id) in wanted]
                while not all(pending[frame, object_id].complete for object_id in shown):
                    next(solved)
                found = {object_id: pending.pop((frame, object_id)) for object_id in shown}
                masks = _merge(found, clip)
                for object_id in clip.object_ids():
                    if object_id in found:
                        yield _label(frame, object_id, masks[object_id], found[object_id], boxes[object_id, frame])
                    elif (object_id, frame) in boxes and frame not in visible[object_id]:
                        empty = np.zeros((clip.height, clip.width), np.bool_)
                        yield Label(frame, object_id, empty, 0.0, {"box_outside": 1.0})
                    else:
                        yield Label(frame, object_id, None)

    def _solved(
        self,
        clip: Clip,
        images: FrameReader,
        jobs: Sequence[WindowJob],
        boxes: Mapping[tuple[int, int], Box],
        pending: Mapping[tuple[int, int], _Pending],
    ) -> Generator[None, None, None]:
        """Fill `pending`, one step at a time."""
        device = find_device(self._device_name)
        self._runner.move_to(device, longest=(self._sampling.window - 1) // 2 * 2 + 1)
        with single_threads(device, "sta") as (pool, num_threads):
            grouping = self._runner.grouping
            together = grouping.windows if device.type == "cuda" else num_threads
            steps = plan_steps(jobs, self._sampling, capacity=self._capacity(), together=together)
            pictures = _Pictures(images, steps)
            ring: dict[Key, FrameCode] = {}

            def in_turn(work: Callable[[list[Given]], list[Found]], given: list[Given], size: int) -> Iterator[Found]:
                groups = [given[start : start + size] for start in range(0, len(given), size)]
                for found in pool.map(work, groups) if device.type == "cpu" else map(work, groups):
                    yield from found

            for step in steps:
                for key in step.forget:
                    del ring[key]
                inputs = [self._input(clip, boxes[key], pictures.take(key[1])) for key in step.encode]
                codes = in_turn(self._runner.encode, inputs, grouping.frames)
                ring.update(zip(step.encode, codes, strict=True))
                windows = [_window(job, ring) for job in step.jobs]
                answers = in_turn(self._runner.solve, windows, grouping.windows)
                for job, answer in zip(step.jobs, answers, strict=True):
                    self._keep(job, answer, clip, boxes, pending)
                yield

    def _capacity(self) -> int:
        """Return how many codes the ring holds."""
        return int(
            self._config.memory_gb * (1 << 30) / code_bytes(self._size, self._config.precision, self._model.widths)
        )

    def _target(self, clip: Clip, box: Box) -> _Target:
        placed = np.array([box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0])
        crop = place_crop(placed, (clip.height, clip.width), self._size, self._config.context)
        return _Target(placed, crop, paint_box(crop.inside(placed), self._size))

    def _input(self, clip: Clip, box: Box, image: NDArray[np.uint8]) -> FrameInput:
        target = self._target(clip, box)
        return FrameInput(cut_crop(image, target.crop), target.painted)

    def _keep(
        self,
        job: WindowJob,
        answer: Solved,
        clip: Clip,
        boxes: Mapping[tuple[int, int], Box],
        pending: Mapping[tuple[int, int], _Pending],
    ) -> None:
        """Keep what a window says of its labels: inside their boxes only, so that little waits for its turn."""
        for frame in job.checks:
            painted = self._target(clip, boxes[job.object_id, frame]).painted
            pending[frame, job.object_id].check = answer.first[job.frames.index(frame)][painted]
        for frame in job.labels:
            target = self._target(clip, boxes[job.object_id, frame])
            label, position = pending[frame, job.object_id], job.frames.index(frame)
            logits, first = answer.logits[position], answer.first[position][target.painted]
            inside = logits[target.painted]
            label.part = paste_logits(logits, target.crop, target.box, (clip.height, clip.width))
            label.own = first
            with np.errstate(over="ignore"):  # 1 / infinity is the right answer
                probability: NDArray[np.float32] = np.float32(1) / (np.float32(1) + np.exp(-inside))
            label.quality = {
                "margin": mean_margin(probability, np.ones_like(first)) if len(first) else 0.0,
                "pass_agreement": _iou(first, inside > 0),
                "solver_loss": answer.loss,
            }


class _Pictures:
    """The frames that codes are made of, read once and in order, kept until no code needs them any more."""

    def __init__(self, images: FrameReader, steps: Sequence[Step]) -> None:
        self._uses = Counter(frame for step in steps for _, frame in step.encode)
        self._coming = images.read(sorted(self._uses))
        self._held: dict[int, NDArray[np.uint8]] = {}

    def take(self, frame: int) -> NDArray[np.uint8]:
        """Return a frame for one of its uses."""
        while frame not in self._held:
            position, image = next(self._coming)
            self._held[position] = image
        image = self._held[frame]
        self._uses[frame] -= 1
        if not self._uses[frame]:
            del self._held[frame]
        return image


def _touches(box: Box, clip: Clip) -> bool:
    """Tell whether anything of a box is inside the frame."""
    return round_box(np.array([box.x0, box.y0, box.x1, box.y1], np.float32), clip.height, clip.width) is not None


def _window(job: WindowJob, ring: Mapping[Key, FrameCode]) -> Window:
    codes = [ring[job.object_id, frame] for frame in job.frames]
    labels, checks = ([job.frames.index(frame) for frame in frames] for frames in (job.labels, job.checks))
    return Window(codes, labels, checks)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return overlap(a.astype(np.float32), b.astype(np.float32))


def _merge(found: Mapping[int, _Pending], clip: Clip) -> dict[int, NDArray[np.bool_]]:
    """Return the masks of a frame's objects, which do not overlap."""
    parts = [label.part for label in found.values() if label.part is not None]
    labels = label_map(parts, (clip.height, clip.width))
    return {object_id: labels == number for number, object_id in enumerate(found, start=1)}


def _label(frame: int, object_id: int, mask: NDArray[np.bool_], found: _Pending, box: Box) -> Label:
    """Return the label with its score: agreement of passes and windows is the second opinion it asks for.

    The weights of the terms are those of `predicted_iou`, measured with other engines.
    """
    quality = dict(found.quality)
    quality["box_agreement"] = box_agreement(mask, np.array([box.x0, box.y0, box.x1, box.y1], np.float32))
    opinions = [quality["pass_agreement"]]
    if found.check is not None and found.own is not None:
        quality["window_agreement"] = _iou(found.own, found.check)
        opinions.append(quality["window_agreement"])
    score = predicted_iou(quality["box_agreement"], quality["margin"], sum(opinions) / len(opinions))
    return Label(frame, object_id, mask, score, quality)
