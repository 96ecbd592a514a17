"""The nearest of many clips, in features of one scale, and what to make of such distances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.features import Features

BLOCK = 2**22  # distances in memory at once
# Of a feature's deviation, as a share of the median one: features that hardly vary in few training
# videos would make everything new look far away, and compression too.
LEAST_SPREAD = 0.25


@dataclass(frozen=True)
class Standard:
    """Features in units of their deviation over the training set."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, real: Features) -> Standard:
        """Every video has the same say; a feature that hardly varies is not blown up."""
        values, weights = real.values.double(), video_weights(real.groups)
        mean = weights @ values
        deviation = (weights @ (values - mean) ** 2).sqrt()
        least = LEAST_SPREAD * float(deviation.median()) or 1.0
        return cls(mean, deviation.clamp_min(least))

    def __call__(self, values: Tensor) -> Tensor:
        """(N, width) -> float64; Euclidean distances of the result are root mean squares."""
        return (values.double() - self.mean) / (self.deviation * math.sqrt(values.shape[1]))


def nearest(
    queries: Tensor,
    bank: Tensor,
    query_groups: Tensor | None = None,
    bank_groups: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The closest row of a bank for each query, not of the query's own group where given.

    Inputs:  (N, d) and (M, d) float64, with (N,) and (M,) int64
    Output:  (N,) distances and (N,) rows of the bank; memory does not grow with N x M
    """
    distances, rows = [], []
    norms = (bank**2).sum(dim=1)
    size = max(1, BLOCK // len(bank))
    for start in range(0, len(queries), size):
        block = queries[start : start + size]
        squared = norms - 2 * block @ bank.T  # and the query's own norm, equal in a row
        if query_groups is not None and bank_groups is not None:
            same = query_groups[start : start + size, None] == bank_groups[None]
            squared.masked_fill_(same, math.inf)
        row = squared.argmin(dim=1)
        rows.append(row)
        distances.append((block - bank[row]).norm(dim=1))  # directly: 0 for an exact copy
    return torch.cat(distances), torch.cat(rows)


def video_weights(groups: Tensor) -> Tensor:
    """(N,) float64 that sum to 1, the same sum for every video however many clips it has."""
    counts = torch.bincount(groups)
    return 1 / (counts[groups].double() * int((counts > 0).sum()))


def weighted_quantile(values: Tensor, weights: Tensor, share: float) -> float:
    """The smallest value with at least that share of the weight at or below it."""
    order = values.argsort()
    summed = weights[order].cumsum(0)
    index = int(torch.searchsorted(summed, share - 1e-12))
    return float(values[order[min(index, len(values) - 1)]])


def chance_of_at_least(count: int, of: int, rank: int, among: int) -> float:
    """P(at least `count` of `of` new values lie below the `rank`-th smallest of `among` others).

    All values being drawn independently from one continuous distribution, whatever it is: the
    number below is beta-binomial with parameters rank and among - rank + 1.
    """
    a, b = rank, among - rank + 1

    def log_term(k: int) -> float:
        choose = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        return choose + _log_beta(k + a, of - k + b) - _log_beta(a, b)

    return min(1.0, math.fsum(math.exp(log_term(k)) for k in range(count, of + 1)))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def within_videos(values: Tensor, groups: Tensor) -> Tensor:
    """Distance of each clip to the nearest other clip of its video, where there is one."""
    found = []
    for group in groups.unique():
        rows = values[groups == group]
        if len(rows) > 1:
            found.append(nearest(rows, rows, torch.arange(len(rows)), torch.arange(len(rows)))[0])
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)
