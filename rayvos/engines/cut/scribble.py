"""Engine `scribble`: masks from points, traces or boxes of a frame by GrabCut, without any weights.

The crop around the region in which the prompt lets expect the object is cut once, on its colours. Positive points and
what of a trace lies near its middle are sure object, negative points and all outside the region sure background. The
colour models start from what is near the prompt against the rest. A cut that does not fill its box gives way to the
ellipse in it. Measured on eight generated clips (240x432): mean
IoU 0.61 for traces, 0.43 for points, 0.51 for boxes, for which the engine `cut` is better.

Why so: it is the floor below the engine `guided`, and what makes a trace usable where no weights are at hand. Labels
of a frame depend on its picture alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rayvos.annotations.records import Clip
from rayvos.engines.base import EngineNeeds, FrameReader, Label
from rayvos.engines.cut.crop_cuts import Crop, box_fit, ellipse, is_cuttable, outside_box, place_crop
from rayvos.engines.guided.clip_prompts import ClipPrompts
from rayvos.engines.guided.guidance import Prompt, prompt_region
from rayvos.engines.scores import predicted_iou
from rayvos.errors import UsageError
from rayvos.masks.agreement import box_agreement
from rayvos.masks.components import drop_specks
from rayvos.masks.traces import render_trace

__all__ = ["ScribbleConfig", "ScribbleEngine"]

LINE_PX = 1.5  # of the working grid, half the width of a trace and of a point's disc
GUARD = 0.7  # specification of the baseline: below this box agreement a cut on colour alone is not believed
CERTAINTY = 0.5  # one cut has no margin; half is what a mask without a box was worth on generated clips


@dataclass(frozen=True, slots=True, kw_only=True)
class ScribbleConfig:
    """Options of the engine `scribble`."""

    max_side: int = 192
    """Longest side of a crop in pixels; larger ones are scaled down."""
    iterations: int = 5
    """Rounds of GrabCut."""
    margin: float = 0.25
    """Context around the region, as a share of its longer side."""
    near_trace: float = 0.1
    """What is believed to be object at first: so far from a trace, as a share of the region's longer side."""
    near_points: float = 0.35
    """The same where there are points and no trace: a few points say less of an object's extent."""

    def __post_init__(self) -> None:
        if self.max_side < 16 or self.iterations < 1:
            raise UsageError("max_side: expected at least 16; iterations: expected at least 1")
        if not 0.05 <= self.margin <= 2 or not min(self.near_trace, self.near_points) >= 0:
            raise UsageError("margin: expected 0.05 to 2; near_trace, near_points: expected 0 or more")


class ScribbleEngine:
    """Segments what prompts point at, by colour alone; see the module's docstring."""

    name = "scribble"
    weights = ""

    def __init__(self, config: ScribbleConfig | None = None) -> None:
        self._config = config or ScribbleConfig()

    def options(self) -> Mapping[str, Any]:
        """Return the options."""
        return asdict(self._config)

    def needs(self) -> EngineNeeds:
        """Return what planning and scheduling must know."""
        return EngineNeeds(halo=0, seconds_per_frame=0.01, seconds_per_label=0.15)

    def label(self, clip: Clip, images: FrameReader, frames: range) -> Iterator[Label]:
        """Yield one label for every frame of `frames` and every object, ordered by (frame, object_id).

        An object without a prompt on a frame is absent there. A prompt outside the frame gives an empty mask.

        Raises:
            InputError: a frame cannot be read.
        """
        prompts = ClipPrompts(clip)
        wanted = [frame for frame in frames if frame in prompts.frames]
        pictures = images.read(wanted) if wanted else iter(())
        for frame in frames:
            here = prompts.on(frame) if frame in prompts.frames else {}
            image = next(pictures)[1] if frame in prompts.frames else None
            for object_id in clip.object_ids():
                if object_id not in here or image is None:
                    yield Label(frame, object_id, None)
                    continue
                mask = self.segment(image, here[object_id])
                box = here[object_id].box
                quality = {} if box is None else {"box_agreement": box_agreement(mask, box)}
                yield Label(
                    frame, object_id, mask, predicted_iou(quality.get("box_agreement", 1.0), CERTAINTY), quality
                )

    def segment(self, image: NDArray[np.uint8], prompt: Prompt) -> NDArray[np.bool_]:
        """Return the mask (height, width) of one prompt on an RGB image; empty where the prompt lies outside.

        Raises:
            InputError: the prompt says nothing of where the object is.
        """
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.bool_)
        region = prompt_region(prompt, height, width)
        if region is None:
            return mask
        crop = place_crop(region, self._config.margin, self._config.max_side, height, width)
        classes = self._classes(prompt, crop)
        x0, y0, x1, y1 = crop.area
        if is_cuttable(crop, outside_box(crop)):
            small = cv2.resize(image[y0:y1, x0:x1], crop.size[::-1], interpolation=cv2.INTER_AREA)
            lab = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), np.uint8)
            cv2.setRNGSeed(0)  # of this thread; the colour models start from k-means
            models = np.zeros((1, 65)), np.zeros((1, 65))  # 5 Gaussians of 13 numbers each
            cv2.grabCut(lab, classes, (0, 0, 0, 0), *models, self._config.iterations, cv2.GC_INIT_WITH_MASK)
        found = np.asarray((classes == cv2.GC_FGD) | (classes == cv2.GC_PR_FGD), np.bool_)
        if prompt.box is not None and box_fit(found, crop.inner) < GUARD:
            found = ellipse(crop.inner, crop.size) | (classes == cv2.GC_FGD)
        full = cv2.resize(found.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        mask[y0:y1, x0:x1] = drop_specks(np.asarray(full > 0.5, np.bool_))
        return mask

    def _classes(self, prompt: Prompt, crop: Crop) -> NDArray[np.uint8]:
        """Return GrabCut's classes on the working grid."""
        rows, columns = crop.size
        corner, step = np.array(crop.area[:2]), np.array(crop.step)
        sure = render_trace([(part + 0.5 - corner) / step - 0.5 for part in _strokes(prompt)], rows, columns)
        classes = np.full(crop.size, cv2.GC_BGD, np.uint8)
        x0, y0, x1, y1 = crop.inner
        inside = classes[y0:y1, x0:x1]
        if prompt.box is not None or not sure.any():
            inside[:] = cv2.GC_PR_FGD
        else:
            far = cv2.distanceTransform((~sure).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            share = self._config.near_trace if prompt.trace else self._config.near_points
            near = far <= share * max(x1 - x0, y1 - y0)
            inside[:] = np.where(near[y0:y1, x0:x1], cv2.GC_PR_FGD, cv2.GC_PR_BGD)
        classes[sure] = cv2.GC_FGD
        if prompt.negatives is not None and len(prompt.negatives):
            discs = [(point[None] + 0.5 - corner) / step - 0.5 for point in prompt.negatives]
            classes[render_trace(discs, rows, columns)] = cv2.GC_BGD
        return classes


def _strokes(prompt: Prompt) -> list[NDArray[np.float64]]:
    points = [] if prompt.positives is None else [point[None] for point in prompt.positives]
    return [*prompt.trace, *points]
