"""Which of a clip's prompts a job uses."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rayvos.annotations.records import Clip

__all__ = ["Prompts", "select_prompts"]

Prompts = Literal["all", "boxes"]


def select_prompts(clip: Clip, prompts: Prompts) -> Clip:
    """Return the clip with the prompts a job uses.

    Args:
        clip: a clip.
        prompts: `all` keeps everything (masks that people gave stay as they are in the labels); `boxes` drops masks,
            points and traces, as if only boxes had been given.
    """
    if prompts == "all":
        return clip
    return dataclasses.replace(clip, masks=(), points=(), traces=())
