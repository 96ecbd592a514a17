"""How far a score can be trusted: its deviation, its floor, and its limit for many videos.

Everything is resampled by video: the frames and clips of one video are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.estimate import Deviation
from tools.metrics.features import Features
from tools.metrics.frechet import Summary, distance

Score = Callable[[Features, Features], float]


@dataclass(frozen=True)
class Floor:
    """The score of real videos against other real videos: no generator can be asked for less.

    Attributes:
        value, deviation   mean and standard deviation over several splits into halves
        videos_per_half    how many videos stood on either side
    """

    value: float
    deviation: float
    videos_per_half: int


def frechet_deviation(
    real: Features, fake: Features, ddof: int = 1, resamples: int = 100, seed: int = 0
) -> Deviation:
    """Standard deviation of the Frechet distance over bootstrap resamples of videos."""
    generator = torch.Generator().manual_seed(seed)
    scores = [
        distance(
            Summary.of(_resampled(real, generator), ddof),
            Summary.of(_resampled(fake, generator), ddof),
        )
        for _ in range(resamples)
    ]
    return Deviation(float(torch.tensor(scores, dtype=torch.float64).std()), resamples)


def deviation_over_videos(
    score: Score, real: Features, fake: Features, resamples: int = 100, seed: int = 0
) -> Deviation:
    """Standard deviation of any score of two sets, from random halves of the videos."""
    generator = torch.Generator().manual_seed(seed)
    scores = [
        score(_drawn(real, 0.5, generator), _drawn(fake, 0.5, generator)) for _ in range(resamples)
    ]
    return Deviation(float(torch.tensor(scores, dtype=torch.float64).std()), resamples)


def floor(real: Features, score: Score, repeats: int = 5, seed: int = 0) -> Floor:
    """The score between two disjoint random halves of the real videos, over several splits."""
    generator = torch.Generator().manual_seed(seed)
    half = len(real.videos) // 2
    scores = []
    for _ in range(repeats):
        order = torch.randperm(len(real.videos), generator=generator).tolist()
        first, second = order[:half], order[half : 2 * half]
        scores.append(score(real.of_videos(first), real.of_videos(second)))
    values = torch.tensor(scores, dtype=torch.float64)
    return Floor(float(values.mean()), float(values.std()), half)


def extrapolate(real: Features, fake: Features, ddof: int = 1, seed: int = 0) -> float:
    """The Frechet distance for infinitely many videos: the intercept of a fit in 1 / N."""
    generator = torch.Generator().manual_seed(seed)
    inverse, values = [], []
    for share, draws in ((0.25, 5), (0.5, 5), (0.75, 5), (1.0, 1)):
        for _ in range(draws):
            first, second = _drawn(real, share, generator), _drawn(fake, share, generator)
            inverse.append(1 / share)
            values.append(distance(Summary.of(first.values, ddof), Summary.of(second.values, ddof)))
    x = torch.tensor(inverse, dtype=torch.float64)
    y = torch.tensor(values, dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], dim=1)
    return float(torch.linalg.lstsq(design, y[:, None]).solution[0, 0])


def _drawn(features: Features, share: float, generator: torch.Generator) -> Features:
    count = max(1, round(share * len(features.videos)))
    return features.of_videos(
        torch.randperm(len(features.videos), generator=generator)[:count].tolist()
    )


def _resampled(features: Features, generator: torch.Generator) -> Tensor:
    """Rows of as many videos as there are, drawn with replacement."""
    count = len(features.videos)
    times = torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count)
    return features.values.repeat_interleave(times[features.groups], dim=0)
