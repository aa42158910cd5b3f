"""The candidates job: what `rayvos candidates` does to each clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import Piece
from rayvos.annotations.unit_rows import ResultTable
from rayvos.engines.base import Engine, EngineNeeds, FrameReader, Propagator
from rayvos.engines.candidates.key_prompts import key_prompts
from rayvos.engines.candidates.mining import MiningOptions, mine_clip
from rayvos.engines.registry import EngineChoice
from rayvos.engines.timing import StageSeconds
from rayvos.errors import InputError, UsageError
from rayvos.pipelines.job import Job

__all__ = ["CandidateChoice", "CandidateJob", "CandidateMining"]


@dataclass(frozen=True, slots=True)
class CandidateJob(Job):
    """All that a candidates job is told; `engine` is the propagator."""

    guide: EngineChoice = field(default_factory=lambda: EngineChoice("guided"))
    """Makes masks of boxes, traces and points on key frames."""
    options: MiningOptions = field(default_factory=MiningOptions)

    def work(self) -> CandidateChoice:
        """Return what is done to each clip; the guide works where the propagator does."""
        return CandidateChoice(self.engine, replace(self.guide.anchored(), device=self.engine.device), self.options)


@dataclass(frozen=True, slots=True)
class CandidateChoice:
    """Which engines mine candidates, and how."""

    engine: EngineChoice
    guide: EngineChoice
    options: MiningOptions

    def load(self) -> CandidateMining:
        """Load both engines.

        Raises:
            UsageError: an engine or option is unknown, or the engine gives no probabilities.
            WeightsError: weights cannot be used.
        """
        # Scores are not asked for, and an engine behind a calibration would not show its probabilities.
        engine = replace(self.engine, calibration="none").load()
        guide = replace(self.guide, calibration="none").load()
        if not isinstance(engine, Propagator):
            raise UsageError(
                f"engine {self.engine.name!r} gives no probabilities to mine candidates from; choose stcn, or an "
                "engine of your own with the method `probabilities` (rayvos/engines/base.py)"
            )
        return CandidateMining(engine, guide, self.options)


class CandidateMining:
    """Mines candidates; a `rayvos.pipelines.work.Work`."""

    table: ResultTable = "candidates"

    def __init__(self, engine: Propagator, guide: Engine, options: MiningOptions) -> None:
        self._engine, self._guide, self._options = engine, guide, options

    def configuration(self) -> dict[str, Any]:
        """Return both engines and the rules: what all candidates of a run have in common."""
        engine, guide, options = self._engine, self._guide, self._options
        facts = {
            "task": "candidates",
            "engine": engine.name,
            "options": dict(engine.options()),
            "weights": engine.weights,
            "guide": {"engine": guide.name, "weights": guide.weights, **guide.options()},
            "candidates": asdict(options.rule),
            "prompts": options.prompts,
            "force_key_frame": options.force_key_frame,
            "dataset": options.dataset,
        }
        return dict(json.loads(json.dumps(facts, sort_keys=True, default=str)))

    def needs(self) -> EngineNeeds:
        """Return the propagator's needs; a clip stays whole, since its key frame may lie anywhere."""
        needs, guide = self._engine.needs(), self._guide.needs()
        return replace(
            needs,
            halo=None,
            num_gpus=max(needs.num_gpus, guide.num_gpus),
            num_cpus=max(needs.num_cpus, guide.num_cpus),
            memory_bytes=max(needs.memory_bytes, guide.memory_bytes),
        )

    def prepare(self, clip: Clip) -> Clip:
        """Return the clip with what its candidates start from; as it is where nothing can be started from."""
        try:
            return key_prompts(clip, self._options.prompts)
        except InputError:  # said when the clip is worked on: it must not stop the others' plan
            return clip

    def first_frames(self, clip: Clip, frames: range) -> Sequence[int]:
        """Return nothing: the guide looks at key frames first, then the propagator at the frames around them."""
        return ()

    def rows_of(
        self, clip: Clip, images: FrameReader, piece: Piece, unit_id: str, seconds: StageSeconds, earlier: pa.Table
    ) -> pa.Table:
        """Return the candidates of a piece, all of them made anew."""
        frames = range(piece.frame_start, piece.frame_stop)
        return mine_clip(self._engine, self._guide, clip, images, self._options, frames=frames, seconds=seconds)

    def count(self, rows: pa.Table) -> Mapping[str, int]:
        """Count candidates."""
        return {"candidates": rows.num_rows}
