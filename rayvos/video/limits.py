"""How much one frame, and the frames decoded ahead, may take: checked before memory is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from rayvos.errors import ImageTooLargeError

__all__ = ["DecodeLimits"]

MAX_AHEAD = 16  # frames; more only delays the first result of a worker that is stopped early

HEADER_BYTES = 16 << 20  # colour profiles, thumbnails, camera data


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """Bounds on what decoding may use."""

    max_pixels: int = 100_000_000
    """Largest picture, width x height; a file whose header says more is refused unread. Pillow looks at no picture
    above 179 million."""
    ahead_bytes: int = 256 << 20
    """RGB frames that may wait decoded, per pass over a clip; at least one frame is decoded ahead."""

    @property
    def max_file_bytes(self) -> int:
        """Largest file of a picture: no format needs more than 16 bits in four channels, and some for its header."""
        return 8 * self.max_pixels + HEADER_BYTES

    def check_pixels(self, height: int, width: int, where: str) -> None:
        """Check a size that a file's header states.

        Args:
            height: pixels.
            width: pixels.
            where: clip, frame and file, for the message.

        Raises:
            ImageTooLargeError: it has more than `max_pixels` pixels.
        """
        if height * width > self.max_pixels:
            raise ImageTooLargeError(
                f"{where}: {height}x{width} is {height * width} pixels, at most {self.max_pixels}; "
                "scale the frames down, or raise the limit"
            )

    def frames_ahead(self, height: int, width: int) -> int:
        """Return how many RGB frames of this size may wait decoded."""
        return max(1, min(MAX_AHEAD, self.ahead_bytes // max(1, height * width * 3)))
