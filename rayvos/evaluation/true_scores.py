"""Puts the true IoU in the place of the predicted score where true masks are known.

One threshold then filters both: labels whose truth is known by what they are, all others by what is believed of them.
Source: Box2Seg, filtering of pseudo-labels by a simulated annotator.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from rayvos.annotations.label_frames import frame_names, frames_of
from rayvos.annotations.records import Clip
from rayvos.annotations.tables import LABELS
from rayvos.errors import IdError
from rayvos.evaluation.frame_scores import jaccard_of_object
from rayvos.evaluation.mask_frames import RleFrame
from rayvos.evaluation.opening import open_masks
from rayvos.evaluation.sources import MaskSource, match_frames
from rayvos.evaluation.table_sources import RecordClip

__all__ = ["TrueScores"]


class TrueScores:
    """True masks of some clips, ready to judge label tables.

    Args:
        truth: a manifest with masks, a folder or zip of label maps, a run, or a COCO or YouTube-VIS json.
        clip_ids: the clips that will be judged.

    Raises:
        InputError, StorageError: the truth cannot be read.
    """

    def __init__(self, truth: str, clip_ids: Iterable[str]) -> None:
        self._truth: MaskSource = open_masks(truth, like=sorted(clip_ids))

    def judge(self, clip: Clip, table: pa.Table) -> pa.Table:
        """Return the labels of a clip with their true IoU as `score`.

        Frames and clips of which no truth is known keep their scores, and so do masks that a person gave. A mask
        where the object is absent in truth scores 0.

        Args:
            clip: the clip.
            table: its labels, as `iter_labels` gives them.

        Raises:
            IdError: the truth of this clip knows none of its objects.
            InputError: a true mask cannot be read, or has another size.
        """
        if clip.clip_id not in self._truth.num_frames:
            return table
        frames = {
            frame: RleFrame((clip.height, clip.width), {label.object_id: label.rle for label in labels if label.rle})
            for frame, labels in frames_of(table)
        }
        ious = self._ious(clip, frames)
        human = pc.fill_null(pc.equal(table.column("provenance"), "human"), False).to_pylist()
        columns = (table.column(name).to_pylist() for name in ("frame", "object_id", "score"))
        scores = [
            score if score is None or by_person else ious.get((frame, object_id), score)
            for frame, object_id, score, by_person in zip(*columns, human, strict=True)
        ]
        position = table.schema.get_field_index("score")
        return table.set_column(position, LABELS.field("score"), pa.array(scores, pa.float32()))

    def _ious(self, clip: Clip, frames: dict[int, RleFrame]) -> dict[tuple[int, int], float]:
        """Return the IoU of every label on a frame whose truth is known, by frame and object."""
        truth = next(iter(self._truth.open_clips([clip.clip_id])))
        names = frame_names(clip)
        labels = RecordClip(
            clip.clip_id, "labels", tuple(names[frame] for frame in frames), tuple(frames), tuple(frames.values())
        )
        match = match_frames(truth, labels)
        order = list(frames)
        known: set[int] = set()
        ious: dict[tuple[int, int], float] = {}
        for number, found in enumerate(match.numbers):
            if found is None:
                continue
            true_frame, mask = match.read(number)
            true_frame = true_frame.without_void()
            present = set(true_frame.object_ids())
            known |= present
            for object_id in mask.object_ids():
                iou = jaccard_of_object(true_frame, mask, object_id) if object_id in present else 0.0
                ious[order[found], object_id] = iou
        if ious and not known & set(clip.object_ids()):
            raise IdError(
                f"{truth.place(-1)}: expected some of the objects {sorted(clip.object_ids())}, found "
                f"{sorted(known)[:10]}; truth and labels must use the same ids"
            )
        return ious
