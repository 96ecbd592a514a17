"""A picture of several sets of videos, to see what is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from datasets.labelled import open_video

COLUMNS, GAP = 10, 2


def sheet(sets: Sequence[Sequence[Path]], size: int) -> NDArray[np.uint8]:
    """The middle frames of the first videos of each set, a row for each: (H, W, 3) RGB.

    Raises:  ValueError, FileNotFoundError naming a video that cannot be read
    """
    step = size + GAP
    picture = np.zeros((len(sets) * step - GAP, COLUMNS * step - GAP, 3), np.uint8)
    for row, videos in enumerate(sets):
        for column, path in enumerate(videos[:COLUMNS]):
            tile = _middle(path, size)
            top, left = row * step, column * step
            picture[top : top + size, left : left + size] = tile
    return picture


def _middle(path: Path, size: int) -> NDArray[np.uint8]:
    source = open_video(path)
    frame = source.read([source.count() // 2]).float()
    small = F.interpolate(frame, size=(size, size), mode="bilinear", antialias=True)
    tile: NDArray[np.uint8] = small[0].clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return tile
