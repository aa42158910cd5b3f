"""Frames that an annotation file lists by name: where they are, and whether they are there.

Annotation files of COCO's kind name pictures relative to a folder that they do not know. It is given by the user, or
looked for in the usual places beside the file. Clips can be imported without the pictures; then nothing but the names
is known of them, and one warning says so.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from rayvos import storage
from rayvos.annotations.frame_listing import FolderListing, list_images
from rayvos.annotations.manifest import check_clip_id
from rayvos.annotations.records import ClipSource
from rayvos.errors import MissingPathError

__all__ = ["ListedFrames", "guesses_beside"]

logger = logging.getLogger(__name__)

LISTINGS_KEPT = 8  # folders of neighbouring clips; COCO keeps all pictures in one


def guesses_beside(annotation_file: str) -> list[str]:
    """Return where the pictures of `train.json` or `instances_train.json` usually are, relative to the file's folder.

    `../train`, `train/JPEGImages`, `JPEGImages`, `images` and the like; the folder itself comes last.
    """
    name = PurePosixPath(annotation_file).stem.removeprefix("instances_")
    near = [f"{step}{folder}" for step in ("", "../") for folder in (name, f"images/{name}", "images")]
    frames = [f"{step}JPEGImages" for step in ("", f"{name}/", "../", f"../{name}/")]
    return [*frames, *near, "..", "."]


class ListedFrames:
    """The folder below which the frames of an annotation file are.

    Args:
        annotation_file: path or URL; frames are looked for around it.
        frames: the folder as the user gave it; None: look for it.
        guesses: where it usually is, relative to the folder of the annotation file (`..` steps out).
        sample: the listed name of one frame, relative to the folder; None where the file lists none.

    Raises:
        MissingPathError: the user's folder does not hold the sample.
    """

    def __init__(self, annotation_file: str, frames: str | None, guesses: Sequence[str], sample: str | None) -> None:
        beside = dict.fromkeys(_beside(annotation_file, guess) for guess in guesses)
        places = [frames.rstrip("/")] if frames is not None else [place for place in beside if place is not None]
        sample = None if sample is None else check_clip_id(sample, f"{annotation_file}: frame name")
        found = None if sample is None else next((place for place in places if _holds(place, sample)), None)
        if found is None and frames is not None and sample is not None:
            raise MissingPathError(
                f"{frames}: expected the frames that {annotation_file} lists, but there is no {sample!r} in it; name "
                "the folder that the names in the file start from"
            )
        if found is None and sample is not None:
            logger.warning("frames_not_found file=%s looked_in=%s", annotation_file, places)
        self.root = found or places[0]
        self._is_there = found is not None
        self._listing = lru_cache(LISTINGS_KEPT)(list_images)

    def source(self, names: Sequence[str], where: str) -> ClipSource:
        """Return the source of a clip whose frames have these names, relative to the folder.

        Frames of one folder are named relative to that.

        Raises:
            IdError: a name leads out of the folder.
            FrameMissingError: the folder was found, but not this frame.
            StorageError: it cannot be listed.
        """
        for name in names:
            check_clip_id(name, f"{where}: frame name")
        parents = {name.rpartition("/")[0] for name in names}
        if len(parents) == 1:
            folder = "/".join([self.root, *parents]).rstrip("/")
            bare = tuple(name.rpartition("/")[2] for name in names)
            identity = self._folder(folder).identity_of(bare) if self._is_there else ""
            return ClipSource("images", folder, bare, identity=identity)
        digest = hashlib.sha256()
        for name in names if self._is_there else ():
            parent, _, last = name.rpartition("/")
            digest.update(self._folder(storage.join(self.root, parent)).identity_of([last]).encode())
        return ClipSource("images", self.root, tuple(names), identity=digest.hexdigest()[:32] if self._is_there else "")

    def _folder(self, folder: str) -> FolderListing:
        return self._listing(folder)


def _beside(annotation_file: str, guess: str) -> str | None:
    """Return a path relative to the folder of a file, None where it would leave a bucket."""
    folder = annotation_file.rpartition("/")[0] or ("/" if annotation_file.startswith("/") else ".")
    for part in guess.split("/"):
        if part == "..":
            head, slash, last = folder.rpartition("/")
            if head.endswith(":/"):
                return None
            outside = folder == "." or last == ".."
            folder = ".." if folder == "." else f"{folder}/.." if outside else head or slash or "."
        elif part not in ("", "."):
            folder = storage.join(folder, part)
    return folder


def _holds(place: str, sample: str) -> bool:
    return storage.exists(storage.join(place, sample))
