"""The records that cross files: a clip, its objects, and the prompts a person gave for them.

Conventions, kept by every reader and writer: frames are 0-based positions in display order; pixel (x, y) covers
`[x, x+1) x [y, y+1)` with the origin top left; boxes are float `xyxy` pixel edges, half-open (a box over the
whole frame is `0, 0, width, height`); object ids are 1…N within their clip. *Absent* (`visible=False`, `rle=None`)
is a statement about a frame and differs from saying nothing about it, and from an empty mask drawn there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["Box", "Clip", "ClipSource", "MaskPrompt", "ObjectInfo", "Point", "PointLabel", "Trace"]

PointLabel = Literal["positive", "negative", "ambiguous"]


@dataclass(frozen=True, slots=True)
class ClipSource:
    """Where a clip's frames are."""

    kind: Literal["images", "video"]
    """`images`: a folder of pictures, or a list of them; `video`: one video file."""
    uri: str
    """The folder (images) or the file (video): a local path or any fsspec URL."""
    frame_names: tuple[str, ...] = ()
    """File names of the frames relative to `uri`, in order; for a video the names to write results under, or ()."""
    video_frames: tuple[int, ...] = ()
    """For a video of which only some frames belong to the clip: their 0-based positions; () means all of them."""
    identity: str = ""
    """Digest of what the storage says of the frames (names, sizes, times or etags) when the clip was imported."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a clip."""

    object_id: int
    """1…N within the clip."""
    category: str | None = None
    """Its class by name, where the source tells."""
    source_id: str | None = None
    """The id its source uses, written back by exports that need it."""


@dataclass(frozen=True, slots=True)
class Box:
    """The box of one object on one frame, `xyxy` pixel edges; it may stick out of the frame."""

    object_id: int
    frame: int
    x0: float
    y0: float
    x1: float
    y1: float
    visible: bool = True
    """False: the source says that the object is absent here; the coordinates then mean nothing."""


@dataclass(frozen=True, slots=True)
class MaskPrompt:
    """The mask of one object on one frame, as a person (or a data set) gave it."""

    object_id: int
    frame: int
    rle: bytes | None
    """COCO compressed RLE counts of the clip's height and width; None: absent here."""
    machine_made: bool = False
    """The source says that a program drew it, and no person."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point, in pixels of the clip's frames: integer pixel (x, y), or the float position inside it."""

    object_id: int
    frame: int
    x: float
    y: float
    label: PointLabel = "positive"
    annotator: str | None = None
    """Who said so, where known."""
    seconds: float | None = None
    """What the answer took, where known."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A mouse trace over one object on one frame: noisy positives, in the order they were drawn."""

    object_id: int
    frame: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    """Pixels of the clip's frames, as long as `x`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """An ordered list of frames with an id, and what is known about its objects: one row of a manifest."""

    clip_id: str
    source: ClipSource
    height: int
    width: int
    """Pixels, after any EXIF or container rotation: what a person sees."""
    num_frames: int
    fps: float | None = None
    objects: tuple[ObjectInfo, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: tuple[MaskPrompt, ...] = ()
    points: tuple[Point, ...] = ()
    traces: tuple[Trace, ...] = ()
    annotated_frames: tuple[int, ...] | None = field(default=None)
    """Frames that the source annotates at all (objects without an entry there are absent); None: all or unknown."""

    def object_ids(self) -> tuple[int, ...]:
        """Return the ids of the clip's objects, ascending."""
        return tuple(sorted(known.object_id for known in self.objects))

    def with_objects(self, object_ids: Collection[int]) -> Clip:
        """Return the clip as if it had these objects alone."""
        return replace(
            self,
            objects=tuple(known for known in self.objects if known.object_id in object_ids),
            boxes=tuple(box for box in self.boxes if box.object_id in object_ids),
            masks=tuple(mask for mask in self.masks if mask.object_id in object_ids),
            points=tuple(point for point in self.points if point.object_id in object_ids),
            traces=tuple(trace for trace in self.traces if trace.object_id in object_ids),
        )

    def boxes_of(self, object_id: int) -> dict[int, Box]:
        """Return the object's boxes by frame, those that say 'absent' included."""
        return {box.frame: box for box in self.boxes if box.object_id == object_id}
