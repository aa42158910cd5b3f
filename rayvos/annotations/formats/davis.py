"""DAVIS 2016, 2017 and unsupervised: a folder of frames and a folder of label maps per sequence.

`JPEGImages/<resolution>/<sequence>/00000.jpg`, `Annotations/<resolution>/<sequence>/00000.png` (unsupervised:
`Annotations_unsupervised`), `ImageSets/<year>/<split>.txt` with a sequence per line; the release of 2016 has
`ImageSets/480p/<split>.txt` with two columns, image and mask, that start with a slash. Copies without the level of the
resolution are read, too.

Pixels are object ids, 255 is void and belongs to no object. A sequence whose masks are black and white throughout
shows one object (2016). A file in which an object has no pixel says that its mask is empty there, not that it is
unknown; frames without a file (test-dev has only the first) are not annotated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rayvos import storage
from rayvos.annotations.clip_stream import OnError, stream_clips
from rayvos.annotations.formats.mask_folder import mask_clip, read_clip_masks
from rayvos.annotations.manifest import check_clip_id
from rayvos.annotations.records import Clip
from rayvos.errors import FormatError, MissingPathError, choose

__all__ = ["detect", "read_davis"]

RESOLUTIONS = ("480p", "Full-Resolution", "1080p")
YEARS = ("2017", "2016", "unsupervised")
LIST_FOLDERS = {"2016": ("2016", "480p", "1080p"), "2017": ("2017",), "unsupervised": ("2017", "2019")}


def detect(source: str) -> bool:
    """Tell whether `source` is a DAVIS root: `JPEGImages` with a folder per resolution."""
    names = set(storage.list_folder(source))
    if "JPEGImages" not in names or not names & {"Annotations", "Annotations_unsupervised"}:
        return False
    return bool(set(storage.list_folder(storage.join(source, "JPEGImages"))) & set(RESOLUTIONS))


def read_davis(
    source: str,
    *,
    split: str | None = None,
    year: Literal["2016", "2017", "unsupervised"] | None = None,
    resolution: str | None = None,
    truncate: bool = False,
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield one clip per sequence.

    Args:
        source: the root that holds `JPEGImages`.
        split: the name of a list in `ImageSets` (`train`, `val`, …); None: every annotated sequence.
        year: 2016 takes everything that is not background as one object, 2017 takes pixels as ids; unsupervised as
            2017, from its own masks. None: decided for each sequence by its files.
        resolution: None: `480p` where it is there, else the largest.
        truncate: leave out masks without a frame instead of raising.
        on_error: told of sequences that cannot be used, which are left out; None raises.

    Raises:
        FormatError: a file does not follow the format.
        MissingPathError: the split, or a folder, is not there.
        StorageError: a path cannot be read.
    """
    if year is not None:
        choose("DAVIS year", year, YEARS)
    names = set(storage.list_folder(source))
    masks = "Annotations_unsupervised" if year == "unsupervised" or "Annotations" not in names else "Annotations"
    if not {"JPEGImages", masks} <= names:
        raise MissingPathError(f"{source}: expected folders JPEGImages and {masks}; name the root of DAVIS")
    level = _resolution(source, resolution)
    if split is not None:
        sequences = iter(_listed(source, split, year, masks, level))
    else:
        found = storage.list_folder(storage.join(source, masks, *level))
        sequences = iter([_folders(masks, level, name) for name in found if not name.startswith(".")])
    return stream_clips(
        sequences,
        lambda folders: _read(source, *folders, year, truncate),
        lambda folders: _name(folders[0]),
        source=source,
        on_error=on_error,
    )


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def _folders(masks: str, level: tuple[str, ...], name: str) -> tuple[str, str]:
    return "/".join(("JPEGImages", *level, name)), "/".join((masks, *level, name))


def _resolution(source: str, wanted: str | None) -> tuple[str, ...]:
    """Return the folder of the resolution, or nothing where sequences lie in `JPEGImages` itself."""
    known = [name for name in RESOLUTIONS if name in storage.list_folder(storage.join(source, "JPEGImages"))]
    if wanted is not None:
        return (choose("resolution", wanted, known),)
    return (known[0],) if known else ()


def _listed(source: str, split: str, year: str | None, masks: str, level: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (folder of the frames, folder of the masks) of each sequence of a split, relative to the root."""
    folders = LIST_FOLDERS[year] if year else ("2017", "2016", "2019", "480p", "1080p")
    there = set(storage.list_folder(storage.join(source, "ImageSets")))
    paths = [storage.join(source, "ImageSets", name, f"{split}.txt") for name in folders if name in there]
    path = next((path for path in paths if storage.exists(path)), None)
    if path is None:
        raise MissingPathError(
            f"{source}: no list {split}.txt in ImageSets/{{{','.join(folders)}}}; name another split, or none for all"
        )
    found: dict[tuple[str, str], None] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        columns = line.split()
        where = f"{path} line {number}"
        if len(columns) == 1:
            found[_folders(masks, level, check_clip_id(columns[0], where))] = None
        elif len(columns) == 2:
            image, mask = (check_clip_id(column.lstrip("/"), where).rpartition("/")[0] for column in columns)
            if not image or not mask:
                raise FormatError(f"{where}: expected paths with a folder, found {line[:80]!r}")
            found[image, mask] = None
        elif columns:
            raise FormatError(f"{where}: expected a sequence, or an image and its mask, found {line[:80]!r}")
    return list(found)


def _text(path: str) -> str:
    try:
        return storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected text, found other bytes: {error}") from error


def _read(source: str, frames: str, masks: str, year: str | None, truncate: bool) -> Clip:
    found = read_clip_masks(storage.join(source, frames), storage.join(source, masks), truncate=truncate)
    if year == "2016" or (year is None and found.is_binary):
        found = found.as_one_object()
    rows = {
        value: [(frame, rles.get(value, found.empty)) for frame, rles in found.rles.items()]
        for value in found.object_values
    }
    return mask_clip(_name(frames), found, rows, annotated=found.rles.keys())
