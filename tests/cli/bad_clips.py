"""Clips as users and attackers bring them, each with the stable code of the error that must come of it."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rayvos.annotations.records import Box, Clip, ObjectInfo
from tests.conftest import moving_square, write_image_folder, write_video

NUM_FRAMES = 4
BOXES = tuple(Box(1, frame, 2 + frame, 24, 14 + frame, 36) for frame in range(NUM_FRAMES))


def labelled(clip: Clip) -> Clip:
    """Return the clip with one object that has a good box on every frame."""
    return dataclasses.replace(clip, objects=(ObjectInfo(1),), boxes=BOXES)


def pictures(folder: Path, suffix: str = ".png") -> Clip:
    """Write a good clip of pictures."""
    return labelled(write_image_folder(folder, moving_square(NUM_FRAMES), suffix))


def video(folder: Path) -> Clip:
    """Write a good clip as a video of noise, so that no byte of it is idle."""
    noise = np.random.default_rng(0).integers(0, 255, (NUM_FRAMES, 48, 66, 3), np.uint8)
    return labelled(write_video(folder.with_suffix(".mp4"), noise, g="1", movflags="faststart"))


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def png(height: int, width: int, pixels: bytes, *extra: bytes) -> bytes:
    """Return a grey 8-bit PNG whose header says what it is told, whatever its pixels are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(pixels, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bad_frame(change: Callable[[bytes], bytes], suffix: str = ".jpg") -> Callable[[Path], Clip]:
    """Return what writes a clip whose third frame is changed."""

    def write(folder: Path) -> Clip:
        clip = pictures(folder, suffix)
        changed(folder / f"00002{suffix}", change)
        return clip

    return write


def bad_video(change: Callable[[bytes], bytes]) -> Callable[[Path], Clip]:
    def write(folder: Path) -> Clip:
        clip = video(folder)
        changed(Path(clip.source.uri), change)
        return clip

    return write


def bad_box(*boxes: Box) -> Callable[[Path], Clip]:
    def write(folder: Path) -> Clip:
        return dataclasses.replace(pictures(folder), boxes=(*BOXES[:2], *boxes))

    return write


def missing_frame(folder: Path) -> Clip:
    clip = pictures(folder)
    (folder / "00002.png").unlink()
    return clip


def missing_video(folder: Path) -> Clip:
    clip = video(folder)
    Path(clip.source.uri).unlink()
    return clip


def folder_for_frame(folder: Path) -> Clip:
    clip = missing_frame(folder)
    (folder / "00002.png").mkdir()
    return clip


def size_changes(folder: Path) -> Clip:
    clip = pictures(folder)
    cv2.imwrite(str(folder / "00002.png"), np.zeros((50, 66, 3), np.uint8))
    return clip


def frames_named_nul(folder: Path) -> Clip:
    clip = pictures(folder)
    names = ("00000.png", "00001.png", "00002\x00.png", "00003.png")
    return dataclasses.replace(clip, source=dataclasses.replace(clip.source, frame_names=names))


def objects_twice(folder: Path) -> Clip:
    return dataclasses.replace(pictures(folder), objects=(ObjectInfo(1), ObjectInfo(1)))


def too_many_frames_claimed(folder: Path) -> Clip:
    return dataclasses.replace(video(folder), num_frames=NUM_FRAMES + 1)


def too_few_names(folder: Path) -> Clip:
    clip = pictures(folder)
    return dataclasses.replace(clip, source=dataclasses.replace(clip.source, frame_names=("00000.png",)))


def unknown_kind(folder: Path) -> Clip:
    clip = pictures(folder)
    return dataclasses.replace(clip, source=dataclasses.replace(clip.source, kind="movie"))  # type: ignore[arg-type]


def no_frames_claimed(folder: Path) -> Clip:
    return dataclasses.replace(pictures(folder), num_frames=0, boxes=())


def wrong_size_claimed(folder: Path) -> Clip:
    return dataclasses.replace(video(folder), height=480, width=854)


def damaged(data: bytes) -> bytes:
    """Return a video whose pictures are overwritten, and whose tables are whole."""
    middle = len(data) // 2
    return data[:middle] + b"\xff" * (len(data) - middle)


PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
# 64 kB of text that inflate to 64 MB, in a comment that no decoder has to read.
TEXT_BOMB = b"zTXt" + b"Comment\x00\x00" + zlib.compress(bytes(64 << 20), 9)


def text_bomb(_: bytes) -> bytes:
    kind, data = TEXT_BOMB[:4], TEXT_BOMB[4:]
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png(48, 66, bytes(48 * 67), chunk)


BAD_CLIPS: dict[str, tuple[Callable[[Path], Clip], str]] = {
    "truncated video": (bad_video(lambda data: data[: len(data) // 2]), "decode_failed"),
    "empty video": (bad_video(lambda _: b""), "decode_failed"),
    "corrupt video": (bad_video(damaged), "decode_failed"),
    "text as video": (bad_video(lambda _: b"not a video"), "decode_failed"),
    "playlist as video": (bad_video(lambda _: PLAYLIST), "decode_failed"),
    "missing video": (missing_video, "frame_missing"),
    "short video": (too_many_frames_claimed, "decode_failed"),
    "video of another size": (wrong_size_claimed, "frame_size"),
    "truncated jpeg": (bad_frame(lambda data: data[: len(data) // 2]), "decode_failed"),
    "empty jpeg": (bad_frame(lambda _: b""), "decode_failed"),
    "corrupt jpeg": (bad_frame(lambda data: data[:20] + bytes(len(data) - 20)), "decode_failed"),
    "text as jpeg": (bad_frame(lambda _: b"<html>404</html>"), "decode_failed"),
    "truncated png": (bad_frame(lambda data: data[: len(data) // 2], ".png"), "decode_failed"),
    "missing frame": (missing_frame, "frame_missing"),
    "folder for a frame": (folder_for_frame, "storage_failed"),
    "frame name with NUL": (frames_named_nul, "frame_missing"),
    "fewer names than frames": (too_few_names, "bad_format"),
    "source of an unknown kind": (unknown_kind, "bad_format"),
    "no frames": (no_frames_claimed, "bad_format"),
    "size changes": (size_changes, "frame_size"),
    "huge header": (bad_frame(lambda _: png(10_000, 10_001, b""), ".png"), "image_too_large"),
    "absurd header": (bad_frame(lambda _: png(2**31 - 1, 2**31 - 1, b""), ".png"), "image_too_large"),
    "png bomb": (bad_frame(lambda _: png(9_000, 9_000, bytes(9_000 * 9_001)), ".png"), "frame_size"),
    "png text bomb": (bad_frame(text_bomb, ".png"), "decode_failed"),
    "inverted box": (bad_box(Box(1, 2, 30, 24, 20, 36)), "bad_box"),
    "box with NaN": (bad_box(Box(1, 2, float("nan"), 24, 20, 36)), "bad_box"),
    "infinite box": (bad_box(Box(1, 2, 0, 0, float("inf"), 36)), "bad_box"),
    "box outside": (bad_box(Box(1, 2, 100, 24, 120, 36)), "bad_box"),
    "box without area": (bad_box(Box(1, 2, 10, 24, 10, 36)), "bad_box"),
    "frame beyond the end": (bad_box(Box(1, NUM_FRAMES, 2, 24, 14, 36)), "bad_format"),
    "frame before the start": (bad_box(Box(1, -1, 2, 24, 14, 36)), "bad_format"),
    "two boxes of one object": (bad_box(BOXES[2], BOXES[2]), "bad_id"),
    "box of an unknown object": (bad_box(Box(7, 2, 2, 24, 14, 36)), "bad_id"),
    "object ids twice": (objects_twice, "bad_id"),
}
"""By clip id: what writes the clip into a folder, and the code of its dead letter."""

BAD_IDS = (
    "../evil",
    "../../evil",
    "good/../../../evil",
    "/tmp/rayvos-evil",
    "~/evil",
    ".",
    "..",
    "",
    "a//b",
    "a/",
    "a\\..\\b",
    "nul\x00byte",
    "new\nline",
    "x" * 300,
    "ü" * 150,
)
"""Clip ids that could name a file outside the output folder, or none at all."""
