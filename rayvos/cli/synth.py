"""`rayvos synth`: generate clips with exact masks."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict
from typing import Annotated, Literal

from cyclopts import Parameter

from rayvos.cli.progress import Progress
from rayvos.errors import UsageError

__all__ = ["synth"]


def synth(
    out: Annotated[str, Parameter(help="Folder to write into, path or URL.")],
    *,
    clips: Annotated[int, Parameter(help="Clips the folder is to hold.")] = 8,
    frames: Annotated[int, Parameter(help="Frames per clip.")] = 24,
    size: Annotated[str, Parameter(help="Height and width of a frame in pixels, HxW.")] = "480x854",
    objects: Annotated[int, Parameter(help="Objects per clip.")] = 3,
    seed: Annotated[int, Parameter(help="The same seed gives the same clips.")] = 0,
    images: Annotated[
        Literal["jpg", "png"] | None, Parameter(help="Write frames as pictures of this kind (default: jpg).")
    ] = None,
    video: Annotated[Literal["mp4"] | None, Parameter(help="Write each clip as one video instead.")] = None,
    masks: Annotated[
        Literal["davis", "none"], Parameter(help="Write true masks as DAVIS label maps into Annotations/, or not.")
    ] = "davis",
    mask_prompts: Annotated[
        Literal["none", "first", "all"], Parameter(help="True masks to put into the manifest as prompts.")
    ] = "none",
    workers: Annotated[int | None, Parameter(help="Processes; default: one per CPU core.")] = None,
    overwrite: Annotated[bool, Parameter(negative="", help="Discard the generated clips that are there.")] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print the summary as one JSON object.")
    ] = False,
) -> int:
    """Generate clips of moving objects with exact masks, boxes, points and traces.

    The folder is laid out as DAVIS is, and has a manifest to label and masks to compare with. A stopped run goes on
    where it was; a larger --clips adds clips. Example:

        rayvos synth clips --clips 8 --frames 24

        rayvos label clips/manifest.parquet -o out
    """
    from rayvos.video.synthetic import SynthConfig
    from rayvos.video.synthetic_set import SetSettings, write_set

    if images is not None and video is not None:
        raise UsageError("--images and --video: expected one of them; leave one out")
    if clips < 1:
        raise UsageError(f"--clips {clips}: expected at least 1")
    height, width = _parse_size(size)
    config = SynthConfig(num_frames=frames, height=height, width=width, num_objects=objects)
    settings = SetSettings(config, seed, video or images or "jpg", masks, mask_prompts)
    workers = workers or len(os.sched_getaffinity(0))
    with Progress("generating", unit="clips") as progress:
        summary = write_set(
            out, settings, clips,
            workers=workers, overwrite=overwrite, on_start=progress.set_total, on_clip=progress.advance,
        )  # fmt: skip
    if as_json:
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
