"""Extra single frames that a model learns from beside the clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datasets.sources import Source
from datasets.transforms import flip, resize_centre_crop


class ExtraImages:
    """Single frames drawn from all frames of all videos of a data set, each equally likely.

    Videos too short for a clip take part. Of a video file only the frame itself is decoded, and
    those it builds on.

    Inputs:  sources and their frame counts, size in pixels, mirror: flip half of the images
    """

    def __init__(
        self, sources: Sequence[Source], counts: Sequence[int], size: int, mirror: bool
    ) -> None:
        self.sources = sources
        self.ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        self.size = size
        self.mirror = mirror

    @property
    def frames(self) -> int:
        """Frames to draw from."""
        return int(self.ends[-1])

    def draw(self, count: int, random: np.random.Generator) -> Tensor:
        """(count, 3, size, size) uint8, each image with a flip of its own."""
        images = []
        for number in random.integers(self.frames, size=count):
            which = int(np.searchsorted(self.ends, number, side="right"))
            begin = int(self.ends[which - 1]) if which else 0
            frame = self.sources[which].read([int(number) - begin])
            image = resize_centre_crop(frame, self.size)[0]
            images.append(flip(image) if self.mirror and random.random() < 0.5 else image)
        return torch.stack(images)
