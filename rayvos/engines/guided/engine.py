"""Engine `guided`: a compact network that judges between colour, motion and shape, in the box or near the prompt.

Each object of each frame is cropped; the planes of `rayvos.engines.guided.guidance` go through the network of
`rayvos.models.guided`; the probabilities of the frames beside, moved along the flow, count half as much as the
frame's own; enlarged to the frame, their edges follow the picture's (`rayvos.masks.edges`). Where an object has a
box, its mask ends a tenth outside the box and holds no specks; where it has none, points, a trace or a mask prompt of
that frame say where it is. A trace says little of an object's extent: GrabCut (engine `scribble`) is asked first, and
the network looks at the box of what that finds.

Masks that a person gave of an object (`finetune`) do two things: a copy of the network is sharpened with them, and
engine `stcn` propagates them through the clip. Both vote with the network as it was, each as much as its answer fits
the box (`voices.py`), so that a frame on which one of them fails is left to the others. Where there are none, the best
of the engine's own masks may be propagated (`propagate`): what is plain on one frame helps on others.

Why so: unless masks are propagated, networks sharpened or adapted, labels of a frame depend on the pictures up to five
frames around it and nothing else, and no crop's answer depends on which others share its forward pass, so that units
may cut a clip anywhere and give the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.engines.base import EngineNeeds, FrameReader, Label
from rayvos.engines.cut.frame_flows import FrameFlows, read_frame_flows
from rayvos.engines.cut.scribble import ScribbleEngine
from rayvos.engines.devices import find_device, single_threads
from rayvos.engines.finetune import FinetuneMasks, check_finetuning, masked_objects, tuning_masks, used_options
from rayvos.engines.guided.adapt import adapt_segmenter, check_share
from rayvos.engines.guided.answers import AnsweredFrame, KeptAnswers, best_masks
from rayvos.engines.guided.clip_prompts import ClipPrompts
from rayvos.engines.guided.guidance import OFFSETS, Guidance, Prompt, guidance_planes
from rayvos.engines.guided.labels import NEAR, FrameLabeler
from rayvos.engines.guided.network import DEFAULT_WEIGHTS, Found, GuidedSegmenter, load_segmenter
from rayvos.engines.guided.propagated import PropagatedMasks, view_on_crop
from rayvos.engines.guided.tuning import sharpen_segmenters
from rayvos.engines.guided.voices import hear_voices
from rayvos.engines.stcn.engine import StcnEngine
from rayvos.engines.stcn.spool import ProbabilitySpool
from rayvos.errors import UsageError, choose
from rayvos.masks.boxes import mask_to_box

__all__ = ["GuidedConfig", "GuidedEngine"]

SECOND_VOICE = 0.5  # of what was propagated of the network's own masks: it repeats their errors
SECONDS_PER_LABEL = 0.22  # of which the cuts take 0.17, the network 0.04; one core
SECONDS_PER_VOICE = 0.2  # propagation, and the sharpened network
SECONDS_PER_STEP = 0.07  # of the sharpening, at 128x128 on one core
ADAPT_PLANES_S, ADAPT_STEP_S = 15.0, 0.5  # of the adaptation there: planes of 48 pairs, a step of batch 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedConfig:
    """Options of the engine `guided`."""

    flip: bool = True
    """Show every crop mirrored, too: the network takes twice the time, masks are a little better."""
    neighbours: bool = True
    """Let the masks of the frames beside vote, moved along the flow."""
    trace_box: bool = True
    """Where there is a trace and no box, let the network look at the box of what GrabCut finds."""
    edges: bool = True
    """Let the edges of masks follow those of the picture."""
    clip_to_box: bool = True
    """Cut masks off 10 % outside their box."""
    finetune: FinetuneMasks = "none"
    """Sharpen the network for each object with `all` its masks in turn, the `middle` one, or the `first`."""
    finetune_steps: int = 300
    """Steps of the sharpening."""
    finetune_rate: float = 2e-4
    """Learning rate of the sharpening."""
    finetune_propagate: bool = True
    """Let the masks that sharpen, propagated through the clip by engine `stcn`, vote on every frame, too."""
    adapt: bool = False
    """Adapt the network to each clip by its boxes alone, and keep that where the predicted score says it helps."""
    adapt_steps: int = 60
    """Steps of the adaptation."""
    adapt_rate: float = 1e-4
    """Learning rate of the adaptation."""
    adapt_share: float = 0.5
    """How far from the old weights to the adapted ones: what boxes say is true of most clips, and wrong of some."""
    propagate: bool = False
    """Let the best masks of each object, propagated through the clip by engine `stcn`, vote on every frame."""
    seed: int = 0
    """Of the sharpening's and the adaptation's random numbers."""

    def __post_init__(self) -> None:
        check_finetuning(self.finetune, self.finetune_steps, self.finetune_rate)
        if self.adapt_steps < 1 or not self.adapt_rate > 0:
            raise UsageError(f"adapt_steps {self.adapt_steps}, adapt_rate {self.adapt_rate}: expected numbers above 0")
        check_share("adapt_share", self.adapt_share)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One frame on its way through the network."""

    frame: int
    image: NDArray[np.uint8]
    prompts: Mapping[int, Prompt]
    guidances: Mapping[int, Guidance]
    propagated: Mapping[int, NDArray[np.float32]]
    """What the masks given on other frames say of this one, see `PropagatedMasks`."""
    flows: Mapping[int, NDArray[np.float32]]
    scale: float


