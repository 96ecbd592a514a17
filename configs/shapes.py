"""The one place where a size is derived from another size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Spacing = Literal["even", "random"]


@dataclass(frozen=True)
class VideoShape:
    """Sizes of one video, in pixels, latent cells or tokens alike."""

    frames: int
    channels: int
    height: int
    width: int

    def batch(self, count: int) -> tuple[int, int, int, int, int]:
        """The tensor shape of `count` such videos: (B, F, C, H, W)."""
        return (count, self.frames, self.channels, self.height, self.width)

    @property
    def cells(self) -> int:
        """Positions in one frame: H * W."""
        return self.height * self.width

    def downscale(self, stride: int, channels: int) -> VideoShape:
        """The shape after cutting every frame into `stride` x `stride` cells of `channels`.

        Raises ValueError when the frame cannot be cut into whole cells.
        """
        if self.height % stride or self.width % stride:
            raise ValueError(
                f"a {self.height}x{self.width} frame cannot be divided into {stride}x{stride} "
                f"cells; choose clip.size so that every stride divides it"
            )
        return VideoShape(self.frames, channels, self.height // stride, self.width // stride)

    def with_frames(self, frames: int) -> VideoShape:
        """The same frame size with another number of frames."""
        return VideoShape(frames, self.channels, self.height, self.width)


@dataclass(frozen=True)
class FrameTimes:
    """How the frames of a clip lie in time. The unit is the interval between its frames."""

    frames: int
    spacing: Spacing = "even"
    longest_span: int = 32  # largest distance from the first frame to the last
    longest_video: int = 1024  # of a longer video, only a random window of so many frames counts

    def spans(self, available: int) -> list[int]:
        """The distances from first to last frame to choose from, all equally likely.

        Powers of two (StyleGAN-V, arXiv 2112.14683, section 3.3) from `frames` - 1 to
        `longest_span`; where a video of `available` frames has room for none of them, the
        frames follow one another.
        """
        if self.spacing == "even":
            return [self.frames - 1]
        longest = min(available - 1, self.longest_span)
        powers = [2**k for k in range(longest.bit_length())]
        return [span for span in powers if self.frames - 1 <= span <= longest] or [self.frames - 1]
