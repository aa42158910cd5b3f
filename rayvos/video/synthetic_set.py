"""A folder of generated clips, laid out as DAVIS is, with boxes, a manifest, and masks as truth.

    JPEGImages/480p/<clip>/00000.jpg    or  videos/<clip>.mp4
    Annotations/480p/<clip>/00000.png   palette PNGs, index = object id
    ImageSets/2017/train.txt            the clips
    boxes.csv, manifest.parquet         what a labelling run starts from
    records/<clip>.parquet              each clip's manifest row: it is written last, and tells that a clip is whole
    synth.json                          the settings; a folder keeps to one

Every file is a function of the settings (and, in the manifest, of the folder's own path): two machines make the same
bytes. A stopped run goes on where it was, and more clips can be added to a finished one.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos import storage
from rayvos.annotations.formats.label_maps import encode_label_map
from rayvos.annotations.manifest import ManifestFile, ManifestWriter, write_manifest
from rayvos.annotations.records import Clip, ClipSource
from rayvos.errors import RayvosError, UsageError
from rayvos.video.synthetic import FPS, SynthConfig, SyntheticClip, clip_id_of, generate_clip

__all__ = ["SetSettings", "SetSummary", "write_set"]

GENERATOR = 1  # raised when the same seed gives other pictures
JPEG_QUALITY = 95
RESOLUTION = "480p"  # the folder that tools for DAVIS look into, whatever the size
SETTINGS, MANIFEST, BOXES = "synth.json", "manifest.parquet", "boxes.csv"
# In the order they are discarded in: first what says that clips are whole, last what says that the folder is ours.
OURS = ("records", BOXES, MANIFEST, "JPEGImages", "videos", "Annotations", "ImageSets", SETTINGS)


@dataclass(frozen=True, slots=True)
class SetSettings:
    """What a folder of generated clips holds."""

    config: SynthConfig
    seed: int = 0
    frames_as: Literal["jpg", "png", "mp4"] = "jpg"
    truth: Literal["davis", "none"] = "davis"
    """Whether masks are written as DAVIS label maps."""
    mask_prompts: Literal["none", "first", "all"] = "none"
    """Masks in the manifest: none, those of the first frame, or all."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed {self.seed}: expected a whole number from 0")
        if self.frames_as == "mp4" and (self.config.height % 2 or self.config.width % 2):
            raise UsageError(f"size {self.config.height}x{self.config.width}: a video needs even sides")

    def identity(self) -> dict[str, Any]:
        """Return what the files depend on, as plain JSON values."""
        values = asdict(self)
        return {"generator": GENERATOR, **json.loads(json.dumps({**values.pop("config"), **values}))}


@dataclass(frozen=True, slots=True)
class SetSummary:
    """What a folder holds after a run."""

    out: str
    manifest: str
    clips: int
    """Clips in the folder."""
    generated: int
    """Clips made now; the others were there."""


def write_set(
    out: str,
    settings: SetSettings,
    num_clips: int,
    *,
    workers: int = 1,
    overwrite: bool = False,
    on_start: Callable[[int], None] = lambda _: None,
    on_clip: Callable[[], None] = lambda: None,
) -> SetSummary:
    """Generate clips into a folder; those that are there already stay.

    Args:
        out: path or URL; new, empty, or a folder of the same settings.
        settings: what is generated.
        num_clips: clips the folder is to hold; it never loses any.
        workers: processes.
        overwrite: discard the generated clips that are there.
        on_start: told the number of clips to make.
        on_clip: called after each one.

    Raises:
        UsageError: the folder holds something else, or clips of other settings.
        StorageError: and its children, naming the path.
    """
    if not out:
        raise UsageError("the folder to generate clips into: expected a path or URL, found an empty one")
    out = out if storage.is_url(out) else str(Path(out).absolute())  # workers of a cluster run elsewhere
    _claim(out, settings, overwrite=overwrite)
    there = _indexes_there(out, settings.seed)
    todo = [index for index in range(num_clips) if index not in there]
    on_start(len(todo))
    for _ in _made(out, settings, todo, min(workers, len(todo))):
        on_clip()
    clips = [_read_record(out, index, settings.seed) for index in sorted({*there, *todo})]
    _write_tables(out, clips)
    return SetSummary(out, storage.join(out, MANIFEST), len(clips), len(todo))


