from __future__ import annotations

import errno
import resource

import cv2
import numpy as np
import pytest

from rayvos.errors import DecodeError, OutOfMemoryError
from rayvos.pipelines.guards import ends_the_process, error_code, limited_memory, timeout_of
from rayvos.video.image_folder import decode_image
from rayvos.video.limits import DecodeLimits


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as found:
        return found


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (cv2.error("OpenCV(5.0.0) error: (-4:Insufficient memory) Failed to allocate"), "out_of_memory"),
        (raised(DecodeError("clip 'a' frame 3"), MemoryError()), "out_of_memory"),
        (DecodeError("clip 'out of memory' frame 3"), "decode_failed"),
        (ZeroDivisionError("division by zero"), "engine_failed"),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: str) -> None:
    assert error_code(error) == code


def test_a_lost_gpu_ends_the_process_and_a_full_one_does_not() -> None:
    assert ends_the_process(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not ends_the_process(RuntimeError("CUDA error: out of memory"))
    assert not ends_the_process(ValueError("no"))


def test_more_memory_than_allowed_is_an_error_of_the_block_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)

    with pytest.raises(OutOfMemoryError, match=r"below the 0\.1 GiB"), limited_memory(100 << 20):
        np.ones(1 << 30, np.uint8)

    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    assert np.ones(1 << 29, np.uint8).size == 1 << 29


def test_ordinary_work_passes_below_the_limit() -> None:
    with limited_memory(100 << 20):
        image = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
        assert cv2.GaussianBlur(image, (0, 0), 3).shape == image.shape


def test_the_time_limit_is_generous_unless_stated() -> None:
    assert timeout_of(1.0, None) == 600
    assert timeout_of(60.0, None) == 1200
    assert timeout_of(60.0, 5.0) == 5


def test_a_picture_beyond_the_memory_is_not_called_damaged() -> None:
    # 507 MB of RGB: more than the headroom and what this process may hold free from tests before.
    data = cv2.imencode(".png", np.zeros((13_000, 13_000), np.uint8))[1].tobytes()

    with pytest.raises(OutOfMemoryError), limited_memory(1):
        decode_image(data, "clip 'large' frame 0", limits=DecodeLimits(max_pixels=170_000_000))
