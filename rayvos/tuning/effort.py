"""What people gave for the data of a sweep: boxes, masks and points per object, which times turn into seconds.

    OUT/data/<name>-effort.json    counts of one source, kept as its manifest is: see `sweep_data`

Labels of a run were made from its manifest: the boxes, masks and points in it are what people gave, those made with
fine-tuning cost the masks as well. Where a manifest holds masks that a program drew, what they were made from is not
known, and no time is stated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from rayvos import storage
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.own_json import read_own_json
from rayvos.annotations.run_folder import RunFolder
from rayvos.errors import FormatError
from rayvos.training.vos_clips import GeneratedSettings
from rayvos.tuning.spaces import Costs, Setting, Space
from rayvos.tuning.trials import Trial

__all__ = ["Effort", "effort_of", "with_label_times"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Counts over the clips of a source."""

    num_objects: int
    num_boxes: int = 0
    num_masks: int = 0
    num_points: int = 0
    known: bool = True
    """False: some masks were drawn by a program, from what nobody says."""

    def seconds(self, costs: Costs) -> float | None:
        """Return an annotator's mean seconds per object; None where they are not known, or nothing was given."""
        spent = self.num_boxes * costs.box_s + self.num_masks * costs.mask_s + self.num_points * costs.point_s
        return spent / self.num_objects if self.known and self.num_objects and spent else None


REMEDY = "remove it and run the sweep again"
GENERATED = Effort(num_objects=1, num_boxes=GeneratedSettings().clip_frames)
"""Of generated clips: labels as if they were made from a box on each frame."""


def with_label_times(
    space: Space, trials: Sequence[Trial], data: Sequence[str], finetuned: Sequence[str], costs: Costs
) -> tuple[Space, list[Trial]]:
    """Return a sweep and its trials with what the labels of each setting cost an annotator.

    Args:
        space: the sweep.
        trials: of all its settings, with prepared data.
        data: what their data was prepared from.
        finetuned: the same, of settings that learn from labels made with fine-tuning.
        costs: seconds an annotator spends.

    Raises:
        FormatError, StorageError: see `effort_of`.
    """
    settings: dict[str, Setting] = {}
    for trial in trials:
        setting = trial.setting
        if setting.name not in settings:
            effort = effort_of(finetuned if setting.finetuned else data, trial.request.data)
            settings[setting.name] = replace(setting, seconds=effort.seconds(costs))
    timed = [replace(trial, setting=settings[trial.setting.name]) for trial in trials]
    return replace(space, settings=tuple(settings[setting.name] for setting in space.settings)), timed


def effort_of(sources: Sequence[str], prepared: Sequence[str]) -> Effort:
    """Return what people gave for the objects of some sources.

    Args:
        sources: manifests, run folders, data sets; none: generated clips.
        prepared: the manifests they became, see `sweep_data`.

    Raises:
        FormatError: a file that was kept is damaged.
        StorageError: a source is not there, or what was counted cannot be kept.
    """
    if not sources:
        return GENERATED
    found = [_effort_of_one(source, manifest) for source, manifest in zip(sources, prepared, strict=True)]
    return Effort(
        num_objects=sum(effort.num_objects for effort in found),
        num_boxes=sum(effort.num_boxes for effort in found),
        num_masks=sum(effort.num_masks for effort in found),
        num_points=sum(effort.num_points for effort in found),
        known=all(effort.known for effort in found),
    )


def _effort_of_one(source: str, manifest: str) -> Effort:
    if source.endswith(".parquet"):
        return _counted(manifest)
    path = manifest.removesuffix(".parquet") + "-effort.json"
    if not storage.exists(path):
        is_run = storage.exists(storage.join(source, "plans"))
        effort = _counted(RunFolder(source).newest_manifest() if is_run else manifest)
        storage.write_bytes(path, json.dumps(asdict(effort), indent=1).encode())
    try:
        return Effort(**read_own_json(path, REMEDY))
    except TypeError as error:
        raise FormatError(f"{path}: expected counts: {error}; {REMEDY}") from error


def _counted(manifest: str) -> Effort:
    num_objects = num_boxes = num_masks = num_points = 0
    known = True
    for clip in ManifestFile(manifest):
        masks = [mask for mask in clip.masks if mask.rle is not None]
        num_objects += len(clip.objects)
        num_boxes += sum(box.visible for box in clip.boxes)
        num_masks += len(masks)
        num_points += len(clip.points)
        known = known and not any(mask.machine_made for mask in masks)
    return Effort(num_objects=num_objects, num_boxes=num_boxes, num_masks=num_masks, num_points=num_points, known=known)
