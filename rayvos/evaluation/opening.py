"""Opens truth and predictions by what they are, and finds the clips that a benchmark's list names."""

from __future__ import annotations

from collections.abc import Sequence

from rayvos import storage
from rayvos.errors import FormatError, MissingPathError
from rayvos.evaluation.json_source import JsonSource
from rayvos.evaluation.png_source import PngSource, open_pngs
from rayvos.evaluation.sources import MaskSource
from rayvos.evaluation.table_sources import LabelTableSource, ManifestSource, table_kind

__all__ = ["listed_clips", "open_masks"]


def open_masks(
    path: str,
    *,
    annotations: str = "Annotations",
    resolution: str | None = None,
    manifest: str | None = None,
    like: Sequence[str] | None = None,
) -> MaskSource:
    """Open masks of any form that `sources` lists.

    Args:
        path: path or URL.
        annotations: for PNG files, the folder of a data set's root that holds the clips.
        resolution: for PNG files, the folder below; None takes 480p where there are resolutions.
        manifest: for label tables, the manifest that names their frames.
        like: for PNG files, clips that are looked for; a folder that wraps all of them is stepped into.

    Raises:
        MissingPathError: the path leads to nothing.
        FormatError: it is none of the forms.
    """
    lower = path.lower()
    if lower.endswith(".json"):
        return JsonSource(path)
    if lower.endswith(".parquet"):
        kind = table_kind(path)
        if kind == "manifest":
            return ManifestSource(path)
        if kind == "labels":
            return LabelTableSource(path, manifest)
        raise FormatError(f"{path}: expected a labels table or a manifest, found a {kind} table")
    if not lower.endswith(".zip"):
        names = storage.list_folder(path)
        if not names:
            raise MissingPathError(f"{path}: nothing is there; check the path")
        if "plans" in names or (annotations not in names and any(name.endswith(".parquet") for name in names)):
            return LabelTableSource(path, manifest)
    source: PngSource = open_pngs(path, annotations=annotations, resolution=resolution)
    return source if like is None else source.matching(like)


def listed_clips(root: str, split: str | None, years: Sequence[str]) -> list[str] | None:
    """Return the clips that a data set's `ImageSets/<year>/<split>.txt` names.

    Args:
        root: path or URL of the data set; of anything else None is returned.
        split: name of the list; None takes `val` where there is one.
        years: folders of lists to look into, the first that has the list wins.

    Raises:
        MissingPathError: `split` is named and there is no such list.
        FormatError: the list is empty.
    """
    for year in years:
        path = storage.join(root, "ImageSets", year, f"{split or 'val'}.txt")
        if not root.lower().endswith((".zip", ".json", ".parquet")) and storage.exists(path):
            lines = storage.read_bytes(path).decode().split("\n")
            # The lists of 2016 name an image and a mask a line: `/JPEGImages/480p/<clip>/00000.jpg /Annotations/…`.
            words = [line.split()[0] for line in lines if line.strip()]
            clips = list(dict.fromkeys(word.split("/")[-2] if "/" in word else word for word in words))
            if not clips:
                raise FormatError(f"{path}: expected one clip a line, found none")
            return clips
    if split is not None:
        raise MissingPathError(
            f"{root}: no list ImageSets/{'|'.join(years)}/{split}.txt; leave --split out for all clips"
        )
    return None
