"""Does the view of a clip travel at all? Asked of matches, before any model is believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.reconstruction.colmap import Matches

FEWEST = 3  # pairs, below which nothing is known about motion
LEAST = 15  # verified matches that make a pair


@dataclass(frozen=True)
class Motion:
    """How far verified matches move."""

    median: float  # share of the width: median over pairs of each pair's median; nan: unknown
    pairs: int  # pairs with enough verified matches
    possible: int  # pairs there could be
    features: float  # features of a frame, median

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
    )
