"""Extra single frames that a model learns from beside the clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datasets.sources import Source
from datasets.transforms import flip, resize_centre_crop


class ImageChoice(NamedTuple):
    """One image of a data set: the number of its video, that of its frame, mirrored or not."""

    source: int
    frame: int
    mirrored: bool


def choose_images(
    ends: npt.NDArray[np.int64], count: int, mirror: bool, random: np.random.Generator
) -> list[ImageChoice]:
    """Draw frames, each frame of each video equally likely.

    Inputs:  ends, the running sum of the videos' frame counts; mirror: flip half of the images
    """
    chosen = []
    for number in random.integers(int(ends[-1]), size=count):
        which = int(np.searchsorted(ends, number, side="right"))
        begin = int(ends[which - 1]) if which else 0
        chosen.append(ImageChoice(which, int(number) - begin, mirror and random.random() < 0.5))
    return chosen


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
        for chosen in choose_images(self.ends, count, self.mirror, random):
            frame = self.sources[chosen.source].read([chosen.frame])
            image = resize_centre_crop(frame, self.size)[0]
            images.append(flip(image) if chosen.mirrored else image)
        return torch.stack(images)
