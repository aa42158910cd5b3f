"""The benchmarks that score masks of given objects: DAVIS 2016 and 2017, vos-benchmark, YouTube-VOS, sparse truth.

A protocol says which frames and objects of a clip are scored, and what becomes of the values. Each is a small frozen
object that survives pickling, so that clips can be scored anywhere.

Sources: davis2017-evaluation, vos-benchmark, the DAVIS 2016 toolkit. The YouTube-VOS scorer is not public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

from rayvos.errors import FormatError, IdError, InputError
from rayvos.evaluation.frame_scores import JaccardF, score_objects
from rayvos.evaluation.mask_frames import MaskFrame
from rayvos.evaluation.outlines import BOUND_TH, boundary_radius
from rayvos.evaluation.results import ObjectScores
from rayvos.evaluation.sources import FrameMatch
from rayvos.evaluation.statistics import mean_of_numbers

__all__ = [
    "Davis2016",
    "Davis2017",
    "SparseFrames",
    "VosBenchmark",
    "VosProtocol",
    "YoutubeVos",
    "davis_summary",
]


class VosProtocol(Protocol):
    """Which frames and objects of a clip count, and what is made of the values."""

    name: ClassVar[str]
    scale: ClassVar[int]

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return the values of the clip's objects.

        Raises:
            InputError: the clip cannot be scored by this protocol; naming the file.
        """
        ...

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return the benchmark's numbers by their official names."""
        ...


class ScoreLists:
    """Collects the values of a clip's objects frame by frame."""

    def __init__(self, match: FrameMatch) -> None:
        self._match = match
        self._scores: dict[int, list[tuple[int, JaccardF]]] = {}

    def add(self, number: int, object_ids: Sequence[int], scores: Sequence[JaccardF]) -> None:
        """Append the values that the objects have on a frame."""
        for object_id, score in zip(object_ids, scores, strict=True):
            self._scores.setdefault(object_id, []).append((number, score))

    def finish(self, object_ids: Sequence[int]) -> list[ObjectScores]:
        """Return the objects among `object_ids` that have a value on some frame."""
        clip_id = self._match.truth.clip_id
        return [
            ObjectScores(
                clip_id,
                object_id,
                f"{clip_id}_{object_id}",
                tuple(self._match.name(number) for number, _ in self._scores[object_id]),
                tuple(score.j for _, score in self._scores[object_id]),
                tuple(score.f for _, score in self._scores[object_id]),
                tuple(number for number, _ in self._scores[object_id]),
                len(self._match.numbers),
            )
            for object_id in object_ids
            if object_id in self._scores
        ]


