"""Writes the worst labels of a run into a folder where a person fixes them.

Of each object only the worst label is shown, so that the fixes spread: two bad frames of one object usually have one
cause, and one mask mends both when the object is labelled again. Masks that people gave are not shown again.
Source: TAO-VOS loop (Box2Seg specification, section 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.formats.label_maps import write_label_map
from rayvos.annotations.label_frames import frames_of, given_boxes
from rayvos.annotations.manifest import ManifestFile
from rayvos.annotations.records import Clip
from rayvos.annotations.review_folder import (
    ANSWERS_FILE,
    REVIEW_FILE,
    ReviewItem,
    ReviewSet,
    mask_digest,
    write_review_set,
)
from rayvos.annotations.run_folder import RunFolder, iter_labels
from rayvos.engines.keyframes import middle_frame
from rayvos.errors import InputError, UsageError
from rayvos.masks.rle import mask_to_rle, rle_to_mask
from rayvos.review.contact_sheet import encode_jpeg
from rayvos.review.overlays import ObjectLabel, overlay_image
from rayvos.review.run_statistics import RunStatistics, WorstLabel
from rayvos.video.source import open_clip

__all__ = ["ReviewSummary", "ShownFrame", "write_review"]

ShownFrame = Literal["worst", "middle"]

PARTS = ("labels", "images", "overlays", REVIEW_FILE, ANSWERS_FILE)
GOOD_SCORE = 0.7  # Box2Seg's stricter recall threshold
IMAGE_QUALITY = 95


@dataclass(frozen=True, slots=True)
class ReviewSummary:
    """What a review shows, and how the run stands."""

    out: str
    items: int
    lowest: float | None
    """Score of the worst item; None without any."""
    highest: float | None
    masks: int
    """Masks of the engine in the run."""
    estimated_recall_70: float | None
    """Share of them with a score of at least 0.7: what the loop wants to raise."""
    human_masks: int


def write_review(
    run: str,
    out: str,
    *,
    num_worst: int = 20,
    below: float = 1.0,
    shown: ShownFrame = "worst",
    overwrite: bool = False,
    on_clip: Callable[[], None] = lambda: None,
) -> ReviewSummary:
    """Write the worst labels of a run for a person to fix.

    Args:
        run: output folder of a labelling run, path or URL; it may still be going on.
        out: folder to write into, path or URL.
        num_worst: labels at most.
        below: only objects whose worst label has a lower score.
        shown: of each object its `worst` frame, or the `middle` one of those that show it: a mask there sharpens all
            others best, and is what the first round should ask for.
        overwrite: replace a review that is in the folder, its answers and redrawn masks included.
        on_clip: called after each clip that was read.

    Raises:
        UsageError: `out` holds something.
        MissingPathError: `run` is no run folder.
        InputError: the run has no mask to show, or a frame cannot be read.
        StorageError: a file cannot be read or written.
    """
    _claim(out, overwrite=overwrite)
    folder = RunFolder(run)
    statistics = RunStatistics(low_score=GOOD_SCORE, num_worst=num_worst)
    for clip_id, table in iter_labels(run):
        statistics.add(clip_id, table)
        on_clip()
    worst = [label for label in statistics.worst_labels() if label.score < below]
    if not worst:
        raise InputError(f"{run}: no mask of the engine with a score below {below:g}; there is nothing to review")
    items = worst if shown == "worst" else _middle_labels(run, worst)
    configuration = folder.read_run_json().get("configuration", {})
    review = ReviewSet(
        run=storage.absolute(folder.path),
        manifest=storage.absolute(folder.newest_manifest()),
        engine=str(configuration.get("engine", "")),
        weights=str(configuration.get("weights", "")),
        items=tuple(_write_items(folder, out, items)),
    )
    write_review_set(out, review)
    masks = statistics.num_masks
    return ReviewSummary(
        out, len(items), min(item.score for item in items), max(item.score for item in items), masks,
        (masks - statistics.num_low) / masks if masks else None, statistics.num_human,
    )  # fmt: skip


def _middle_labels(run: str, worst: Sequence[WorstLabel]) -> list[WorstLabel]:
    """Return the label on the middle frame of each of these objects, in the same order."""
    wanted = {(label.clip_id, label.object_id): label for label in worst}
    found: dict[tuple[str, int], WorstLabel] = {}
    for clip_id, table in iter_labels(run, clip_ids={label.clip_id for label in worst}):
        masks: dict[int, dict[int, WorstLabel]] = {}
        for frame, labels in frames_of(table):
            for label in labels:
                if label.rle is not None and not label.human and (clip_id, label.object_id) in wanted:
                    score = label.score or 0.0
                    shown = WorstLabel(clip_id, label.object_id, frame, score, label.rle, label.round)
                    masks.setdefault(label.object_id, {})[frame] = shown
        for object_id, by_frame in masks.items():
            found[clip_id, object_id] = by_frame[middle_frame(by_frame)]
    return [found[key] for key in wanted]


def _claim(out: str, *, overwrite: bool) -> None:
    held = storage.list_folder(out)
    if not held:
        return
    foreign = [name for name in held if name not in PARTS]
    if foreign or not overwrite:
        raise UsageError(
            f"{out}: expected a new or empty folder, found {(foreign or held)[0]!r}; choose another one"
            + ("" if foreign else ", or --overwrite to discard the review in it")
        )
    for name in PARTS:
        storage.remove(storage.join(out, name))


def _write_items(run: RunFolder, out: str, labels: Sequence[WorstLabel]) -> list[ReviewItem]:
    """Write the pictures of all labels and return the items, in the order of the labels."""
    plan = run.read_plan().select(["clip_id", "manifest_row"]).to_pylist()
    wanted = {label.clip_id for label in labels}
    rows = {row["clip_id"]: row for row in plan if row["clip_id"] in wanted}
    manifest = ManifestFile(run.newest_manifest())
    clips = {clip.clip_id: clip for _, clip in manifest.read_rows(sorted(row["manifest_row"] for row in rows.values()))}
    items: dict[WorstLabel, ReviewItem] = {}
    names = {label: _name(number, label) for number, label in enumerate(labels)}
    for clip_id, clip in clips.items():
        of_clip = {label: names[label] for label in labels if label.clip_id == clip_id}
        for label, image, mask in _pictures(clip, of_clip):
            _write_pictures(clip, label, image, mask, out, names[label])
            items[label] = ReviewItem(
                name=names[label], clip_id=clip_id, frame=label.frame, object_id=label.object_id,
                score=round(label.score, 6), round=label.round, height=clip.height, width=clip.width,
                mask_digest=mask_digest(mask_to_rle(mask)),
            )  # fmt: skip
    return [items[label] for label in labels]


def _name(number: int, label: WorstLabel) -> str:
    """Return a file name that sorts worst first and can be read; clip ids may be long and hold slashes."""
    clip = label.clip_id.replace("/", "_").encode("ascii", "replace").decode().replace("?", "_")[:60]
    return f"{number:04d}-{clip}-frame{label.frame:05d}-object{label.object_id}"


def _pictures(
    clip: Clip, labels: Mapping[WorstLabel, str]
) -> Iterator[tuple[WorstLabel, NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield (label, frame as RGB, its mask) of one clip's labels; the clip is opened once."""
    wanted: dict[int, list[WorstLabel]] = {}
    for label in labels:
        wanted.setdefault(label.frame, []).append(label)
    with open_clip(clip) as reader:
        for frame, image in reader.read(sorted(wanted)):
            for label in wanted[frame]:
                yield label, image, rle_to_mask(label.rle, clip.height, clip.width)


def _write_pictures(
    clip: Clip, label: WorstLabel, image: NDArray[np.uint8], mask: NDArray[np.bool_], out: str, name: str
) -> None:
    box = given_boxes(clip).get(label.frame, {}).get(label.object_id)
    sides = None if box is None else (box.x0, box.y0, box.x1, box.y1)
    overlay = overlay_image(image, [ObjectLabel(label.object_id, mask, sides, label.score)])
    write_label_map(storage.join(out, "labels", f"{name}.png"), mask.astype(np.uint8))
    storage.write_bytes(storage.join(out, "images", f"{name}.jpg"), encode_jpeg(image, IMAGE_QUALITY))
    storage.write_bytes(storage.join(out, "overlays", f"{name}.jpg"), encode_jpeg(overlay))
