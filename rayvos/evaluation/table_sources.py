"""Masks out of rayvos' own tables: the labels of a run, a label table, or the masks that a manifest carries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayvos.annotations.arrow_files import open_parquet, read_parquet
from rayvos.annotations.label_frames import frame_names, frames_of
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip
from rayvos.annotations.run_folder import RunFolder, iter_labels
from rayvos.errors import FormatError, InputError
from rayvos.evaluation.mask_frames import RleFrame

__all__ = ["LabelTableSource", "ManifestSource", "RecordClip", "table_kind"]


@dataclass(frozen=True, slots=True, eq=False)
class RecordClip:
    """A clip whose masks are records in memory."""

    clip_id: str
    path: str
    """The file or folder it comes from."""
    names: tuple[str, ...] | None
    positions: tuple[int, ...] | None
    frames: tuple[RleFrame, ...]
    """As many as names or positions."""

    def read(self, number: int) -> RleFrame:
        """Return the masks of one frame."""
        return self.frames[number]

    def place(self, number: int) -> str:
        """Return what messages call a frame, or the clip for number -1."""
        clip = f"{self.path} clip {self.clip_id!r}"
        if number < 0:
            return clip
        return f"{clip} frame {self.positions[number] if self.positions else (self.names or ())[number]}"


def table_kind(path: str) -> str:
    """Return the name of a rayvos table, such as `labels` or `manifest`.

    Raises:
        FormatError: the file is no Parquet, or no rayvos table.
    """
    try:
        with open_parquet(path) as file:
            metadata = file.schema_arrow.metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(f"{path}: expected a Parquet table: {error}; copy the file again") from error
    if b"rayvos.table" not in metadata:
        raise FormatError(f"{path}: expected a rayvos table of labels or a manifest, found other Parquet")
    return str(metadata[b"rayvos.table"].decode())


class _Manifest:
    """A manifest read clip by clip; opened once per process and never pickled."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: ManifestFile | None = None
        columns = read_parquet(path, ["clip_id", "num_frames"])
        self.num_frames: dict[str, int] = dict(
            zip(columns.column("clip_id").to_pylist(), columns.column("num_frames").to_pylist(), strict=True)
        )
        self._rows = {clip_id: row for row, clip_id in enumerate(self.num_frames)}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def clips(self, clip_ids: Collection[str]) -> dict[str, Clip]:
        """Return the clips that the manifest holds, by id."""
        if self._file is None:
            self._file = ManifestFile(self.path)
        rows = sorted(self._rows[clip_id] for clip_id in clip_ids if clip_id in self._rows)
        return {clip.clip_id: clip for _, clip in self._file.read_rows(rows)}


class LabelTableSource:
    """The labels of a run folder, of a folder of label tables, or of one label table.

    Args:
        path: path or URL.
        manifest: the manifest the labels were made on, for the frames' names; None takes the one of the run folder.

    Raises:
        MissingPathError: nothing is there.
        SchemaError: a file is no label table.
    """

    clips_per_task = 16  # opening a run reads its plan, which is worth sharing

    def __init__(self, path: str, manifest: str | None = None) -> None:
        self.path = path
        run = RunFolder(path)
        is_run = not path.endswith(".parquet") and bool(run.plan_numbers())
        if manifest is None and is_run:
            manifest = run.newest_manifest()
        self._manifest = None if manifest is None else _Manifest(manifest)
        self.num_frames = _planned_frames(run) if is_run else _labelled_frames(path)

    def open_clips(self, clip_ids: Sequence[str]) -> Iterator[RecordClip]:
        """Yield the clips.

        Raises:
            InputError: a clip is planned but not labelled.
        """
        tables: dict[str, list[pa.Table]] = {}
        for clip_id, table in iter_labels(self.path, clip_ids=set(clip_ids)):
            tables.setdefault(clip_id, []).append(table)
        clips = {} if self._manifest is None else self._manifest.clips(clip_ids)
        for clip_id in clip_ids:
            if clip_id not in tables:
                raise InputError(
                    f"{self.path}: clip {clip_id!r} is planned but has no labels; see `rayvos status`, run it again"
                )
            yield self._clip(clip_id, pa.concat_tables(tables[clip_id]), clips.get(clip_id))

    def _clip(self, clip_id: str, table: pa.Table, clip: Clip | None) -> RecordClip:
        table = table.sort_by([("frame", "ascending"), ("object_id", "ascending")])
        sizes = pc.unique(table.column("height")), pc.unique(table.column("width"))
        if len(sizes[0]) != 1 or len(sizes[1]) != 1 or None in (sizes[0][0].as_py(), sizes[1][0].as_py()):
            raise FormatError(f"{self.path}: clip {clip_id!r}: expected one height and width, found several or none")
        size = sizes[0][0].as_py(), sizes[1][0].as_py()
        frames: dict[int, RleFrame] = {}
        for frame, labels in frames_of(table):
            present = [label for label in labels if label.rle is not None]
            frames[frame] = RleFrame(
                size,
                {label.object_id: label.rle for label in present if label.rle is not None},
                {label.object_id: label.score for label in present if label.score is not None},
                frozenset(label.object_id for label in present if label.human),
            )
        return _record_clip(clip_id, self.path, clip, frames)


