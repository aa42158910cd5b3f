"""`rayvos import`: a data set of another tool becomes a manifest."""

from __future__ import annotations

import csv
import io
import itertools
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from rayvos import storage
from rayvos.annotations.importing import AUTO, FORMATS, import_clips
from rayvos.annotations.manifest import ManifestWriter
from rayvos.annotations.records import Clip
from rayvos.cli.main import EXIT_DEAD_LETTERS
from rayvos.cli.progress import Progress
from rayvos.errors import FormatError, RayvosError, UsageError, choose

__all__ = ["ImportOptions", "ImportSummary", "import_"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options of `rayvos import`."""

    out: Annotated[str, Parameter(name=["--out", "-o"])] = "manifest.parquet"
    """Manifest to write: a path or URL."""
    frames: str | None = None
    """Where the frames are: the folder that holds the clips, or one video or folder of images. Default: where the
    format keeps them, or beside the annotations."""
    split: str | None = None
    """Part of the data set, such as train or val. Default: all that is there."""
    boxes_from_masks: bool = True
    """Give objects that have masks and no boxes the tight boxes of their masks."""
    drop_masks: Annotated[bool, Parameter(negative="")] = False
    """Keep boxes only; objects without any get the boxes of their masks first."""
    truncate: Annotated[bool, Parameter(negative="")] = False
    """Where annotations and images differ in number, use the shorter one instead of skipping the clip."""
    option: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Option of one format, as key=value; may be given several times. burst: all_frames=true; coco: crowds=true;
    davis: year=2016, 2017 or unsupervised, resolution=480p; sav: masklets=auto; vidln: objects=nouns;
    point-vos: manifest=FILE adds answers to the clips that candidates were mined from."""
    manifest: str | None = None
    """review: the manifest to fix; default: the one that the reviewed labels were made on."""
    clips_file: str | None = None
    """Text file of clip ids, one per line: import only these."""
    exclude: str | None = None
    """Text file of clip ids, one per line: leave these out."""
    limit: int | None = None
    """Stop after this many clips."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Replace the manifest if it is there."""
    json: Annotated[bool, Parameter(negative="")] = False
    """Print the summary as JSON."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit: expected a number from 1, found {self.limit}")
        if self.drop_masks and not self.boxes_from_masks:
            raise UsageError("--drop-masks keeps boxes only, --no-boxes-from-masks makes none: leave one out")


@dataclass(slots=True)
class ImportSummary:
    """What an import wrote, and what it left out."""

    manifest: str
    format: str
    clips: int = 0
    frames: int = 0
    objects: int = 0
    boxes: int = 0
    masks: int = 0
    points: int = 0
    traces: int = 0
    frames_not_found: int = 0
    """Clips whose frames were not found where the annotations name them, so nothing of them was checked."""
    skipped: int = 0
    skipped_file: str | None = None
    reasons: dict[str, int] = field(default_factory=dict)
    """Skipped clips by error code."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first message of each error code."""
    answers: dict[str, int] = field(default_factory=dict)
    """Of a review: items by what the person said."""
    seconds: float = 0.0

    def count(self, clip: Clip) -> None:
        """Add a clip that was written."""
        self.clips += 1
        self.frames += clip.num_frames
        self.objects += len(clip.objects)
        self.boxes += sum(box.visible for box in clip.boxes)
        self.masks += sum(mask.rle is not None for mask in clip.masks)
        self.points += len(clip.points)
        self.traces += len(clip.traces)
        self.frames_not_found += not clip.source.identity


class _Skipped:
    """The clips that were left out, as the CSV they are listed in."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._text = io.StringIO()
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(["clip_id", "error", "message"])

    def add(self, clip_id: str, error: RayvosError) -> None:
        self.reasons[error.code] += 1
        self.examples.setdefault(error.code, str(error))
        self._rows.writerow([clip_id, error.code, str(error)])

    def save(self, path: str) -> str | None:
        """Write the list, or remove an older import's; return its path where there is one."""
        if not self.reasons:
            storage.remove(path)
            return None
        storage.write_bytes(path, self._text.getvalue().encode())
        return path


def import_(format: str, source: str, /, *, options: ImportOptions | None = None) -> int:
    """Turn a data set of another tool into a manifest, which all other commands read.

    Frames are not copied: the manifest names where they are. A clip that cannot be used is left out and listed, with
    the reason, in MANIFEST.skipped.csv; the exit code is then 3.

    For example:

        rayvos import boxes boxes.csv --frames videos/ -o manifest.parquet

        rayvos import davis DAVIS --split val --drop-masks -o val.parquet

        rayvos import got10k s3://bucket/GOT-10k --split train --exclude bad.txt

        rayvos import auto annotations.xml --frames video.mp4 --json

        rayvos import review fixes -o clips2.parquet

    Args:
        format: auto, boxes (CSV or JSON lines), burst, coco, cvat, davis, got10k, lasot, mot, point-vos, review, sav,
            tao, trackingnet, vidln, youtube-vis or youtube-vos.
        source: The data set's folder or file, a path or URL.
        options: The options below.
    """
    options = options or ImportOptions()
    choose("format", format, [AUTO, *FORMATS])
    if not options.overwrite and storage.exists(options.out):
        raise UsageError(f"{options.out}: is there already; pass --overwrite to replace it, or another --out")
    summary = _run(format, source, options)
    print(json.dumps(asdict(summary), ensure_ascii=False) if options.json else _text(summary))
    return EXIT_DEAD_LETTERS if summary.skipped else 0


def _run(format: str, source: str, options: ImportOptions) -> ImportSummary:
    from rayvos.video.container import probe_video

    started = time.monotonic()
    skipped = _Skipped()
    summary = ImportSummary(options.out, format)
    skipped_path = f"{options.out}.skipped.csv"
    with Progress("importing", unit="clips") as progress, ManifestWriter(options.out) as writer:

        def skip(clip_id: str, error: RayvosError) -> None:
            skipped.add(clip_id, error)
            progress.advance(0, note=f"{skipped.reasons.total()} skipped")

        clips = import_clips(
            format,
            source,
            frames=options.frames,
            split=options.split,
            truncate=options.truncate,
            options=_format_options(options),
            boxes_from_masks=options.boxes_from_masks,
            drop_masks=options.drop_masks,
            only=_ids(options.clips_file),
            exclude=_ids(options.exclude) or (),
            probe=probe_video,
            on_error=skip,
        )
        for clip in itertools.islice(clips, options.limit):
            try:
                writer.add(clip)
            except RayvosError as error:
                skip(clip.clip_id, error)
                continue
            summary.count(clip)
            progress.advance()
        if not summary.clips:
            raise _nothing_imported(source, format, skipped, skipped_path)
    summary.skipped = skipped.reasons.total()
    summary.skipped_file = skipped.save(skipped_path)
    summary.reasons = dict(skipped.reasons)
    summary.examples = skipped.examples
    if format in ("review", AUTO):
        summary.answers = _answers(source)
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def _nothing_imported(source: str, format: str, skipped: _Skipped, skipped_path: str) -> RayvosError:
    """Return the error of an import without any clip; no manifest appears then."""
    if not skipped.reasons:
        return FormatError(f"{source}: expected clips of format {format!r}, found none; check the folder and --split")
    listed = skipped.save(skipped_path)
    message = next(iter(skipped.examples.values()))
    return FormatError(
        f"{source}: all {skipped.reasons.total()} clips were skipped, listed in {listed}; the first: {message}"
    )


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(word.partition("=")[::2] for word in words)
    for key, value in pairs.items():
        if not key or not value:
            raise UsageError(f"--option {key!r}: expected key=value")
    return pairs


def _answers(source: str) -> dict[str, int]:
    """Return the items of a review by what the person said; empty for any other source."""
    from rayvos.annotations.formats.review import detect
    from rayvos.annotations.review_folder import read_fixes, read_review_set

    if not detect(source):
        return {}
    return dict(Counter(fix.kind for fix in read_fixes(source, read_review_set(source))))


def _format_options(options: ImportOptions) -> dict[str, str]:
    """Return the options of the format alone; --manifest is short for one of them."""
    found = _pairs(options.option)
    return found if options.manifest is None else {**found, "manifest": options.manifest}


def _ids(path: str | None) -> frozenset[str] | None:
    if path is None:
        return None
    lines = storage.read_bytes(path).decode("utf-8-sig").splitlines()
    return frozenset(line.strip() for line in lines if line.strip())


def _text(summary: ImportSummary) -> str:
    units = {
        "clips": "clip",
        "frames": "frame",
        "objects": "object",
        "boxes": "box",
        "masks": "mask",
        "points": "point",
        "traces": "trace",
    }
    values: dict[str, Any] = asdict(summary)
    counted = [f"{values[name]} {name if values[name] > 1 else one}" for name, one in units.items() if values[name]]
    lines = [f"{summary.manifest}: {', '.join(counted)} in {summary.seconds:.1f} s"]
    if summary.frames_not_found:
        lines.append(f"clips whose frames were not found: {summary.frames_not_found}; name their folder with --frames")
    if summary.answers:
        # The loop pays while people change what it shows; Box2Seg's specification stops it below 10 %.
        changed = sum(count for kind, count in summary.answers.items() if kind not in ("unanswered", "accepted"))
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.answers.items()))
        lines.append(f"review: {said}; {100 * changed / sum(summary.answers.values()):.0f} % were changed")
    if summary.skipped:
        lines.append(f"skipped clips: {summary.skipped}, listed in {summary.skipped_file}")
        lines += [
            f"  {summary.reasons[code]:6d} {code}, such as: {message}" for code, message in summary.examples.items()
        ]
    return "\n".join(lines)
