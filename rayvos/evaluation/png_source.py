"""Folders and zips of PNG label maps, local or remote: `<clip>/<frame>.png`, alone or inside a data set's root."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rayvos import storage
from rayvos.annotations.formats.label_maps import decode_label_map
from rayvos.annotations.frame_listing import natural_key
from rayvos.errors import DecodeError, FormatError, ImageTooLargeError, MissingPathError
from rayvos.evaluation.mask_frames import LabelMapFrame
from rayvos.evaluation.sources import positions_of_names

__all__ = ["PngClip", "PngSource", "open_pngs"]

LARGEST_PNG = 256 << 20  # bytes unpacked; a label map of 100 megapixels that nothing compresses is smaller
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")  # DAVIS keeps each resolution in a folder of its own


class _Folder:
    """Files below a folder, by their path relative to it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def place(self, name: str) -> str:
        """Return the path of a file or folder."""
        return storage.join(self.path, name) if name else self.path

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        return storage.read_bytes(self.place(name))

    def children(self, folder: str) -> list[str]:
        """Return the names directly inside a folder."""
        return storage.list_folder(self.place(folder))

    def files(self, folder: str) -> list[str]:
        """Return all files below a folder, relative to it."""
        fs, inner = storage.filesystem(self.place(folder))
        with storage.naming(self.place(folder), "list"):
            found = storage.retrying(lambda: fs.find(inner))
        # File systems differ in leading slashes, never in what follows the folder.
        start = len(inner.strip("/")) + 1 if inner.strip("/") else 0
        return [file.strip("/")[start:] for file in found]


class _Zip:
    """Files in a zip; the archive is opened once per process and never pickled."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._zip: zipfile.ZipFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_zip": None}

    def _open(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                self._zip = zipfile.ZipFile(storage.open_input(self.path))
            except zipfile.BadZipFile as error:
                raise FormatError(f"{self.path}: expected a zip archive: {error}; copy the file again") from error
        return self._zip

    def place(self, name: str) -> str:
        """Return what messages call a file."""
        return f"{self.path}/{name}" if name else self.path

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            DecodeError: it is damaged, encrypted, or packed in a way that Python cannot undo.
            ImageTooLargeError: it would unpack to more than any label map holds.
        """
        try:
            with storage.naming(self.place(name)):
                archive = self._open()
                size = archive.getinfo(name).file_size  # no more than that is unpacked
                if size > LARGEST_PNG:
                    raise ImageTooLargeError(
                        f"{self.place(name)}: {size} bytes unpacked, at most {LARGEST_PNG}; this is no label map"
                    )
                return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DecodeError(f"{self.place(name)}: damaged in the archive: {error}; copy the zip again") from error

    def children(self, folder: str) -> list[str]:
        """Return the names directly inside a folder."""
        return sorted({file.split("/")[0] for file in self.files(folder)})

    def files(self, folder: str) -> list[str]:
        """Return all files below a folder, relative to it."""
        start = f"{folder}/" if folder else ""
        names = (name for name in self._open().namelist() if not name.endswith("/"))
        return [name[len(start) :] for name in names if name.startswith(start)]


@dataclass(frozen=True, slots=True)
class PngClip:
    """The label maps of one clip."""

    clip_id: str
    root: _Folder | _Zip
    folder: str
    """Of the clip, below the root."""
    files: tuple[str, ...]
    """File names in order."""

    @property
    def names(self) -> tuple[str, ...]:
        """File names without suffix."""
        return tuple(PurePosixPath(name).stem for name in self.files)

    @property
    def positions(self) -> tuple[int, ...] | None:
        """Positions in the clip, where the names say that every frame is there."""
        return positions_of_names(self.names)

    def place(self, number: int) -> str:
        """Return the path of a file, or of the clip's folder for number -1."""
        return self.root.place(self._name(number))

    def _name(self, number: int) -> str:
        return self.folder if number < 0 else "/".join(filter(None, (self.folder, self.files[number])))

    def read(self, number: int) -> LabelMapFrame:
        """Return a label map.

        Raises:
            FormatError, DecodeError: the file is no label map; naming it.
        """
        found = decode_label_map(self.root.read(self._name(number)), self.place(number))
        return LabelMapFrame(found.ids, found.void)


class PngSource:
    """Clips of PNG label maps.

    Args:
        root: where the files are.
        folder: the folder of clips below it.
        files: PNG files by clip, in order.
    """

    clips_per_task = 1

    def __init__(self, root: _Folder | _Zip, folder: str, files: Mapping[str, Sequence[str]]) -> None:
        self.path = root.place(folder)
        self._root = root
        self._folder = folder
        self._files = {clip_id: tuple(sorted(names, key=natural_key)) for clip_id, names in sorted(files.items())}
        self.num_frames = {clip_id: len(names) for clip_id, names in self._files.items()}

    def open_clips(self, clip_ids: Sequence[str]) -> Iterator[PngClip]:
        """Yield the clips; nothing is read yet."""
        for clip_id in clip_ids:
            folder = "/".join(filter(None, (self._folder, clip_id)))
            yield PngClip(clip_id, self._root, folder, self._files[clip_id])

    def matching(self, clip_ids: Collection[str]) -> PngSource:
        """Return this source, or the one folder of it in which `clip_ids` lie: zips often have one around all."""
        tops = {clip_id.split("/")[0] for clip_id in self._files}
        if len(tops) != 1 or any(clip_id in self._files for clip_id in clip_ids):
            return self
        (top,) = tops
        inner = {clip_id[len(top) + 1 :]: names for clip_id, names in self._files.items() if clip_id != top}
        folder = "/".join(filter(None, (self._folder, top)))
        return PngSource(self._root, folder, inner).matching(clip_ids) if inner else self


def open_pngs(path: str, *, annotations: str = "Annotations", resolution: str | None = None) -> PngSource:
    """Open a folder or zip of label maps.

    Args:
        path: path or URL of a folder of clips, of a data set's root, or of a `.zip` of either.
        annotations: the folder of a data set's root that holds the clips.
        resolution: the folder below `annotations`; None takes 480p where there are resolutions.

    Raises:
        MissingPathError: the path leads to nothing.
        FormatError: there is no PNG file below it, or no folder of that resolution.
    """
    root = _Zip(path) if path.lower().endswith(".zip") else _Folder(path.rstrip("/") or path[:1])
    children = root.children("")
    if not children:
        raise MissingPathError(f"{path}: nothing is there; expected a folder or zip of <clip>/<frame>.png")
    folder = annotations if annotations in children else ""
    sizes = [name for name in root.children(folder) if name in RESOLUTIONS]
    if resolution is not None and resolution not in sizes:
        known = ", ".join(sizes) or "no resolutions"
        raise FormatError(f"{root.place(folder)}: no folder {resolution!r}; found {known}")
    if sizes:
        chosen = resolution or min(sizes, key=RESOLUTIONS.index)
        folder = "/".join(filter(None, (folder, chosen)))
    files: dict[str, list[str]] = {}
    for file in root.files(folder):
        clip_id, _, name = file.rpartition("/")
        if name.lower().endswith(".png") and not name.startswith(".") and "__MACOSX" not in clip_id:
            files.setdefault(clip_id, []).append(name)
    if not files:
        raise FormatError(f"{root.place(folder)}: no PNG label map below; expected <clip>/<frame>.png")
    return PngSource(root, folder, files)
