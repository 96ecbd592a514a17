"""Frechet distances of the same videos under many weightings: what resampling is made of.

A resample counts every video so and so many times. Its mean and trace are weighted sums over
videos; only the overlap tr (S_x S_y)^(1/2), a sum of singular values, has to be found anew each
time. There are two ways to it, and the one with fewer operations is taken:

    products      for few samples: all inner products X Y^T once; those of the samples drawn,
                  weighted and centred on both sides, have the wanted singular values
    covariances   for few dimensions: weighted sums of x x^T (of long videos, of the video's own sum
                  for a batch of resamples at once), and the triangular factor L of the first
                  covariance; the singular values are the roots of the eigenvalues of L^T S_y L

Both take roots of eigenvalues. Below about 1e-6 of the largest such a root is rounding noise and is
faded out, so that results do not hang on how many threads summed. `frechet.distance`, which is
exact, stays the one for the score itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.estimate import require_features, require_same_width
from tools.metrics.features import Features

BATCH = 10 * 2048**2  # entries of the covariances of a batch of resamples: 320 MB a side
BAND = 128  # columns of the second moments that are summed at a time
HELD = 2**25  # entries of the videos' second moments that are held at a time: 256 MB
PRODUCTS = 2**27  # most inner products that are held: 1 GB
MANY_ROWS = 4  # of a video, from which on its second moments are shared by a batch of resamples
ROWS = 4096  # samples that are in float64 at a time
NOISE = 1e-12  # of the largest eigenvalue, or of the mean square
TINY = 1e-200  # divides zeros
EIGENVALUES = 4  # operations per width^3, the time of `eigvalsh` in that of a matrix product


class Side:
    """One set of features, video by video.

    Attributes:
        values  (N, width) as stored
        sizes   (V,) rows of each video, in order

    Raises:  ValueError for fewer than 2 videos, rows out of order, NaN or infinity
    """

    def __init__(self, features: Features) -> None:
        self.values = features.values.detach().cpu()
        require_features(self.values)
        if (features.groups.diff() < 0).any():
            raise ValueError("features: the rows are not in the order of their videos")
        self.sizes = torch.unique_consecutive(features.groups, return_counts=True)[1]
        if len(self.sizes) < 2:
            raise ValueError(f"resampling: at least 2 videos are needed, got {len(self.sizes)}")

    def blocks(self, centre: Tensor) -> Iterator[Tensor]:
        """The rows about a centre, in float64, some at a time."""
        return (block.double() - centre for block in self.values.split(ROWS))

    def mean(self) -> Tensor:
        """(width,)"""
        zero = torch.zeros(self.values.shape[1], dtype=torch.float64)
        return torch.stack([block.sum(0) for block in self.blocks(zero)]).sum(0) / len(self.values)


@dataclass(frozen=True)
class Moments:
    """The weighted moments of R resamples of one side, about a common centre.

    Attributes:
        weights  (R, V) how often each video is counted
        rows     (R,) samples counted
        means    (R, width)
        traces   (R,) of the covariances
        ddof     the covariances divide by rows - ddof
    """

    weights: Tensor
    rows: Tensor
    means: Tensor
    traces: Tensor
    ddof: int


def weighted_distances(
    real: Side, fake: Side, real_weights: Tensor, fake_weights: Tensor, ddof: int
) -> Tensor:
    """The Frechet distance under each of R weightings of the videos.

    Inputs:  weights (R, V) of the real and (R, W) of the fake videos, counts from 0; at least 2
             samples counted in each
    Output:  (R,) float64; about 1e-6 of the traces are left to rounding
    """
    require_same_width(real.values.shape[1], fake.values.shape[1])
    centre = (real.mean() + fake.mean()) / 2
    first = _moments(real, centre, real_weights, ddof)
    second = _moments(fake, centre, fake_weights, ddof)
    way = _by_products if _products_are_cheaper(real, fake) else _by_covariances
    overlaps = way(real, fake, first, second, centre)
    shift = (first.means - second.means).square().sum(1)
    return shift + first.traces + second.traces - 2 * overlaps


def operations(real: Side, fake: Side) -> float:
    """Floating-point operations that one resample costs, the same on every machine."""
    return min(_product_operations(real, fake), _covariance_operations(real, fake))


def _moments(side: Side, centre: Tensor, weights: Tensor, ddof: int) -> Moments:
    weights = weights.double()
    video = torch.arange(len(side.sizes)).repeat_interleave(side.sizes)
    sums = torch.zeros(len(side.sizes), len(centre), dtype=torch.float64)
    squares = torch.zeros(len(side.sizes), dtype=torch.float64)
    for owner, block in zip(video.split(ROWS), side.blocks(centre), strict=True):
        sums.index_add_(0, owner, block)
        squares.index_add_(0, owner, block.square().sum(1))
    rows = weights @ side.sizes.double()
    means = weights @ sums / rows[:, None]
    traces = (weights @ squares - rows * means.square().sum(1)) / (rows - ddof)
    return Moments(weights, rows, means, traces, ddof)


def _by_products(real: Side, fake: Side, first: Moments, second: Moments, centre: Tensor) -> Tensor:
    """The overlap of each resample, (R,), from the inner products of its samples."""
    products = torch.empty(len(real.values), len(fake.values), dtype=torch.float64)
    for part, block in zip(products.split(ROWS), real.blocks(centre), strict=True):
        for columns, other in zip(part.split(ROWS, dim=1), fake.blocks(centre), strict=True):
            torch.mm(block, other.T, out=columns)
    overlaps = []
    for r in range(len(first.rows)):
        chosen, weights = _counted(real, first, r)
        others, other_weights = _counted(fake, second, r)
        part = products[chosen][:, others]
        across = part @ (other_weights / second.rows[r])  # with the other side's mean
        part -= across[:, None]
        part -= (weights / first.rows[r]) @ part
        part *= (weights / (first.rows[r] - first.ddof)).sqrt()[:, None]
        part *= (other_weights / (second.rows[r] - second.ddof)).sqrt()
        part = part if part.shape[0] <= part.shape[1] else part.T
        overlaps.append(_root_trace(part @ part.T))
    return torch.stack(overlaps)


def _counted(side: Side, moments: Moments, resample: int) -> tuple[Tensor, Tensor]:
    """Which rows a resample counts at all, and how often each."""
    weights = moments.weights[resample].repeat_interleave(side.sizes)
    chosen = weights.nonzero().flatten()
    return chosen, weights[chosen]


def _by_covariances(
    real: Side, fake: Side, first: Moments, second: Moments, centre: Tensor
) -> Tensor:
    """The overlap of each resample, (R,), from its two covariances."""
    overlaps = []
    for batch in torch.arange(len(first.rows)).chunk(_batches(len(first.rows), len(centre))):
        covariances = _covariances(real, first, batch, centre)
        others = _covariances(fake, second, batch, centre)
        squares = first.traces[batch].clamp(min=0) + first.means[batch].square().sum(1)
        for covariance, other, square in zip(covariances, others, squares, strict=True):
            # More on the diagonal than rounding took away when the mean was subtracted: then
            # covariances of any rank have a factor.
            covariance.diagonal().add_(NOISE * square + TINY)
            factor = torch.linalg.cholesky(covariance)
            overlaps.append(_root_trace(factor.T @ other @ factor))
    return torch.stack(overlaps)


def _covariances(side: Side, moments: Moments, batch: Tensor, centre: Tensor) -> Tensor:
    """(B, width, width) for the resamples of a batch."""
    way = _second_moments_by_video if _has_long_videos(side) else _second_moments_by_row
    total = way(side, moments.weights[batch], centre)
    for matrix, mean, rows in zip(total, moments.means[batch], moments.rows[batch], strict=True):
        matrix.copy_(matrix.triu() + matrix.triu(1).T)
        matrix.addr_(mean, mean, alpha=-float(rows)).div_(rows - moments.ddof)
    return total


def _second_moments_by_row(side: Side, weights: Tensor, centre: Tensor) -> Tensor:
    """Weighted sums of x x^T about the centre, (B, width, width)."""
    total = torch.zeros(len(weights), len(centre), len(centre), dtype=torch.float64)
    for matrix, times in zip(total, weights, strict=True):
        roots = times.sqrt().repeat_interleave(side.sizes)
        chosen = roots.nonzero().flatten()
        for rows in chosen.split(ROWS):
            scaled = (side.values[rows].double() - centre) * roots[rows, None]
            matrix.addmm_(scaled.T, scaled)
    return total


def _second_moments_by_video(side: Side, weights: Tensor, centre: Tensor) -> Tensor:
    """The same for videos of many rows, each worked through once; fills the upper triangle."""
    width = len(centre)
    total = torch.zeros(len(weights), width, width, dtype=torch.float64)
    videos = side.values.split(side.sizes.tolist())
    for start in range(0, width, BAND):
        stop = min(start + BAND, width)
        shape = (stop, stop - start)
        held = torch.empty(max(1, HELD // (stop * BAND)), *shape, dtype=torch.float64)
        sums = torch.zeros(len(weights), stop * (stop - start), dtype=torch.float64)
        for begin in range(0, len(videos), len(held)):
            group = videos[begin : begin + len(held)]
            for matrix, values in zip(held, group, strict=False):
                rows = values[:, :stop].double() - centre[:stop]
                torch.mm(rows.T, rows[:, start:], out=matrix)
            share = weights[:, begin : begin + len(group)]
            sums.addmm_(share, held[: len(group)].flatten(1))
        total[:, :stop, start:stop] = sums.unflatten(1, shape)
    return total


def _root_trace(matrix: Tensor) -> Tensor:
    """Trace of the root of a positive matrix, without the roots of what is rounding noise."""
    eigenvalues = torch.linalg.eigvalsh(matrix).clamp(min=0)
    faded = (eigenvalues + NOISE * eigenvalues[-1] + TINY).sqrt()
    return (eigenvalues / faded).sum()


def _has_long_videos(side: Side) -> bool:
    return len(side.values) >= MANY_ROWS * len(side.sizes)


def _batches(resamples: int, width: int) -> int:
    return math.ceil(resamples / max(1, BATCH // width**2))


def _products_are_cheaper(real: Side, fake: Side) -> bool:
    return _product_operations(real, fake) <= _covariance_operations(real, fake)


def _product_operations(real: Side, fake: Side) -> float:
    if len(real.values) * len(fake.values) > PRODUCTS:
        return math.inf
    # 0.632: the share of the videos that a bootstrap resample counts at all
    few, many = sorted(0.632 * len(side.values) for side in (real, fake))
    return few**2 * (2 * many + EIGENVALUES * few)


def _covariance_operations(real: Side, fake: Side) -> float:
    width = real.values.shape[1]
    rows = sum(_rows_worked_through(side, width) for side in (real, fake))
    return 2 * rows * width**2 + (4 + 1 / 3 + EIGENVALUES) * width**3


def _rows_worked_through(side: Side, width: int) -> float:
    """Of one resample; 0.56 is the share of a band-wise upper triangle in its square."""
    rows, videos = len(side.values), len(side.sizes)
    if not _has_long_videos(side):
        return 0.632 * rows
    return 0.56 * (rows / max(1, BATCH // width**2) + videos)
