"""Every format by name, told apart by a look at the source, and read into clips that are ready for a manifest."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rayvos import storage
from rayvos.annotations.clip_paths import Probe, VideoInfo, clip_from_path
from rayvos.annotations.clip_stream import OnError
from rayvos.annotations.derive import boxes_from_masks as derive_boxes
from rayvos.annotations.manifest import check_clip
from rayvos.annotations.records import Clip
from rayvos.errors import FormatError, MissingPathError, RayvosError, UsageError, choose

__all__ = ["AUTO", "FORMATS", "Format", "Probe", "VideoInfo", "clip_from_path", "detect_format", "import_clips"]

AUTO = "auto"
# Options that several readers share; `import_clips` has a keyword for each.
SHARED_OPTIONS = {"frames", "split", "truncate", "probe"}
FLAG_WORDS = ("false", "true")


class _Reader(Protocol):
    def __call__(self, source: str, *, on_error: OnError | None = None, **options: Any) -> Iterator[Clip]: ...


@dataclass(frozen=True, slots=True)
class Format:
    """A format rayvos reads; its module in `formats/` is imported when it is needed."""

    module: str
    """Holds `detect` and `read_<module>`."""
    what: str
    """What the source is, for the list of formats."""
    is_finished: bool = False
    """Its clips come from a manifest: they stay as they are, or a run would redo those that nobody changed."""

    def detect(self, source: str) -> bool:
        """Tell by a cheap look whether `source` is of this format."""
        try:
            return bool(self._module().detect(source))
        except FormatError:
            return False

    def reader(self) -> _Reader:
        """Return the function that yields the clips of a source."""
        reader: _Reader = getattr(self._module(), f"read_{self.module}")
        return reader

    def options(self) -> set[str]:
        """Return the names of the options its reader takes."""
        return set(inspect.signature(self.reader()).parameters) - {"source", "on_error"}

    def own_options(self) -> dict[str, tuple[str, ...]]:
        """Return the options that only this reader takes, each with the words it may be; () for free text."""
        hints = typing.get_type_hints(self.reader())
        return {name: _words(hints[name]) for name in sorted(self.options() - SHARED_OPTIONS)}

    def parse_option(self, name: str, word: str) -> str | bool:
        """Return an own option's value as the reader takes it.

        Raises:
            UsageError: the value is none of its words.
        """
        words = self.own_options()[name]
        value = choose(name, word, words) if words else word
        return value == "true" if words == FLAG_WORDS else value

    def _module(self) -> Any:
        return importlib.import_module(f"rayvos.annotations.formats.{self.module}")


FORMATS = {
    "boxes": Format("box_table", "CSV, JSON lines or JSON list: clip_id,object_id,frame,x0,y0,x1,y1"),
    "burst": Format("burst", "BURST json or its folder"),
    "coco": Format("coco", "COCO instances json (still images)"),
    "cvat": Format("cvat", "CVAT for video 1.1 XML"),
    "davis": Format("davis", "DAVIS folder, 2016 or 2017"),
    "got10k": Format("got10k", "GOT-10k folder"),
    "lasot": Format("lasot", "LaSOT folder"),
    "mot": Format("mot", "MOT Challenge folder, or a text file of its lines"),
    "point-vos": Format("point_vos", "Point-VOS json or jsonl"),
    "review": Format("review", "folder of `rayvos review` with fixed labels", is_finished=True),
    "sav": Format("sav", "SA-V folder"),
    "tao": Format("tao", "TAO json"),
    "trackingnet": Format("trackingnet", "TrackingNet folder"),
    "vidln": Format("vidln", "Video Localized Narratives jsonl"),
    "youtube-vis": Format("youtube_vis", "YouTube-VIS json"),
    "youtube-vos": Format("youtube_vos", "YouTube-VOS folder (also MOSE, LVOS)"),
}


def _words(hint: Any) -> tuple[str, ...]:
    if hint is bool:
        return FLAG_WORDS
    parts = (hint, *typing.get_args(hint))
    return tuple(word for part in parts if typing.get_origin(part) is Literal for word in typing.get_args(part))


def detect_format(source: str) -> str:
    """Return the name of the one format that `source` is of.

    Raises:
        MissingPathError: nothing is there.
        UsageError: no format fits, or more than one.
    """
    if not storage.exists(source):
        raise MissingPathError(f"{source}: nothing is there to read; check the path, or the URL's bucket and key")
    found = [name for name, known in FORMATS.items() if known.detect(source)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{source}: fits the formats {', '.join(found)}; name one of them instead of 'auto'")
    raise UsageError(
        f"{source}: none of the formats fits (tried {', '.join(FORMATS)}); name the format to see what it misses"
    )


def import_clips(
    format: str,
    source: str,
    *,
    frames: str | None = None,
    split: str | None = None,
    truncate: bool = False,
    options: Mapping[str, str] | None = None,
    boxes_from_masks: bool = True,
    drop_masks: bool = False,
    only: Collection[str] | None = None,
    exclude: Collection[str] = (),
    probe: Probe | None = None,
    on_error: OnError | None = None,
) -> Iterator[Clip]:
    """Yield the clips of a source, one at a time, checked like a job would check them.

    Args:
        format: a key of `FORMATS`, or `auto`.
        source: file or folder, local path or URL.
        frames: where the frames are, for formats that keep them apart from the annotations.
        split: the part of the data set, for formats that have parts.
        truncate: use the shorter one where annotations and images differ in number, instead of an error.
        options: what only this format knows, such as `{"year": "2016"}` for DAVIS (`Format.own_options`).
        boxes_from_masks: give objects that have masks and no boxes the tight boxes of their masks.
        drop_masks: keep the boxes only (those of the masks where the source has no others).
        only: ids of the clips to keep; None keeps all.
        exclude: ids of clips to leave out.
        probe: reads a video's size and frame count (`rayvos.video.container.probe_video`).
        on_error: told of clips that cannot be used, which are left out; None raises the first error.

    Raises:
        UsageError: an unknown format, or an option that the format has not.
        RayvosError: a clip cannot be used, and there is no `on_error`; or the source as a whole cannot.
    """
    # The clips say where their frames are to processes with other working directories.
    source, frames = storage.absolute(source), None if frames is None else storage.absolute(frames)
    name = detect_format(source) if format == AUTO else choose("format", format, [AUTO, *FORMATS])
    known = FORMATS[name]
    given: dict[str, Any] = {"frames": frames, "split": split, "truncate": truncate or None, "probe": probe}
    arguments = {key: value for key, value in given.items() if value is not None and key in known.options()}
    for key in ("frames", "split", "truncate"):
        if given[key] is not None and key not in arguments:
            raise UsageError(f"format {name!r} has no option --{key}; leave it out")
    for key, word in (options or {}).items():
        choose(f"option of format {name!r}", key, known.own_options())
        arguments[key] = known.parse_option(key, word)

    if known.is_finished and (drop_masks or not boxes_from_masks or only is not None or exclude):
        raise UsageError(f"format {name!r}: its clips stay as they are; leave out options that choose or change them")

    def wanted(clip_id: str) -> bool:
        return clip_id not in exclude and (only is None or clip_id in only)

    def report(clip_id: str, error: RayvosError) -> None:
        if on_error is not None and clip_id not in exclude:
            on_error(clip_id, error)

    for clip in known.reader()(source, on_error=report if on_error is not None else None, **arguments):
        if not wanted(clip.clip_id):
            continue
        if known.is_finished:
            yield clip
            continue
        try:
            ready = check_clip(_with_derived_boxes(clip, derive=boxes_from_masks or drop_masks))
        except RayvosError as error:
            if on_error is None:
                raise
            on_error(clip.clip_id, error)
        else:
            yield dataclasses.replace(ready, masks=()) if drop_masks else ready


def _with_derived_boxes(clip: Clip, *, derive: bool) -> Clip:
    boxed = {box.object_id for box in clip.boxes}
    masks = tuple(mask for mask in clip.masks if mask.object_id not in boxed)
    if not derive or not masks:
        return clip
    derived = derive_boxes(dataclasses.replace(clip, masks=masks, boxes=()))
    return dataclasses.replace(clip, boxes=clip.boxes + derived.boxes)
