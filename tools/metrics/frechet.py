"""The Frechet distance of two sets of features: FVD, FID and their relatives.

    FD = |mean_x - mean_y|^2 + tr S_x + tr S_y - 2 tr (S_x S_y)^(1/2)

With factors F_x^T F_x = S_x and F_y^T F_y = S_y the last trace is the nuclear norm (the sum of the
singular values) of F_x F_y^T. Centred features, divided by sqrt(N - ddof), are such a factor, and
so is their triangular factor. No covariance is formed and no root of a matrix taken, so fewer
samples than dimensions, our normal case, cost no accuracy.

Source:  Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.metrics.estimate import checked, require_same_width

# Rows collected before they are reduced to a triangle, in units of the width: each reduction also
# works through the old triangle once more, so more of them cost time and fewer cost memory.
ROWS_PER_REDUCTION = 4


@dataclass(frozen=True)
class Summary:
    """All that the distance needs of one set of features. Float64.

    Attributes:
        count    samples N
        mean     (width,)
        factor   (k, width) with factor^T factor = covariance; k <= width, and k = N for N <= width
    """

    count: int
    mean: Tensor
    factor: Tensor

    @classmethod
    def of(cls, values: Tensor, ddof: int = 1) -> Summary:
        """Of (N, width) features; the covariance divides by N - ddof.

        Raises:  ValueError for fewer than 2 samples, NaN or infinity
        """
        blocks = values.split(ROWS_PER_REDUCTION * (values.shape[-1] + 1)) if len(values) else ()
        if len(blocks) > 1:  # float64 copies of all of it would be several times its memory
            return cls.of_blocks(blocks, ddof)
        values = checked(values)
        mean = values.mean(0)
        return cls(len(values), mean, triangle(values - mean) / math.sqrt(len(values) - ddof))

    @classmethod
    def of_blocks(cls, blocks: Iterable[Tensor], ddof: int = 1) -> Summary:
        """The same of features that come in blocks (n, width), in memory of order width^2.

        The triangular factor R of [1 | X] holds the mean in its first row (R_00 = sqrt(N) and
        R_0j = sqrt(N) mean_j, up to one sign) and the centred features' factor below it.
        Triangles of parts stack: the factor of both is that of the one below the other.
        """
        shift: Tensor | None = None
        pending: list[Tensor] = []
        count = rows = 0
        for block in blocks:
            if len(block) == 0:
                continue
            values = checked(block, least=1)
            if shift is None:
                shift = values.mean(0)  # keeps a mean far from zero out of the rounding
            require_same_width(len(shift), values.shape[1])
            pending.append(torch.cat([torch.ones(len(values), 1), values - shift], dim=1))
            count, rows = count + len(values), rows + len(values)
            if rows > ROWS_PER_REDUCTION * (len(shift) + 1):
                pending = [triangle(torch.cat(pending))]
                rows = len(pending[0])
        if shift is None or count < 2:
            raise ValueError(f"features: at least 2 samples are needed, got {count}")
        stacked = torch.cat(pending)
        if len(stacked) == count:  # never reduced
            summary = cls.of(stacked[:, 1:], ddof)
            return cls(count, summary.mean + shift, summary.factor)
        stacked = triangle(stacked)
        mean = stacked[0, 1:] / stacked[0, 0]
        return cls(count, mean + shift, stacked[1:, 1:] / math.sqrt(count - ddof))

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor, count: int) -> Summary:
        """Of a mean (width,) and a covariance (width, width) that others computed.

        Their rounding may have left small negative eigenvalues, which are taken as zero; the
        factor's accuracy is the root of theirs.

        Raises:  ValueError when the two do not fit or the second is no covariance
        """
        mean, covariance = checked(mean[None], least=1)[0], checked(covariance, least=1)
        if covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"statistics: mean of {len(mean)} and covariance {(*covariance.shape,)} do not fit"
            )
        scale = float(covariance.abs().max())
        if float((covariance - covariance.T).abs().max()) > 1e-4 * scale:
            raise ValueError("statistics: the covariance is not symmetric")
        eigenvalues, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        if float(eigenvalues[0]) < -1e-3 * scale:
            raise ValueError("statistics: the covariance has a clearly negative eigenvalue")
        return cls(count, mean, eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T)


def distance(first: Summary, second: Summary) -> float:
    """The squared Frechet distance between the normal distributions of two summaries.

    Rounding may leave about 1e-13 of the traces below zero for equal sets; nothing is clipped.
    """
    require_same_width(len(first.mean), len(second.mean))
    shift = (first.mean - second.mean).square().sum()
    spread = first.factor.square().sum() + second.factor.square().sum()
    overlap = torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    return float(shift + spread - 2 * overlap)


def triangle(matrix: Tensor) -> Tensor:
    """A factor with the same matrix^T matrix and at most as many rows as columns."""
    if matrix.shape[0] <= matrix.shape[1]:
        return matrix
    return torch.linalg.qr(matrix, mode="r").R
