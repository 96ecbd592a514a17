"""Does the view of a clip travel at all? Asked of matches, before any model is believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.reconstruction.cameras.colmap import Matches

FEWEST = 3  # pairs, below which nothing is known about motion
LEAST = 15  # verified matches that make a pair


@dataclass(frozen=True)
class Motion:
    """How far verified matches move."""

    median: float  # share of the width: median over pairs of each pair's median; nan: unknown
    pairs: int  # pairs with enough verified matches
    possible: int  # pairs there could be
    features: float  # features of a frame, median
    together: int  # frames in the largest group that such pairs tie together
    frames: int  # of the clip

    @property
    def known(self) -> bool:
        """Whether enough pairs tell."""
        return self.pairs >= FEWEST


def measure_motion(matches: Matches) -> Motion:
    """Motion of the verified matches of a clip."""
    ends = np.cumsum(matches.sizes)
    steps = np.linalg.norm(matches.places[:, 2:] - matches.places[:, :2], axis=1)
    enough = matches.sizes >= LEAST
    medians = [
        float(np.median(steps[end - size : end]))
        for end, size, counts in zip(ends, matches.sizes, enough, strict=True)
        if counts
    ]
    frames = len(matches.features)
    return Motion(
        median=float(np.median(medians)) / matches.width if medians else float("nan"),
        pairs=len(medians),
        possible=frames * (frames - 1) // 2,
        features=float(np.median(matches.features)) if frames else 0.0,
        together=largest_group(matches.pairs[enough], frames),
        frames=frames,
    )


def largest_group(pairs: NDArray[np.int64], frames: int) -> int:
    """How many of `frames` frames hang together by pairs (P, 2), at most."""
    group = list(range(frames))
    for first, second in pairs.tolist():
        old, new = group[second], group[first]
        group = [new if each == old else each for each in group]
    return max((group.count(each) for each in set(group)), default=0)
