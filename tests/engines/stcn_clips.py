"""Clips in memory for tests of the engine `stcn`, and engines that share one network."""

from __future__ import annotations

import copy
from functools import cache

import cv2
import numpy as np

from rayvos.annotations.records import Clip, ClipSource, MaskPrompt, ObjectInfo
from rayvos.engines.stcn.cpu import prepare_for_cpu
from rayvos.engines.stcn.engine import StcnConfig, StcnEngine
from rayvos.masks.rle import mask_to_rle
from tests.engines.memory_images import Images as Images
from tests.goldens.stcn_cases import formula_network


@cache
def load_formula(path: str) -> tuple:
    """Stand in for the loader: every engine of a test session shares the network that a formula makes."""
    network = copy.deepcopy(formula_network())
    prepare_for_cpu(network)
    return network, f"digest of {path}"


def make_engine(monkeypatch, **options) -> StcnEngine:
    monkeypatch.setattr("rayvos.engines.stcn.engine.load_stcn", load_formula)
    return StcnEngine(StcnConfig(**options), weights="formula", device="cpu")


HEIGHT, WIDTH, SIDE = 64, 80, 32  # the formula's network finds nothing much smaller


def noise(height: int, width: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def patch_at(frame: int) -> np.ndarray:
    """Return the mask (64, 80) of the textured patch that moves one pixel to the right each frame."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4 : 4 + SIDE, 2 + frame : 2 + frame + SIDE] = True
    return mask


def still() -> np.ndarray:
    """Return the mask of the textured patch that stays where it is."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[28 : 28 + SIDE, 46 : 46 + SIDE] = True
    return mask


def make_pictures(num_frames: int) -> np.ndarray:
    """Return RGB images (frame, 64, 80, 3) of both patches before a smooth background."""
    pictures = np.repeat(cv2.resize(noise(16, 20, 1), (WIDTH, HEIGHT))[None] // 3, num_frames, axis=0)
    for frame, picture in enumerate(pictures):
        picture[still()] = noise(SIDE, SIDE, 3).reshape(-1, 3)
        picture[patch_at(frame)] = noise(SIDE, SIDE, 2).reshape(-1, 3)
    return pictures


def make_clip(masks: dict[tuple[int, int], np.ndarray | None], num_frames: int, height: int, width: int) -> Clip:
    """Return a clip of masks by (frame, object id); None: absent."""
    prompts = tuple(
        MaskPrompt(object_id, frame, None if mask is None else mask_to_rle(mask))
        for (frame, object_id), mask in masks.items()
    )
    objects = tuple(ObjectInfo(i) for i in sorted({object_id for _, object_id in masks}))
    return Clip("c", ClipSource("images", "memory"), height, width, num_frames, objects=objects, masks=prompts)
