"""Turns an engine's score into the IoU that such scores stood for where the truth was known.

A calibration is a rising curve through a few points (score, IoU), linear between them and flat outside. It belongs to
one engine and one set of weights and lies beside the weights as JSON, or is named with `--calibration`. The curve is
fitted by isotonic regression (`rayvos.evaluation.isotonic`), which promises no more than that a higher score means a
better mask. Source: Box2Seg specification, section 6.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rayvos import storage
from rayvos.annotations.records import Clip
from rayvos.engines.base import Engine, EngineNeeds, FrameReader, Label
from rayvos.errors import FormatError, UsageError

__all__ = ["CalibratedEngine", "ScoreCalibration", "calibration_beside", "read_calibration", "write_calibration"]

VERSION = 1
RAW_SCORE = "raw_score"
"""Name under which a label's `quality` keeps the score as the engine gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCalibration:
    """A rising curve from scores to IoUs, and whose scores these are."""

    engine: str
    """Name of the engine whose scores it maps."""
    weights: str
    """Digest of the weights; empty for an engine without any."""
    scores: tuple[float, ...]
    """Ascending, different, in [0, 1]."""
    ious: tuple[float, ...]
    """The IoU at each score, never falling, in [0, 1]."""
    num_masks: int = 0
    """Masks of known IoU that the curve was fitted to."""

    def __post_init__(self) -> None:
        scores, ious = np.asarray(self.scores, np.float64), np.asarray(self.ious, np.float64)
        rising = scores.size > 0 and scores.shape == ious.shape and bool((np.diff(scores) > 0).all())
        inside = rising and all(((values >= 0) & (values <= 1)).all() for values in (scores, ious))
        if not inside or not (np.diff(ious) >= 0).all():
            raise FormatError(
                f"calibration: expected rising scores with IoUs that never fall, all in [0, 1], found "
                f"{list(self.scores)[:4]}… and {list(self.ious)[:4]}…; fit it again: `rayvos eval calibration --fit`"
            )

    def apply(self, score: float) -> float:
        """Return the IoU in [0, 1] that a score in [0, 1] stands for."""
        return float(np.interp(score, self.scores, self.ious))

    def digest(self) -> str:
        """Return a digest of the curve: labels depend on it."""
        return hashlib.blake2b(repr((self.scores, self.ious)).encode(), digest_size=8).hexdigest()


def calibration_beside(weights: str) -> str:
    """Return where the calibration of a weights file lies: `guided.safetensors` → `guided.calibration.json`."""
    folder, slash, name = weights.rpartition("/")
    return f"{folder}{slash}{name.removesuffix('.safetensors')}.calibration.json"


def write_calibration(calibration: ScoreCalibration, path: str) -> None:
    """Write a calibration as JSON.

    Args:
        calibration: the curve.
        path: local path or fsspec URL.

    Raises:
        StorageError: the file cannot be written.
    """
    facts = {"rayvos_calibration": VERSION, **asdict(calibration)}
    storage.write_bytes(path, json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n")


def read_calibration(path: str) -> ScoreCalibration:
    """Read a calibration.

    Raises:
        StorageError: the file cannot be read.
        FormatError: it is no calibration, or its curve falls.
    """
    try:
        found = json.loads(storage.read_bytes(path))
        if not isinstance(found, dict) or found.pop("rayvos_calibration", None) != VERSION:
            raise FormatError(
                f"{path}: expected a calibration of version {VERSION}; make one with `rayvos eval calibration --fit`"
            )
        return ScoreCalibration(
            engine=str(found["engine"]),
            weights=str(found["weights"]),
            scores=tuple(float(score) for score in found["scores"]),
            ious=tuple(float(iou) for iou in found["ious"]),
            num_masks=int(found["num_masks"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected the JSON of a calibration: {error!r}; fit it again") from error


class CalibratedEngine:
    """An engine whose scores went through a calibration; masks stay as they are.

    `quality` keeps the engine's own score as `raw_score`.
    """

    def __init__(self, engine: Engine, calibration: ScoreCalibration, *, where: str = "calibration") -> None:
        """Wrap an engine.

        Args:
            engine: what labels.
            calibration: its curve.
            where: the file it was read from, for messages.

        Raises:
            UsageError: the calibration belongs to another engine or to other weights.
        """
        if (calibration.engine, calibration.weights) != (engine.name, engine.weights):
            raise UsageError(
                f"{where}: made for the scores of engine {calibration.engine!r} with weights "
                f"{calibration.weights[:12] or 'none'}, but this is {engine.name!r} with weights "
                f"{engine.weights[:12] or 'none'}; fit it again with `rayvos eval calibration --fit`"
            )
        self.name, self.weights = engine.name, engine.weights
        self._engine, self._calibration = engine, calibration

    def options(self) -> Mapping[str, Any]:
        """Return the engine's options and the digest of the curve."""
        return {**self._engine.options(), "calibration": self._calibration.digest()}

    def needs(self) -> EngineNeeds:
        """Return what the engine needs."""
        return self._engine.needs()

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield the engine's labels with calibrated scores."""
        for label in self._engine.label(clip, images, frames):
            if label.score is None:
                yield label
                continue
            quality = {**label.quality, RAW_SCORE: label.score}
            yield replace(label, score=self._calibration.apply(label.score), quality=quality)
