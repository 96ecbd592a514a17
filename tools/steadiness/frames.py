"""What is measured of every frame of a video, one frame in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
EDGES = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))  # the Laplacian


@dataclass(frozen=True)
class FrameValues:
    """One video in numbers, grey levels from 0 to 255; of frame 0, `step` and `distance` are 0.

    Attributes:
        mean       (F, 3) of each channel's pixels
        deviation  (F, 3) standard deviation of each channel's pixels
        sharpness  (F,) variance of the Laplacian of the grey picture
        step       (F,) mean absolute difference to the frame before
        distance   (F,) mean absolute difference to the first frame
    """

    mean: Tensor
    deviation: Tensor
    sharpness: Tensor
    step: Tensor
    distance: Tensor

    def __len__(self) -> int:
        return len(self.mean)


def frame_values(frames: Iterable[Tensor]) -> FrameValues:
    """Measure frames (3, H, W) uint8, of at least 3 x 3 pixels. ValueError without a frame."""
    rows: list[Tensor] = []
    first: Tensor | None = None
    before: Tensor | None = None
    for frame in frames:
        pixels = frame.double()
        first = pixels if first is None else first
        before = pixels if before is None else before
        changes = torch.stack([(pixels - other).abs().mean() for other in (before, first)])
        channels = pixels.flatten(1)
        rows.append(
            torch.cat(
                [channels.mean(1), channels.std(1), _sharpness(pixels)[None], changes],
            )
        )
        before = pixels
    if not rows:
        raise ValueError("a video without frames cannot be measured")
    table = torch.stack(rows)
    return FrameValues(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7], table[:, 8])


def _sharpness(pixels: Tensor) -> Tensor:
    grey = (torch.tensor(GREY, dtype=pixels.dtype)[:, None, None] * pixels).sum(0)
    kernel = torch.tensor(EDGES, dtype=pixels.dtype)
    return F.conv2d(grey[None, None], kernel[None, None]).var()
