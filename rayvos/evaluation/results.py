"""What an evaluation found: values per frame and object, and the numbers that a benchmark makes of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayvos import storage
from rayvos.errors import FormatError
from rayvos.evaluation.statistics import Statistics, summarize

__all__ = ["Evaluation", "ObjectScores", "evaluation_to_json", "read_evaluation", "write_csv", "write_json"]

FORMAT = 1  # of the json file; a reader refuses a newer one
CSV_COLUMNS = (
    "clip_id", "object_id", "name", "category", "num_frames",
    "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay", "J&F-Mean",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectScores:
    """One object of one clip."""

    clip_id: str
    object_id: int
    """The id in the truth."""
    name: str
    """What the benchmark's own tables call it: `<clip>_<id>`."""
    frames: tuple[str, ...]
    """Names of the scored frames, in order of time."""
    j: tuple[float, ...]
    """Region similarity on each of them."""
    f: tuple[float, ...]
    """Boundary measure on each of them."""
    positions: tuple[int, ...] = ()
    """Where each scored frame stands among the annotated frames of the clip."""
    clip_frames: int = 0
    """Annotated frames of the clip."""
    category: str | None = None
    prediction_id: int | None = None
    """The proposal that was matched with this object, where ids need not agree."""

    @property
    def j_statistics(self) -> Statistics:
        """Mean, recall and decay of J."""
        return summarize(self.j)

    @property
    def f_statistics(self) -> Statistics:
        """Mean, recall and decay of F."""
        return summarize(self.f)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one protocol."""

    protocol: str
    truth: str
    """Path or URL of the truth."""
    prediction: str
    """Path or URL of what was scored."""
    objects: tuple[ObjectScores, ...]
    summary: Mapping[str, float]
    """The benchmark's numbers by their official names."""
    scale: int = 1
    """What 1.0 is in `summary`: 1, or 100 where the official tool reports percent."""
    options: Mapping[str, Any] = field(default_factory=dict)


def evaluation_to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain JSON values; NaN becomes null."""
    return {
        "rayvos_evaluation": FORMAT,
        "protocol": evaluation.protocol,
        "truth": evaluation.truth,
        "prediction": evaluation.prediction,
        "options": dict(evaluation.options),
        "scale": evaluation.scale,
        "summary": {name: _number(value) for name, value in evaluation.summary.items()},
        "objects": [_object_to_json(scores) for scores in evaluation.objects],
    }


def _number(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value


def _object_to_json(scores: ObjectScores) -> dict[str, Any]:
    measures = {}
    for name, values, statistics in (("J", scores.j, scores.j_statistics), ("F", scores.f, scores.f_statistics)):
        measures[name] = {
            "mean": _number(statistics.mean),
            "recall": statistics.recall,
            "decay": _number(statistics.decay),
            "per_frame": [_number(value) for value in values],
        }
    return {
        "clip_id": scores.clip_id,
        "object_id": scores.object_id,
        "name": scores.name,
        "category": scores.category,
        "prediction_id": scores.prediction_id,
        "frames": list(scores.frames),
        "positions": list(scores.positions),
        "clip_frames": scores.clip_frames,
        **measures,
    }


def write_json(evaluation: Evaluation, path: str) -> None:
    """Write an evaluation as json.

    Raises:
        StorageError: the path cannot be written.
    """
    text = json.dumps(evaluation_to_json(evaluation), indent=1, allow_nan=False)
    storage.write_bytes(path, text.encode())


def write_csv(objects: Sequence[ObjectScores], path: str) -> None:
    """Write one line per object, in full precision (the official tools round to 3 decimals).

    Raises:
        StorageError: the path cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for scores in objects:
        j, f = scores.j_statistics, scores.f_statistics
        numbers = (j.mean, j.recall, j.decay, f.mean, f.recall, f.decay, (j.mean + f.mean) / 2)
        known = (scores.clip_id, scores.object_id, scores.name, scores.category or "", len(scores.frames))
        writer.writerow((*known, *(repr(number) for number in numbers)))
    storage.write_bytes(path, text.getvalue().encode())


def read_evaluation(path: str) -> Evaluation:
    """Read the json of an evaluation.

    Raises:
        FormatError: the file is none, or of a newer rayvos.
        StorageError: it cannot be read.
    """
    try:
        found = json.loads(storage.read_bytes(path))
        version = found["rayvos_evaluation"]
        if version > FORMAT:
            raise FormatError(
                f"{path}: an evaluation of version {version}, this rayvos reads up to {FORMAT}; update it"
            )
        return Evaluation(
            found["protocol"],
            found["truth"],
            found["prediction"],
            tuple(_object_from_json(item) for item in found["objects"]),
            {name: math.nan if value is None else value for name, value in found["summary"].items()},
            found["scale"],
            found["options"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: expected the json of `rayvos eval … --json`: {error!r}; write it again") from error


def _object_from_json(item: Mapping[str, Any]) -> ObjectScores:
    j, f = (tuple(math.nan if value is None else value for value in item[name]["per_frame"]) for name in ("J", "F"))
    return ObjectScores(
        item["clip_id"],
        item["object_id"],
        item["name"],
        tuple(item["frames"]),
        j,
        f,
        tuple(item["positions"]),
        item["clip_frames"],
        item["category"],
        item["prediction_id"],
    )