def davis_summary(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """Return the means over objects (not over clips, not over frames) of DAVIS' statistics."""
    found: dict[str, float] = {}
    for letter, statistics in (
        ("J", [scores.j_statistics for scores in objects]),
        ("F", [scores.f_statistics for scores in objects]),
    ):
        found[f"{letter}-Mean"] = mean_of_numbers([item.mean for item in statistics])
        found[f"{letter}-Recall"] = mean_of_numbers([item.recall for item in statistics])
        found[f"{letter}-Decay"] = mean_of_numbers([item.decay for item in statistics])
    return {"J&F-Mean": (found["J-Mean"] + found["F-Mean"]) / 2, **found}


def inner_frames(match: FrameMatch) -> range:
    """Return all frames but the first and the last.

    The first is given to the method; the last is dropped by the official tools for historical reasons.

    Raises:
        InputError: nothing is left.
    """
    if len(match.numbers) < 3:
        raise InputError(
            f"{match.truth.place(-1)}: {len(match.numbers)} annotated frames, of which the first and the last are not "
            "scored; leave the clip out with --clips, or use a protocol that scores all frames"
        )
    return range(1, len(match.numbers) - 1)


def radius_of(frame: MaskFrame, bound_th: float) -> int:
    """Return the radius of the boundary match for a frame."""
    return boundary_radius(frame.size[0], frame.size[1], bound_th)


@dataclass(frozen=True, slots=True)
class Davis2016:
    """One foreground object: whatever is drawn, of any id, in truth and prediction alike."""

    name: ClassVar[str] = "davis2016"
    scale: ClassVar[int] = 1
    bound_th: float = BOUND_TH

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return one object, named like the clip; all frames but the first and the last."""
        lists = ScoreLists(match)
        for number in inner_frames(match):
            truth, mask = (frame.merged() for frame in match.read(number))
            lists.add(number, (1,), score_objects(truth, mask, (1,), radius_of(truth, self.bound_th)))
        return [replace(scores, name=scores.clip_id) for scores in lists.finish((1,))]

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return the means over clips."""
        return davis_summary(objects)


@dataclass(frozen=True, slots=True)
class Davis2017:
    """Semi-supervised: ids 1 to the highest of the first true frame, all frames but the first and the last.

    As in the official tool: an id that exists only later is never scored; a gap in the ids is an object without
    truth, perfect wherever the prediction is empty, too; void (255) in the truth is background; an id that the
    prediction lacks is an empty mask, one above the truth's is an error.
    """

    name: ClassVar[str] = "davis2017"
    scale: ClassVar[int] = 1
    bound_th: float = BOUND_TH

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return the clip's objects.

        Raises:
            IdError: the prediction has more objects than the truth.
            FormatError: the first true frame holds void only: a DAVIS 2016 mask.
        """
        first = match.truth.read(0)
        num_objects = first.without_void().max_id()
        if num_objects == 0 and first.max_id() > 0:
            raise FormatError(
                f"{match.truth.place(0)}: only {first.max_id()} (void) is drawn; is this a 0/255 mask of DAVIS 2016? "
                "use `rayvos eval davis2016`"
            )
        object_ids = range(1, num_objects + 1)
        lists = ScoreLists(match)
        for number in inner_frames(match):
            truth, mask = match.read(number)
            if mask.max_id() > num_objects:
                raise IdError(
                    f"{match.place(number)}: id {mask.max_id()}, but {match.truth.place(0)} has only objects "
                    f"1…{num_objects}; ids must be those of the truth"
                )
            truth = truth.without_void()
            lists.add(number, object_ids, score_objects(truth, mask, object_ids, radius_of(truth, self.bound_th)))
        return lists.finish(object_ids)

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return the means over objects."""
        return davis_summary(objects)


@dataclass(frozen=True, slots=True)
class VosBenchmark:
    """The rule of vos-benchmark: an object counts from the first frame where truth or prediction shows it.

    A false early prediction therefore costs zeros, and frames after that where it is neither true nor predicted count
    as 1. Only ids that occur in the truth are reported. 255 is an ordinary id.
    """

    name: ClassVar[str] = "vos-benchmark"
    scale: ClassVar[int] = 100
    skip_first_and_last: bool = True
    bound_th: float = BOUND_TH

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return the clip's objects."""
        frames = inner_frames(match) if self.skip_first_and_last else range(len(match.numbers))
        lists = ScoreLists(match)
        seen: set[int] = set()
        true_ids: set[int] = set()
        for number in frames:
            truth, mask = match.read(number)
            true_ids.update(truth.object_ids())
            seen.update(truth.object_ids(), mask.object_ids())
            object_ids = sorted(seen)
            lists.add(number, object_ids, score_objects(truth, mask, object_ids, radius_of(truth, self.bound_th)))
        return lists.finish(sorted(true_ids))

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return the means over objects, in percent."""
        return percent_summary(objects)


def percent_summary(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """Return J&F, J and F, means over objects, in percent."""
    j = 100 * mean_of_numbers([scores.j_statistics.mean for scores in objects])
    f = 100 * mean_of_numbers([scores.f_statistics.mean for scores in objects])
    return {"J&F": (j + f) / 2, "J": j, "F": f}


@dataclass(frozen=True, slots=True)
class SparseFrames:
    """Truth on some frames only, as in TAO-VOS: each object on the annotated frames after its first one.

    The prediction may hold more frames. Where an object has left, an empty prediction counts as 1.
    Differs: TAO-VOS publishes no scorer; this is its J&F on the annotated frames with YouTube-VOS' rule of the first.
    """

    name: ClassVar[str] = "sparse"
    scale: ClassVar[int] = 1
    include_first: bool = False
    """Score the first annotated frame of each object, too: for labels made from boxes, where no mask was given."""
    bound_th: float = BOUND_TH

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return the clip's objects.

        Raises:
            IdError: the prediction has an id that the truth has on no annotated frame.
        """
        lists = ScoreLists(match)
        known: set[int] = set()
        strangers: dict[int, int] = {}
        for number in range(len(match.numbers)):
            frame = match.truth.read(number).without_void()
            started = set(frame.object_ids())
            object_ids = sorted(known | started if self.include_first else known)
            known |= started
            if object_ids:
                truth, mask = match.read(number)
                truth = truth.without_void()
                for object_id in mask.object_ids():
                    strangers.setdefault(object_id, number)
                lists.add(number, object_ids, score_objects(truth, mask, object_ids, radius_of(truth, self.bound_th)))
        check_ids(match, strangers, known)
        return lists.finish(sorted(known))

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return the means over objects."""
        return davis_summary(objects)


def check_ids(match: FrameMatch, found: Mapping[int, int], known: set[int]) -> None:
    """Check that a prediction uses the truth's ids.

    Args:
        match: the clip.
        found: ids of the prediction and the frame each was met on first.
        known: ids of the truth.

    Raises:
        IdError: it does not; naming the file.
    """
    for object_id, number in sorted(found.items()):
        if object_id not in known:
            remedy = "ids must be those of the truth"
            if not known:
                remedy = (
                    "is the truth a 0/255 mask of DAVIS 2016? then use davis2016, or --binary where a protocol has it"
                )
            raise IdError(
                f"{match.place(number)}: id {object_id} is no object of the clip; "
                f"its truth has {sorted(known)}; {remedy}"
            )


@dataclass(frozen=True, slots=True)
class YoutubeVos:
    """Means over the objects of seen and of unseen categories.

    Three rules for the frames: `after-first` (each object on every annotated frame after the first one that
    `meta.json` lists for it), and vos-benchmark's `skip-first-and-last` and `all`.
    """

    name: ClassVar[str] = "youtube-vos"
    scale: ClassVar[int] = 100
    objects: Mapping[str, Mapping[int, tuple[str, str]]] = field(repr=False)
    """By clip and object id: its category, and the name of its first annotated frame."""
    seen: frozenset[str] = field(repr=False)
    """Categories that the training set has."""
    frames: str = "after-first"
    bound_th: float = BOUND_TH

    def score_clip(self, match: FrameMatch) -> list[ObjectScores]:
        """Return the clip's objects with their categories.

        Raises:
            InputError: meta.json lacks the clip, an object of it, or names a first frame that is not annotated.
        """
        known = self.objects.get(match.truth.clip_id)
        if known is None:
            raise InputError(f"meta.json: no clip {match.truth.clip_id!r}, which {match.truth.place(-1)} annotates")
        if self.frames == "after-first":
            found = self._after_first(match, known)
        else:
            found = VosBenchmark(self.frames != "all", self.bound_th).score_clip(match)
        missing = sorted({scores.object_id for scores in found} - set(known))
        if missing:
            raise InputError(
                f"meta.json: clip {match.truth.clip_id!r} lists no object {missing[0]}, which "
                f"{match.truth.place(-1)} annotates; pass the meta.json of this data set"
            )
        return [replace(scores, category=known[scores.object_id][0]) for scores in found]

    def _after_first(self, match: FrameMatch, known: Mapping[int, tuple[str, str]]) -> list[ObjectScores]:
        order = {match.name(number): number for number in range(len(match.numbers))}
        first: dict[int, int] = {}
        for object_id, (_, name) in known.items():
            if name not in order:
                raise InputError(
                    f"meta.json: clip {match.truth.clip_id!r} object {object_id} starts on frame {name!r}, "
                    f"which {match.truth.place(-1)} does not annotate"
                )
            first[object_id] = order[name]
        lists = ScoreLists(match)
        strangers: dict[int, int] = {}
        for number in range(min(first.values(), default=0) + 1, len(match.numbers)):
            truth, mask = match.read(number)
            truth = truth.without_void()
            for object_id in mask.object_ids():
                strangers.setdefault(object_id, number)
            object_ids = sorted(object_id for object_id, start in first.items() if start < number)
            lists.add(number, object_ids, score_objects(truth, mask, object_ids, radius_of(truth, self.bound_th)))
        check_ids(match, strangers, set(first))
        return lists.finish(sorted(first))

    def summarize(self, objects: Sequence[ObjectScores]) -> dict[str, float]:
        """Return J and F of both groups in percent, their mean as `overall`, and how many objects each group has."""
        groups = {
            "seen": [scores for scores in objects if scores.category in self.seen],
            "unseen": [scores for scores in objects if scores.category not in self.seen],
        }
        means = {name: percent_summary(group) for name, group in groups.items()}
        found = {f"{letter}_{name}": means[name][letter] for letter in ("J", "F") for name in ("seen", "unseen")}
        overall = mean_of_numbers(list(found.values()))
        counts = {f"objects_{name}": len(group) for name, group in groups.items()}
        return {"overall": overall, **found, **counts}
