"""A folder of labels that a person shall look at, and how the person answers.

    FOLDER/review.json       what is shown: one item per object at most, worst first; never edited
    FOLDER/answers.csv       the same items as a table, with the column `answer` to be filled
    FOLDER/labels/….png      the mask of each item, to be corrected in any editor of label maps
    FOLDER/images/….jpg      the frame alone, to draw over
    FOLDER/overlays/….jpg    the frame with the box that was given and the mask that was made

| answer | meaning |
|---|---|
| (empty) | redrawn if the PNG was changed, else not looked at: nothing happens |
| `accept` | the mask is right as it is: it becomes a person's mask |
| `box-wrong` | the box is wrong: with a redrawn mask it becomes that mask's tight box, else it is dropped |
| `not-visible` | the object cannot be seen on this frame |

Source: TAO-VOS loop (Box2Seg specification, section 7): worst first, one per object so that the fixes spread.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from rayvos import storage
from rayvos.annotations.formats.label_maps import decode_label_map, fit_label_map
from rayvos.errors import FormatError, MissingPathError, UsageError, choose
from rayvos.masks.rle import mask_to_rle, rle_area

__all__ = [
    "Answer",
    "Fix",
    "ReviewItem",
    "ReviewSet",
    "mask_digest",
    "read_fixes",
    "read_review_set",
    "write_review_set",
]

Answer = Literal["", "accept", "box-wrong", "not-visible"]
FixKind = Literal["unanswered", "accepted", "redrawn", "box-wrong", "not-visible"]

REVIEW_FILE, ANSWERS_FILE = "review.json", "answers.csv"
VERSION = 1
_SHOWN = ("name", "clip_id", "frame", "object_id", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewItem:
    """One label that a person shall look at."""

    name: str
    """Of its files: `labels/<name>.png` and so on."""
    clip_id: str
    frame: int
    object_id: int
    score: float
    """Predicted IoU in [0, 1]."""
    round: int
    """How often the clip was corrected before this label was made: 0 for the first labels."""
    height: int
    width: int
    mask_digest: str
    """Of the mask as it was written; tells whether the PNG was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSet:
    """All that is shown, and where it comes from."""

    run: str
    """The run folder."""
    manifest: str
    """The manifest the labels were made on: the run's snapshot."""
    engine: str
    weights: str
    """Digest of the engine's weights."""
    items: tuple[ReviewItem, ...]
    """Worst first."""


@dataclass(frozen=True, slots=True)
class Fix:
    """What a person said of one item."""

    item: ReviewItem
    kind: FixKind
    rle: bytes | None = None
    """The person's mask: of `accepted`, `redrawn`, and `box-wrong` where it was redrawn; else None."""


def mask_digest(rle: bytes) -> str:
    """Return the digest by which a mask is recognised."""
    return hashlib.blake2b(rle, digest_size=12).hexdigest()


def write_review_set(folder: str, shown: ReviewSet) -> None:
    """Write `review.json`, and `answers.csv` without answers.

    Raises:
        StorageError: the folder cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*_SHOWN, "answer"])
    for item in shown.items:
        rows.writerow([item.name, item.clip_id, item.frame, item.object_id, f"{item.score:.4f}", ""])
    storage.write_bytes(storage.join(folder, ANSWERS_FILE), text.getvalue().encode())
    facts = {"rayvos_review": VERSION, **asdict(shown)}
    storage.write_bytes(storage.join(folder, REVIEW_FILE), json.dumps(facts, indent=1).encode() + b"\n")


def read_review_set(folder: str) -> ReviewSet:
    """Read `review.json`.

    Raises:
        MissingPathError: the folder holds none.
        FormatError: it is no review, or one of a newer rayvos.
    """
    path = storage.join(folder, REVIEW_FILE)
    try:
        found = json.loads(storage.read_bytes(path))
        if not isinstance(found, dict) or found.pop("rayvos_review", None) != VERSION:
            raise FormatError(f"{path}: expected a review of version {VERSION}; make one with `rayvos review`")
        items = tuple(ReviewItem(**item) for item in found.pop("items"))
        return ReviewSet(items=items, **found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: expected the JSON of a review: {error!r}; make it again") from error


def read_fixes(folder: str, shown: ReviewSet) -> list[Fix]:
    """Return what the person said of each item, in the order shown.

    Raises:
        FormatError: an answer is unknown or contradicts the PNG, an item is unknown, or a PNG is no label map.
        FrameSizeError: a PNG has another size than its frame.
        StorageError: a file cannot be read.
    """
    answers = _read_answers(storage.join(folder, ANSWERS_FILE), shown.items)
    return [_fix(folder, item, answers.get(item.name, "")) for item in shown.items]


def _read_answers(path: str, items: Sequence[ReviewItem]) -> dict[str, Answer]:
    known = {item.name for item in items}
    answers: dict[str, Answer] = {}
    try:
        rows = list(csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path}: expected a UTF-8 table: {error}; save it as CSV") from error
    for line, row in enumerate(rows, start=2):
        name, answer = (row.get("name") or "").strip(), (row.get("answer") or "").strip().lower()
        if name not in known:
            raise FormatError(f"{path} line {line}: name {name!r}: no such item in {REVIEW_FILE}; keep that column")
        try:
            choose("answer", answer, get_args(Answer))
        except UsageError as error:
            raise FormatError(f"{path} line {line}: {error}") from error
        answers[name] = next(choice for choice in get_args(Answer) if choice == answer)
    return answers


def _fix(folder: str, item: ReviewItem, answer: Answer) -> Fix:
    path = storage.join(folder, "labels", f"{item.name}.png")
    try:
        data = storage.read_bytes(path)
    except MissingPathError as error:
        raise FormatError(f"{path}: is gone; put it back, or remove its line from {REVIEW_FILE}") from error
    label_map = fit_label_map(decode_label_map(data, path), item.height, item.width, path)
    rle = mask_to_rle(label_map.ids != 0)  # editors write 1, 255 or the object's colour
    changed = mask_digest(rle) != item.mask_digest
    empty = rle_area(rle, item.height, item.width) == 0
    if answer == "not-visible":
        if changed and not empty:
            raise FormatError(f"{path}: was redrawn, but the answer is 'not-visible'; keep one of the two")
        return Fix(item, "not-visible")
    if empty and (changed or answer == "accept"):
        raise FormatError(f"{path}: shows nothing; draw the object, or answer 'not-visible' in {ANSWERS_FILE}")
    if answer == "box-wrong":
        return Fix(item, "box-wrong", rle if changed else None)
    if changed:
        return Fix(item, "redrawn", rle)
    return Fix(item, "accepted", rle) if answer == "accept" else Fix(item, "unanswered")
