"""The exports that give each clip files of its own: label maps, overlays, contact sheets."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from rayvos import storage
from rayvos.annotations.formats.json_stream import json_bytes
from rayvos.annotations.formats.png_results import sav_names, write_davis_clip, write_sav_clip, write_youtube_vos_clip
from rayvos.annotations.records import Clip
from rayvos.review.export_options import ExportOptions

__all__ = ["clear_clip", "write_clip", "write_index"]

_SUFFIXES = {"overlay": ".mp4", "contact-sheet": ".jpg"}


def _place(clip: Clip, out: str, options: ExportOptions) -> str:
    """Return the folder (label maps) or the file (pictures) of a clip; its id was checked to stay inside `out`."""
    if options.format in _SUFFIXES:
        return storage.join(out, clip.clip_id + _SUFFIXES[options.format])
    if options.format == "youtube-vos":
        return storage.join(out, "Annotations", clip.clip_id)
    return storage.join(out, clip.clip_id)


def clear_clip(clip: Clip, out: str, options: ExportOptions) -> None:
    """Remove what an earlier or interrupted export wrote of a clip; files of clips in folders below it stay."""
    place = _place(clip, out, options)
    if options.format in _SUFFIXES:
        folder, _, name = place.rpartition("/")
        for found in storage.list_folder(folder):
            if found == name or (found.startswith(f".{name[:100]}.") and found.endswith(".tmp")):
                storage.remove(storage.join(folder, found))
        return
    folders = [place]
    if options.format == "sav":
        folders = [storage.join(place, name) for name in sav_names(clip).values()]
    for folder in folders:
        for found in storage.list_folder(folder):
            if found.endswith((".png", ".png.tmp", ".tmp")):
                storage.remove(storage.join(folder, found))


def write_clip(clip: Clip, table: pa.Table, out: str, options: ExportOptions) -> tuple[int, dict[str, Any]]:
    """Write a clip's files and return their number and the facts that the export's index needs of the clip.

    Raises:
        InputError: a frame, a mask or a frame's name cannot be used.
        StorageError: a frame cannot be read, or a file cannot be written.
    """
    place = _place(clip, out, options)
    if options.format == "davis":
        return write_davis_clip(clip, table, place, overlap=options.overlap, min_score=options.min_score), {}
    if options.format == "sav":
        return write_sav_clip(clip, table, place, min_score=options.min_score), {}
    if options.format == "youtube-vos":
        num_files, objects = write_youtube_vos_clip(
            clip, table, place, overlap=options.overlap, min_score=options.min_score
        )
        return num_files, {"objects": objects}
    _write_picture(clip, table, place, options)
    return 1, {}


def _write_picture(clip: Clip, table: pa.Table, path: str, options: ExportOptions) -> None:
    # OpenCV and PyAV wait here, so that exports without pixels start at once.
    from rayvos.review.candidate_sheet import candidate_sheet
    from rayvos.review.clip_pictures import clip_sheet, write_overlay_video
    from rayvos.review.contact_sheet import encode_jpeg

    if "kind" in table.column_names:
        sheet = candidate_sheet(clip, table, num_frames=options.rows, max_side=options.max_side or 480)
        storage.write_bytes(path, encode_jpeg(sheet))
        return
    if options.format == "overlay":
        write_overlay_video(
            clip, table, path,
            fps=options.fps, max_side=options.max_side, overlap=options.overlap, min_score=options.min_score,
        )  # fmt: skip
        return
    sheet = clip_sheet(
        clip, table,
        num_frames=options.rows, max_side=options.max_side or 480, overlap=options.overlap,
        min_score=options.min_score,
    )  # fmt: skip
    storage.write_bytes(path, encode_jpeg(sheet))


def write_index(out: str, options: ExportOptions, marks_folder: str) -> int:
    """Write the file that lists all exported clips, where the format has one, and return the number of files."""
    if options.format != "youtube-vos":
        return 0
    marks = storage.list_folder(marks_folder)
    if not marks:
        return 0
    with storage.open_output(storage.join(out, "meta.json")) as file:
        file.write(b'{"videos":{')
        for number, name in enumerate(marks):
            facts = json.loads(storage.read_bytes(storage.join(marks_folder, name)))
            file.write((b",\n" if number else b"\n") + json_bytes(facts["clip_id"]) + b":")
            file.write(json_bytes({"objects": facts["objects"]}))
        file.write(b"\n}}\n")
    return 1
