"""The one place where a size is derived from another size."""

from __future__ import annotations

from dataclasses import dataclass


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
