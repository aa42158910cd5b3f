"""Where true and predicted masks come from, seen alike: clips that have named frames that can be read.

| form | a path or URL of | frames are found by |
|---|---|---|
| PNG label maps | a folder, a data set's root, or a zip of either | file name without suffix |
| rayvos labels | a run folder or a label table (`.parquet`) | name where the run's manifest is at hand, else position |
| manifest | a manifest (`.parquet`) whose clips carry masks | name and position |
| COCO or YouTube-VIS | a data set's json | file name of the picture, and position |

Sources are small and survive pickling: they hold listings, no pixels and no open files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rayvos.errors import FrameMissingError, InputError
from rayvos.evaluation.mask_frames import MaskFrame, check_sizes

__all__ = ["ClipMasks", "FrameMatch", "MaskSource", "check_clips", "match_frames", "positions_of_names"]


class ClipMasks(Protocol):
    """One clip of a source."""

    @property
    def clip_id(self) -> str:
        """The clip's id."""
        ...

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the annotated frames in order, without suffix; None where only positions are known."""
        ...

    @property
    def positions(self) -> tuple[int, ...] | None:
        """Their 0-based positions in the clip; None where only names are known."""
        ...

    def read(self, number: int) -> MaskFrame:
        """Return what is drawn on the annotated frame of this number (its place in `names` or `positions`).

        Raises:
            InputError: the file cannot be used; naming it.
            StorageError: it cannot be read.
        """
        ...

    def place(self, number: int) -> str:
        """Return what messages call this frame."""
        ...


class MaskSource(Protocol):
    """Masks of many clips."""

    path: str
    num_frames: dict[str, int]
    """Annotated frames of each clip, in the order in which results are shown; for planning, hence it may be rough."""
    clips_per_task: int
    """How many neighbouring clips are best opened at once."""

    def open_clips(self, clip_ids: Sequence[str]) -> Iterator[ClipMasks]:
        """Yield the clips, in the order given.

        Raises:
            InputError, StorageError: a clip cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class FrameMatch:
    """The frames of a truth and where the prediction has them."""

    truth: ClipMasks
    prediction: ClipMasks
    numbers: tuple[int | None, ...]
    """For each true frame its number in the prediction; None where the prediction lacks it."""

    def name(self, number: int) -> str:
        """Return the name of a true frame, or its position where it has none."""
        if self.truth.names is not None:
            return self.truth.names[number]
        assert self.truth.positions is not None, "frames have names or positions"
        return f"{self.truth.positions[number]:05d}"

    def place(self, number: int) -> str:
        """Return what messages call the predicted frame that belongs to a true one."""
        found = self.numbers[number]
        return self.prediction.place(-1 if found is None else found)

    def read(self, number: int) -> tuple[MaskFrame, MaskFrame]:
        """Return the true frame of this number and the predicted one, of one size.

        Raises:
            FrameMissingError: the prediction lacks the frame.
            FrameSizeError: the sizes differ.
        """
        found = self.numbers[number]
        if found is None:
            raise FrameMissingError(
                f"{self.prediction.place(-1)}: no mask for frame {self.name(number)!r}, which "
                f"{self.truth.place(number)} annotates; write one for every frame, empty where nothing is seen"
            )
        truth, mask = self.truth.read(number), self.prediction.read(found)
        check_sizes(truth, mask, self.truth.place(number), self.prediction.place(found))
        return truth, mask


def positions_of_names(names: Sequence[str]) -> tuple[int, ...] | None:
    """Return 0, 1, 2 … where that is what the names say (every frame is there), else None."""
    numbers = [int(name) if name.isdigit() else -1 for name in names]
    return tuple(numbers) if numbers == list(range(len(numbers))) else None


def match_frames(truth: ClipMasks, prediction: ClipMasks) -> FrameMatch:
    """Find the true frames in the prediction, by name where both have names, else by position.

    Raises:
        InputError: one has names only and the other positions only.
    """
    if truth.names is not None and prediction.names is not None:
        known = {name: number for number, name in enumerate(prediction.names)}
        return FrameMatch(truth, prediction, tuple(known.get(name) for name in truth.names))
    if truth.positions is not None and prediction.positions is not None:
        place = {position: number for number, position in enumerate(prediction.positions)}
        return FrameMatch(truth, prediction, tuple(place.get(position) for position in truth.positions))
    raise InputError(
        f"clip {truth.clip_id!r}: the frames of {truth.place(-1)} cannot be told from those of "
        f"{prediction.place(-1)}: one has file names that do not count from 0, the other positions only; "
        "pass the run folder, or name its manifest with --manifest"
    )


def check_clips(truth: MaskSource, prediction: MaskSource, clip_ids: Sequence[str]) -> None:
    """Check that the prediction has every clip that is to be scored.

    Raises:
        InputError: clips are missing, or there is none to score; naming them.
    """
    if not clip_ids:
        raise InputError(f"{truth.path}: no annotated clip found; pass the folder that holds Annotations")
    missing = [clip_id for clip_id in clip_ids if clip_id not in prediction.num_frames]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise InputError(
            f"{prediction.path}: no masks for clip {', '.join(map(repr, missing[:5]))}{more} of {truth.path} "
            f"({len(prediction.num_frames)} clips found); label them, or choose clips with --clips"
        )