class ManifestSource:
    """The masks that a manifest's clips carry: truth of generated clips, or of an imported data set.

    Args:
        path: path or URL of a manifest.

    Raises:
        SchemaError: it is no manifest.
    """

    clips_per_task = 16

    def __init__(self, path: str) -> None:
        self.path = path
        self._manifest = _Manifest(path)
        self.num_frames = self._manifest.num_frames

    def open_clips(self, clip_ids: Sequence[str]) -> Iterator[RecordClip]:
        """Yield the clips.

        Raises:
            InputError: a clip carries no mask.
        """
        clips = self._manifest.clips(clip_ids)
        for clip_id in clip_ids:
            clip = clips[clip_id]
            if not clip.masks:
                raise InputError(f"{self.path}: clip {clip_id!r} carries no masks; import the data set with its masks")
            rles: dict[int, dict[int, bytes]] = {frame: {} for frame in clip.annotated_frames or ()}
            for prompt in clip.masks:
                found = rles.setdefault(prompt.frame, {})
                if prompt.rle is not None:
                    found[prompt.object_id] = prompt.rle
            size = clip.height, clip.width
            yield _record_clip(clip_id, self.path, clip, {frame: RleFrame(size, rles[frame]) for frame in sorted(rles)})

    def categories(self, clip_ids: Collection[str]) -> dict[tuple[str, int], str]:
        """Return the category of each object that has one, by clip and object id."""
        return {
            (clip_id, known.object_id): known.category
            for clip_id, clip in self._manifest.clips(clip_ids).items()
            for known in clip.objects
            if known.category is not None
        }


def _record_clip(clip_id: str, path: str, clip: Clip | None, frames: Mapping[int, RleFrame]) -> RecordClip:
    names = None if clip is None else frame_names(clip)
    if names is not None and frames and max(frames) >= len(names):
        raise FormatError(
            f"{path}: clip {clip_id!r}: frame {max(frames)}, but its manifest lists {len(names)} frames; "
            "these labels were made on another manifest"
        )
    return RecordClip(
        clip_id,
        path,
        None if names is None else tuple(names[frame] for frame in frames),
        tuple(frames),
        tuple(frames.values()),
    )


def _planned_frames(run: RunFolder) -> dict[str, int]:
    plan = run.read_plan()
    counts: dict[str, int] = {}
    columns = (plan.column(name).to_pylist() for name in ("clip_id", "frame_start", "frame_stop"))
    for clip_id, start, stop in zip(*columns, strict=True):
        counts[clip_id] = counts.get(clip_id, 0) + stop - start
    return counts


def _labelled_frames(path: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for clip_id, table in iter_labels(path):
        counts[clip_id] = counts.get(clip_id, 0) + pc.count_distinct(table.column("frame")).as_py()
    return counts
