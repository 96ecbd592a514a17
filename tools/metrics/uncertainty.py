"""How far a score can be trusted: its deviation, its floor, and its limit for many videos.

Everything is resampled by video: the frames and clips of one video are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.estimate import Deviation
from tools.metrics.features import Features
from tools.metrics.resampling import Side, operations, weighted_distances

Score = Callable[[Features, Features], float]

FEWEST_TO_SPLIT = 4  # videos, for halves that have a covariance each
LEAST_RESAMPLES = 20
BUDGET = 2e12  # floating-point operations of one bootstrap: a minute or two on one CPU core

SHARES = (0.25, 0.5, 0.75, 1.0)  # of the videos, for the fit in 1 / N
DRAWS = 5  # subsets of every share below 1


@dataclass(frozen=True)
class Floor:
    """The score of real videos against other real videos: no generator can be asked for less.

    The halves have half as many videos as the whole, so the floor of a biased score such as the
    Frechet distance lies above what the whole set would give.

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
    """Standard deviation of the Frechet distance over bootstrap resamples of videos.

    Both sides are drawn anew. The distances of resamples lie above the distance itself, because
    repeated videos are like fewer videos; only their deviation means something, and it is rather
    too large than too small. Where a resample is expensive, fewer are drawn, down to 20: as many as
    2e12 operations allow, by the sizes of the sets alone.

    Raises:  ValueError for fewer than 2 videos a side, other widths, NaN or infinity
    """
    first, second = Side(real), Side(fake)
    affordable = int(BUDGET / operations(first, second))
    count = min(resamples, max(LEAST_RESAMPLES, affordable))
    _require_repeats("resamples", count)
    generator = torch.Generator().manual_seed(seed)
    weights = [_bootstrap(len(side.sizes), count, generator) for side in (first, second)]
    values = weighted_distances(first, second, weights[0], weights[1], ddof)
    return Deviation(float(values.std()), count)


def deviation_over_videos(
    score: Score, real: Features, fake: Features, resamples: int = 100, seed: int = 0
) -> Deviation:
    """Standard deviation of any score, from random halves of the videos of both sides.

    Half of the videos, drawn without repetition, spread as much as fresh sets of the full size
    would (the delete-half jackknife). Repeated videos, as the bootstrap has them, would be their
    own nearest neighbours and falsify all scores made of distances between samples.

    Raises:  ValueError for fewer than 4 videos a side, and what the score raises
    Source:  Shao and Wu, "A general theory for jackknife variance estimation", 1989
    """
    _require_repeats("resamples", resamples)
    _require_videos("a deviation from halves of the videos", FEWEST_TO_SPLIT, real, fake)
    generator = torch.Generator().manual_seed(seed)
    scores = [
        score(_random_half(real, generator), _random_half(fake, generator))
        for _ in range(resamples)
    ]
    return Deviation(_deviation(scores), resamples)


def floor(real: Features, score: Score, repeats: int = 5, seed: int = 0) -> Floor:
    """The score between two disjoint random halves of the real videos, over several splits.

    Raises:  ValueError for fewer than 4 videos or 2 repeats, and what the score raises
    """
    _require_repeats("repeats", repeats)
    _require_videos("the floor", FEWEST_TO_SPLIT, real)
    half = len(real.videos) // 2
    scores = [
        score(real.of_videos(order[:half]), real.of_videos(order[half : 2 * half]))
        for order in _orders(len(real.videos), repeats, seed)
    ]
    return Floor(sum(scores) / repeats, _deviation(scores), half)


def frechet_floor(real: Features, ddof: int = 1, repeats: int = 5, seed: int = 0) -> Floor:
    """`floor` of the Frechet distance, in a fraction of the time for many frames.

    The splits are the same and so is the value, to about 1e-6 of the traces.
    """
    _require_repeats("repeats", repeats)
    _require_videos("the floor", FEWEST_TO_SPLIT, real)
    half = len(real.videos) // 2
    orders = torch.tensor(_orders(len(real.videos), repeats, seed))
    side = Side(real)
    places = orders.argsort(1)  # of each video in each order
    first, second = places < half, (places >= half) & (places < 2 * half)
    values = weighted_distances(side, side, first, second, ddof)
    return Floor(float(values.mean()), float(values.std()), half)


def extrapolate(real: Features, fake: Features, ddof: int = 1, seed: int = 0) -> float:
    """The Frechet distance for infinitely many videos: the intercept of a line in 1 / N.

    The line is fitted to the distances of a quarter, half, three quarters (mean of 5 random subsets
    of both sides each) and all of the videos. It takes for granted that a quarter of them still
    fills the dimensions; with fewer samples the distance is not linear in 1 / N and the intercept
    is too large.

    Raises:  ValueError for fewer than 8 videos a side, other widths, NaN or infinity
    Source:  Chong and Forsyth, "Effectively unbiased FID and Inception Score", CVPR 2020, who fit
             the same line
    """
    _require_videos("the extrapolation", 8, real, fake)
    first, second = Side(real), Side(fake)
    generator = torch.Generator().manual_seed(seed)
    shares = [share for share in SHARES for _ in range(DRAWS if share < 1 else 1)]
    weights = [_subsets(len(side.sizes), shares, generator) for side in (first, second)]
    values = weighted_distances(first, second, weights[0], weights[1], ddof)
    # In units of 1 / N of the whole; rounding to whole videos may differ from side to side.
    inverse = torch.stack([w.shape[1] / w.sum(1) for w in weights]).mean(0)
    where = torch.as_tensor(shares)
    means = torch.stack([values[where == share].mean() for share in SHARES])
    positions = torch.stack([inverse[where == share].mean() for share in SHARES])
    design = torch.stack([torch.ones_like(positions), positions], dim=1)
    return float(torch.linalg.lstsq(design, means[:, None]).solution[0, 0])


def _bootstrap(videos: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each video is drawn in each resample, (R, V)."""
    drawn = torch.randint(videos, (resamples, videos), generator=generator)
    return torch.stack([torch.bincount(row, minlength=videos) for row in drawn]).double()


def _subsets(videos: int, shares: Sequence[float], generator: torch.Generator) -> Tensor:
    """Random subsets of these shares of the videos, as weights (R, V) of 0 and 1."""
    chosen = [torch.randperm(videos, generator=generator)[: round(s * videos)] for s in shares]
    return torch.stack([torch.zeros(videos).index_fill(0, rows, 1.0) for rows in chosen]).double()


def _orders(videos: int, repeats: int, seed: int) -> list[list[int]]:
    """Random orders of the videos."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(videos, generator=generator).tolist() for _ in range(repeats)]


def _random_half(features: Features, generator: torch.Generator) -> Features:
    """Half of the videos; of an odd number the larger or the smaller half, by chance."""
    count = len(features.videos)
    size = (count + int(torch.randint(2, (), generator=generator))) // 2
    return features.of_videos(torch.randperm(count, generator=generator)[:size].tolist())


def _deviation(scores: Sequence[float]) -> float:
    return float(torch.tensor(scores, dtype=torch.float64).std())


def _require_repeats(name: str, count: int) -> None:
    if count < 2:
        raise ValueError(f"{name}: a deviation needs at least 2, got {count}")


def _require_videos(what: str, least: int, *sides: Features) -> None:
    for features in sides:
        if len(features.videos) < least:
            raise ValueError(f"{what} needs at least {least} videos, got {len(features.videos)}")