def _claim(out: str, settings: SetSettings, *, overwrite: bool) -> None:
    """Make the folder one of these settings, or refuse it."""
    names = storage.list_folder(out)
    path = storage.join(out, SETTINGS)
    wanted = settings.identity()
    if SETTINGS in names:
        found = json.loads(storage.read_bytes(path))
        if not overwrite:
            if found != wanted:
                differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
                raise UsageError(
                    f"{out}: holds clips of other settings ({', '.join(differing)}); "
                    "choose another folder, or discard them with --overwrite"
                )
            return
        for name in OURS:
            storage.remove(storage.join(out, name))
    elif names:
        raise UsageError(f"{out}: the folder is not empty and not of `rayvos synth`; choose another one")
    storage.write_bytes(path, json.dumps(wanted, indent=2, sort_keys=True).encode() + b"\n")


def _record_path(out: str, index: int, seed: int) -> str:
    return storage.join(out, "records", f"{clip_id_of(seed, index)}.parquet")


def _indexes_there(out: str, seed: int) -> set[int]:
    names = storage.list_folder(storage.join(out, "records"))
    prefix = clip_id_of(seed, 0).rpartition("-")[0] + "-"
    return {
        int(name[len(prefix) : -len(".parquet")])
        for name in names
        if name.startswith(prefix) and name.endswith(".parquet")
    }


def _read_record(out: str, index: int, seed: int) -> Clip:
    return next(iter(ManifestFile(_record_path(out, index, seed))))


def _made(out: str, settings: SetSettings, todo: list[int], workers: int) -> Iterator[None]:
    """Make clips, here or in processes, and yield after each one."""
    if workers <= 1:
        for index in todo:
            _make_clip(out, settings, index)
            yield
        return
    # Spawned, not forked: OpenCV's threads and open connections to storage do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures: list[Future[None]] = [pool.submit(_make_clip, out, settings, index) for index in todo]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise RayvosError(
                f"{out}: a worker was killed, perhaps for want of memory; the same command goes on where it was, "
                "with fewer --workers if it happens again"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make_clip(out: str, settings: SetSettings, index: int) -> None:
    clip = generate_clip(settings.seed, index, settings.config)
    record = _write_frames(out, settings, clip)
    if settings.truth == "davis":
        folder = storage.join(out, "Annotations", RESOLUTION, clip.clip_id)
        for frame, label_map in enumerate(clip.labels):
            storage.write_bytes(storage.join(folder, f"{frame:05d}.png"), encode_label_map(label_map))
    write_manifest([record], _record_path(out, index, settings.seed))


def _write_frames(out: str, settings: SetSettings, clip: SyntheticClip) -> Clip:
    """Write a clip's pictures and return its record."""
    # The pictures are a function of these words; times of writing must not make a rerun redo the labels.
    identity = json.dumps([settings.identity(), clip.clip_id], sort_keys=True)
    if settings.frames_as == "mp4":
        path = storage.join(out, "videos", f"{clip.clip_id}.mp4")
        storage.write_bytes(path, _mp4(clip.images))
        source = ClipSource("video", path, identity=_digest(identity))
    else:
        folder = storage.join(out, "JPEGImages", RESOLUTION, clip.clip_id)
        names = tuple(f"{frame:05d}.{settings.frames_as}" for frame in range(len(clip.images)))
        for name, image in zip(names, clip.images, strict=True):
            storage.write_bytes(storage.join(folder, name), _picture(image, settings.frames_as))
        source = ClipSource("images", folder, names, identity=_digest(identity))
    record = clip.record(source, masks=settings.mask_prompts != "none")
    if settings.mask_prompts == "first":
        record = replace(record, masks=tuple(mask for mask in record.masks if mask.frame == 0))
    return record


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _picture(image: NDArray[np.uint8], suffix: str) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == "jpg" else []
    return bytes(cv2.imencode(f".{suffix}", image[..., ::-1], options)[1])


def _mp4(images: NDArray[np.uint8]) -> bytes:
    """Return H.264 that every player shows (yuv420p), at a quality that keeps grain."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(int(FPS)), options={"crf": "18", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write_tables(out: str, clips: list[Clip]) -> None:
    lines = ["clip_id,object_id,frame,x0,y0,x1,y1,category"]
    for clip in clips:
        category = {known.object_id: known.category for known in clip.objects}
        lines += [
            f"{clip.clip_id},{box.object_id},{box.frame},{box.x0:g},{box.y0:g},{box.x1:g},{box.y1:g},"
            f"{category[box.object_id]}"
            for box in clip.boxes
            if box.visible
        ]
    storage.write_bytes(storage.join(out, BOXES), ("\n".join(lines) + "\n").encode())
    names = "".join(f"{clip.clip_id}\n" for clip in clips)
    storage.write_bytes(storage.join(out, "ImageSets", "2017", "train.txt"), names.encode())
    with ManifestWriter(storage.join(out, MANIFEST)) as writer:
        for clip in clips:
            writer.add(clip)