class GuidedEngine:
    """Segments what prompts point at, with the packaged weights or others; see the module's docstring."""

    name = "guided"

    def __init__(
        self,
        config: GuidedConfig | None = None,
        *,
        weights: str | None = None,
        device: str = "auto",
        segmenter: GuidedSegmenter | None = None,
    ) -> None:
        """Load the weights; a GPU is not touched before the first label.

        Args:
            config: options; None: the defaults.
            weights: path or URL of guided weights; None: those that come with rayvos.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:INDEX`.
            segmenter: a network that is loaded already (say, one adapted to these clips) in the place of `weights`.

        Raises:
            WeightsError: the weights are missing, damaged or another network's.
            UsageError: there is no such kind of device.
        """
        choose("device", device.partition(":")[0], ("auto", "cpu", "cuda"))
        self._config = config or GuidedConfig()
        self._device_name = device
        self._segmenter = segmenter or load_segmenter(weights or DEFAULT_WEIGHTS, flip=self._config.flip)
        self.weights = self._segmenter.digest
        given = self._config.finetune != "none" and self._config.finetune_propagate
        propagates = given or self._config.propagate
        self._propagator = StcnEngine(device=device) if propagates else None

    def options(self) -> Mapping[str, Any]:
        """Return everything besides the weights that labels depend on."""
        options = used_options(asdict(self._config))
        return options if self._propagator is None else {**options, "propagator": self._propagator.weights}

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know."""
        tunes, adapts, propagates = self._config.finetune != "none", self._config.adapt, self._config.propagate
        whole_clips = tunes or adapts or propagates
        halo = max(OFFSETS) + (NEAR if self._config.neighbours else 0)
        # Cuts take most of the time, and run on CPUs: an actor per core beats an actor per GPU, unless it learns.
        on_gpu = self._device_name.startswith("cuda") or (whole_clips and self._device_name == "auto")
        return EngineNeeds(
            halo=None if whole_clips else halo,  # masks and boxes anywhere change the labels of the whole clip
            seconds_per_frame=0.12 if propagates else 0.06,
            seconds_per_label=SECONDS_PER_LABEL + (SECONDS_PER_VOICE if tunes or propagates else 0.0),
            seconds_per_clip=ADAPT_PLANES_S + ADAPT_STEP_S * self._config.adapt_steps if adapts else 0.0,
            seconds_per_masked_object=2 + SECONDS_PER_STEP * self._config.finetune_steps if tunes else 0.0,
            separate_objects=not adapts,
            num_cpus=2 if tunes else 1,  # without a GPU: objects are sharpened side by side
            num_gpus=1 if on_gpu else 0,
            memory_bytes=((3 if on_gpu else 1) << 30)
            + (40 if tunes else 4) * self._segmenter.network_bytes
            + (0 if self._propagator is None else 1 << 30),
        )

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame of `frames` and every object, ordered by (frame, object_id).

        An object without a prompt on a frame is absent there. A prompt outside the frame, and one in whose
        surroundings nothing is found, give an empty mask; `quality` says `box_outside` in the first case.

        Raises:
            InputError: a frame cannot be read.
            UsageError: the device does not exist here.
        """
        self._segmenter.move(find_device(self._device_name))
        base = self._segmenter if not self._config.adapt else self._adapted(clip, images)
        masks = self._tuning_masks(clip)
        segmenters = self._sharpened(clip, images, base, masks)
        prompts = ClipPrompts(clip)
        reach = NEAR if self._config.neighbours else 0
        first, stop = max(0, frames.start - reach), min(clip.num_frames, frames.stop + reach)
        wanted = [frame for frame in range(first, stop) if frame in prompts.frames]
        with ExitStack() as stack:
            propagated = None
            if self._propagator is not None and self._config.finetune_propagate and masks:
                propagated = PropagatedMasks(self._propagator, stack)
                propagated.add(clip, images, masks, wanted)
            answers = self._answers(images, prompts, wanted, base, segmenters, propagated)
            if self._config.propagate:
                answers = self._second_look(stack, clip, images, prompts, wanted, answers, masks)
            yield from self._labeler().labels(clip, frames, answers)

    def _second_look(
        self,
        stack: ExitStack,
        clip: Clip,
        images: FrameReader,
        prompts: ClipPrompts,
        wanted: list[int],
        answers: Iterator[tuple[int, AnsweredFrame]],
        masks: list[MaskPrompt],
    ) -> Iterator[tuple[int, AnsweredFrame]]:
        """Yield the answers again, after the best masks of objects without given ones have voted, too."""
        assert self._propagator is not None, "the configuration asks for it"
        kept = KeptAnswers(stack.enter_context(ProbabilitySpool()))
        propagated = PropagatedMasks(self._propagator, stack)
        first = self._labeler().labels(clip, range(clip.num_frames), kept.keep(answers))
        given = {mask.object_id for mask in masks}
        best = [mask for mask in best_masks(first, prompts.frames_of) if mask.object_id not in given]
        propagated.add(clip, images, best, wanted)
        near = [offset for offset in OFFSETS if abs(offset) <= NEAR]
        for shot in read_frame_flows(images, wanted, near):
            answered = kept.on(shot, prompts.on(shot.frame))
            found = dict(answered.found)
            for object_id, probability in propagated.on(shot.frame).items():
                if object_id in found:
                    seen = view_on_crop(probability, found[object_id].crop, clip.height, clip.width)
                    boxed = answered.prompts[object_id].box is not None
                    found[object_id] = hear_voices([found[object_id]], seen, boxed=boxed, share=SECOND_VOICE)
            yield shot.frame, replace(answered, found=found)

    def _labeler(self) -> FrameLabeler:
        config = self._config
        return FrameLabeler(neighbours=config.neighbours, edges=config.edges, clip_to_box=config.clip_to_box)

    def _adapted(self, clip: Clip, images: FrameReader) -> GuidedSegmenter:
        config = self._config
        return adapt_segmenter(
            self._segmenter, clip, images,
            steps=config.adapt_steps, learning_rate=config.adapt_rate, share=config.adapt_share, seed=config.seed,
        ).segmenter  # fmt: skip

    def _tuning_masks(self, clip: Clip) -> list[MaskPrompt]:
        choice = self._config.finetune
        if choice == "none":
            return []
        return [mask for object_id in masked_objects(clip) for mask in tuning_masks(clip, object_id, choice)]

    def _sharpened(
        self, clip: Clip, images: FrameReader, base: GuidedSegmenter, masks: list[MaskPrompt]
    ) -> Mapping[int, GuidedSegmenter]:
        """Return the segmenters of the objects of which a person gave masks."""
        config = self._config
        if not masks:
            return {}
        return sharpen_segmenters(
            base, clip, images, masks,
            steps=config.finetune_steps, learning_rate=config.finetune_rate, seed=config.seed,
        )  # fmt: skip

    def _answers(
        self,
        images: FrameReader,
        prompts: ClipPrompts,
        wanted: list[int],
        base: GuidedSegmenter,
        segmenters: Mapping[int, GuidedSegmenter],
        propagated: PropagatedMasks | None,
    ) -> Iterator[tuple[int, AnsweredFrame]]:
        """Yield what is found on the wanted frames; the network works while the next planes are made."""

        def answer(asked: _Asked) -> dict[int, Found]:
            found = dict(zip(asked.guidances, base.segment(list(asked.guidances.values())), strict=True))
            for object_id, guidance in asked.guidances.items():
                if object_id not in segmenters:
                    continue
                voices = [found[object_id], segmenters[object_id].segment([guidance])[0]]
                seen = asked.propagated.get(object_id)
                if seen is not None:
                    seen = view_on_crop(seen, voices[0].crop, *asked.image.shape[:2])
                boxed = asked.prompts[object_id].box is not None
                found[object_id] = hear_voices(voices, seen, boxed=boxed)
            return found

        with single_threads(base.device, "guided") as (pool, _):
            pending: deque[tuple[_Asked, Future[dict[int, Found]]]] = deque()
            for shot in read_frame_flows(images, wanted, OFFSETS):
                asked = self._ask(shot, prompts.on(shot.frame), {} if propagated is None else propagated.on(shot.frame))
                pending.append((asked, pool.submit(answer, asked)))
                if len(pending) > 1:
                    yield _answered(*pending.popleft())
            while pending:
                yield _answered(*pending.popleft())

    def _ask(
        self, shot: FrameFlows, prompts: Mapping[int, Prompt], propagated: Mapping[int, NDArray[np.float32]]
    ) -> _Asked:
        """Make the planes of a frame's objects."""
        guidances = {}
        for object_id, prompt in prompts.items():
            shown = self._boxed(shot.image, prompt)
            guidance = guidance_planes(shot.image, shown, shot.flows, shot.scale, self._segmenter.size)
            if guidance is not None:
                guidances[object_id] = guidance
        near = {offset: flow for offset, flow in shot.flows.items() if abs(offset) <= NEAR}
        return _Asked(shot.frame, shot.image, prompts, guidances, propagated, near, shot.scale)

    def _boxed(self, image: NDArray[np.uint8], prompt: Prompt) -> Prompt:
        """Return the prompt with a box, where a trace and no box says where the object is."""
        if not self._config.trace_box or prompt.box is not None or not prompt.trace:
            return prompt
        box = mask_to_box(ScribbleEngine().segment(image, prompt))
        return prompt if box is None else replace(prompt, box=box)


def _answered(asked: _Asked, answer: Future[dict[int, Found]]) -> tuple[int, AnsweredFrame]:
    fits = {object_id: guidance.fit for object_id, guidance in asked.guidances.items()}
    return asked.frame, AnsweredFrame(asked.image, asked.prompts, answer.result(), fits, asked.flows, asked.scale)
