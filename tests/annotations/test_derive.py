from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rayvos.annotations.derive import boxes_from_masks
from rayvos.annotations.records import Box, Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.errors import FormatError
from rayvos.masks.rle import mask_to_rle

CLIP = Clip("c", ClipSource("images", "/c"), 20, 30, 3, objects=(ObjectInfo(1),))


def test_boxes_are_the_tight_edges_of_their_masks():
    mask = np.zeros((20, 30), np.bool_)
    mask[3:7, 10:25] = True
    clip = dataclasses.replace(CLIP, masks=(MaskPrompt(1, 2, mask_to_rle(mask)),))
    assert boxes_from_masks(clip).boxes == (Box(1, 2, 10, 3, 25, 7),)
    assert boxes_from_masks(clip).masks == clip.masks


def test_absent_and_empty_masks_give_invisible_boxes():
    empty = mask_to_rle(np.zeros((20, 30), np.bool_))
    clip = dataclasses.replace(CLIP, masks=(MaskPrompt(1, 0, None), MaskPrompt(1, 1, empty)))
    assert [(box.frame, box.visible) for box in boxes_from_masks(clip).boxes] == [(0, False), (1, False)]


def test_a_mask_of_another_size_is_refused():
    clip = dataclasses.replace(CLIP, masks=(MaskPrompt(1, 0, mask_to_rle(np.zeros((5, 5), np.bool_))),))
    with pytest.raises(FormatError, match="20x30"):
        boxes_from_masks(clip)
