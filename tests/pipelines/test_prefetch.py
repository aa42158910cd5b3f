from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from rayvos.annotations.records import Clip
from rayvos.errors import FrameMissingError
from rayvos.pipelines.prefetch import OpeningClip
from rayvos.video.source import open_clip
from tests.conftest import frame_of


def decode_threads() -> int:
    return sum(thread.name.startswith("rayvos-") for thread in threading.enumerate())


@pytest.mark.parametrize("asked", [range(2, 9), range(3, 9), range(2, 5)])
def test_frames_are_those_asked_for_whatever_was_expected(image_clip: Clip, asked: range) -> None:
    opening = OpeningClip(lambda: open_clip(image_clip), range(2, 9), ahead=True)

    reader = opening.result()
    first = [(frame, frame_of(image)) for frame, image in reader.read(asked)]
    again = [(frame, frame_of(image)) for frame, image in reader.read(asked)]
    opening.close()

    assert first == again == [(frame, frame) for frame in asked]
    assert decode_threads() == 0


def test_a_clip_that_is_never_asked_for_is_closed(image_clip: Clip) -> None:
    OpeningClip(lambda: open_clip(image_clip), range(12), ahead=True).close()

    assert decode_threads() == 0


def test_what_opening_raises_reaches_whoever_asks(image_clip: Clip) -> None:
    nowhere = dataclasses.replace(image_clip, source=dataclasses.replace(image_clip.source, uri="/nowhere"))
    opening = OpeningClip(lambda: open_clip(nowhere), range(12), ahead=True)

    with pytest.raises(FrameMissingError):
        opening.result()

    assert decode_threads() == 0


def test_images_are_the_same_with_and_without(video_clip: Clip) -> None:
    found = []
    for ahead in (False, True):
        opening = OpeningClip(lambda: open_clip(video_clip), range(12), ahead=ahead)
        found.append(np.stack([image for _, image in opening.result().read(range(12))]))
        opening.close()

    assert np.array_equal(*found)
