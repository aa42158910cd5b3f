"""`rayvos synth`: generate clips with exact masks."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from rayvos.cli.progress import Progress
from rayvos.errors import UsageError

__all__ = ["SynthOptions", "synth"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SynthOptions:
    """Options of `rayvos synth`."""

    clips: int = 8
    """Clips the folder is to hold."""
    frames: int = 24
    """Frames per clip."""
    size: str = "480x854"
    """Height and width of a frame in pixels, HxW."""
    objects: int = 3
    """Objects per clip."""
    seed: int = 0
    """The same seed gives the same clips."""
    images: Literal["jpg", "png"] | None = None
    """Write frames as pictures of this kind; by default jpg."""
    video: Literal["mp4"] | None = None
    """Write each clip as one video instead."""
    masks: Literal["davis", "none"] = "davis"
    """Write true masks as DAVIS label maps into Annotations/, or not."""
    mask_prompts: Literal["none", "first", "all"] = "none"
    """True masks to put into the manifest as prompts."""
    workers: int | None = None
    """Processes; by default one per CPU core."""
    overwrite: Annotated[bool, Parameter(negative="")] = False
    """Discard the generated clips that are there."""
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False
    """Print the summary as one JSON object."""

    def __post_init__(self) -> None:
        if self.images is not None and self.video is not None:
            raise UsageError("--images and --video: expected one of them; leave one out")
        if self.clips < 1:
            raise UsageError(f"--clips {self.clips}: expected at least 1")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers {self.workers}: expected at least 1")


DEFAULTS = SynthOptions()


def synth(out: str, options: SynthOptions = DEFAULTS) -> int:
    """Generate clips of moving objects with exact masks, boxes, points and traces.

    The folder is laid out as DAVIS is, and has a manifest to label and masks to compare with. A stopped run goes on
    where it was; a larger --clips adds clips. Example:

        rayvos synth clips --clips 8 --frames 24

        rayvos label clips/manifest.parquet -o out

    Args:
        out: Folder to write into, path or URL.
        options: the rest; documented by their own fields.
    """
    from rayvos.video.synthetic import SynthConfig
    from rayvos.video.synthetic_set import SetSettings, write_set

    height, width = _parse_size(options.size)
    config = SynthConfig(num_frames=options.frames, height=height, width=width, num_objects=options.objects)
    frames_as = options.video or options.images or "jpg"
    settings = SetSettings(config, options.seed, frames_as, options.masks, options.mask_prompts)
    workers = options.workers or len(os.sched_getaffinity(0))
    with Progress("generating", unit="clips") as progress:
        summary = write_set(
            out, settings, options.clips,
            workers=workers, overwrite=options.overwrite, on_start=progress.set_total, on_clip=progress.advance,
        )  # fmt: skip
    if options.as_json:
        print(json.dumps(asdict(summary)))
        return 0
    print(f"{summary.out}: {summary.clips} clips, {summary.generated} generated now")
    print(f"  manifest  {summary.manifest}")
    print(f"next: rayvos label {summary.manifest} -o out")
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})[xX×]([0-9]{1,5})", text.strip())
    if found is None:
        raise UsageError(f"--size {text!r}: expected height and width in pixels, such as 480x854")
    return int(found[1]), int(found[2])
