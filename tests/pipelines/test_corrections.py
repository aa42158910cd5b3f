"""What becomes of a clip's labels when a person corrects one of its objects; without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayvos.annotations.records import Clip, MaskPrompt
from rayvos.annotations.run_folder import Piece, read_labels
from rayvos.annotations.tables import LABELS
from rayvos.engines.base import FrameReader, Label
from rayvos.engines.labeling import label_clip
from rayvos.engines.timing import StageSeconds
from rayvos.masks.rle import mask_to_rle
from rayvos.pipelines.label import Labelling
from rayvos.video.source import open_clip
from tests.engines_for_tests import BoxFillEngine
from tests.ray_cluster import make_clips


class RecordingEngine(BoxFillEngine):
    """Notes of which objects it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, ...]] = []

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        self.asked.append(clip.object_ids())
        return super().label(clip, images, frames)


def label_piece(work: Labelling, clip: Clip, round_: int, earlier: pa.Table) -> pa.Table:
    piece = Piece(clip.clip_id, 0, f"fingerprint {round_}", 0, clip.num_frames, 1.0, round_)
    with open_clip(clip) as images:
        return work.rows_of(clip, images, piece, f"unit {round_}", StageSeconds(), earlier)


def corrected(clip: Clip, object_id: int) -> Clip:
    """Return the clip with a mask that a person drew on frame 1."""
    mask = np.zeros((clip.height, clip.width), np.bool_)
    mask[2:9, 3:7] = True
    return replace(clip, masks=(*clip.masks, MaskPrompt(object_id, 1, mask_to_rle(mask))))


def test_a_correction_redoes_its_object_and_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    clip = make_clips(tmp_path, 1)[0]
    engine = RecordingEngine()
    work = Labelling(engine)
    first = label_piece(work, clip, 0, LABELS.empty_table())

    second = label_piece(work, corrected(clip, 2), 1, first)

    assert engine.asked == [(1, 2), (2,)]
    anew = label_piece(Labelling(RecordingEngine()), corrected(clip, 2), 1, LABELS.empty_table())
    assert second.drop_columns(["round"]).equals(anew.drop_columns(["round"]))
    rounds = dict(zip(*(second.column(name).to_pylist() for name in ("object_id", "round")), strict=True))
    assert rounds == {1: 0, 2: 1}


def test_rows_of_another_job_or_with_a_gap_are_not_kept(tmp_path: Path) -> None:
    clip = make_clips(tmp_path, 1)[0]
    first = label_piece(Labelling(RecordingEngine()), clip, 0, LABELS.empty_table())
    place = LABELS.get_field_index("object_fingerprint")
    gap = first.filter(pc.not_equal(first.column("frame"), 2))
    older = first.set_column(place, LABELS.field(place), pa.nulls(len(first), pa.string()))
    engine = RecordingEngine()
    for earlier in (gap, older):
        label_piece(Labelling(engine), corrected(clip, 2), 1, earlier)
    other = RecordingEngine()
    other.threshold = 61
    label_piece(Labelling(other), corrected(clip, 2), 1, first)

    assert [*engine.asked, *other.asked] == 3 * [(1, 2)]


def test_tables_of_an_older_rayvos_are_read_with_empty_new_columns(tmp_path: Path) -> None:
    clip = make_clips(tmp_path, 1)[0]
    labels = label_clip(BoxFillEngine(), clip)
    path = str(tmp_path / "labels.parquet")
    added = ["round", "object_fingerprint"]
    pq.write_table(labels.drop_columns(added), path)

    found = read_labels(path)

    assert found.column("round").null_count == found.num_rows == labels.num_rows
    assert found.drop_columns(["round", "object_fingerprint"]).equals(
        labels.drop_columns(["round", "object_fingerprint"])
    )
