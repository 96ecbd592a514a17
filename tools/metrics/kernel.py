"""The kernel distance: an unbiased distance of two sets of features (KID, KVD).

    MMD^2 = mean over pairs k(x, x') + mean over pairs k(y, y') - 2 mean k(x, y)
    k(x, y) = (x . y / width + 1)^3

Pairs within a set are of two different samples, which makes the estimate unbiased and lets it fall
below zero: of equal distributions more than half of all estimates do.

Source:  Binkowski et al., "Demystifying MMD GANs", ICLR 2018, section 4
"""

from __future__ import annotations

import torch
from torch import Tensor

from tools.metrics.estimate import Estimate, checked_pair

BLOCK = 2**24  # entries of a kernel matrix held at a time: 128 MB


def squared_mmd(first: Tensor, second: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy; time in proportion to the pairs.

    Inputs:  (N, width) and (M, width), both N, M >= 2
    Raises:  ValueError for fewer samples, other widths, NaN or infinity
    """
    x, y = checked_pair(first, second)
    return float(_estimates(x, y, torch.ones(len(x), 1), torch.ones(len(y), 1))[0])


def kernel_distance(
    first: Tensor, second: Tensor, subset_size: int, subsets: int = 100, seed: int = 0
) -> Estimate:
    """Mean and population standard deviation of `squared_mmd` over random subsets of both sides.

    Subsets are drawn without replacement. The value is plain: others print 1000 times as much.

    Raises:  ValueError as `squared_mmd`, and for subsets that the sets do not fill
    """
    x, y = checked_pair(first, second)
    if not 2 <= subset_size <= min(len(x), len(y)):
        raise ValueError(
            f"kernel distance: subsets need 2 to {min(len(x), len(y))} samples (there are "
            f"{len(x)} and {len(y)}), got a subset size of {subset_size}"
        )
    if subsets < 1:
        raise ValueError(f"kernel distance: at least 1 subset is needed, got {subsets}")
    generator = torch.Generator().manual_seed(seed)
    chosen_x, chosen_y = (
        torch.stack([torch.randperm(n, generator=generator)[:subset_size] for _ in range(subsets)])
        for n in (len(x), len(y))
    )
    # Whichever meets fewer pairs: every pair once for all subsets, or the pairs of each subset.
    if len(x) ** 2 + len(y) ** 2 + len(x) * len(y) < 3 * subsets * subset_size**2:
        values = _estimates(x, y, _membership(chosen_x, len(x)), _membership(chosen_y, len(y)))
    else:
        values = torch.tensor(
            [squared_mmd(x[a], y[b]) for a, b in zip(chosen_x, chosen_y, strict=True)],
            dtype=torch.float64,
        )
    return Estimate(float(values.mean()), float(values.std(correction=0)))


def _estimates(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """`squared_mmd` of S subsets, (S,), given who belongs to them: (N, S) and (M, S) of 0 and 1."""
    in_x, in_y = in_x.double(), in_y.double()
    across = _pair_sums(x, y, in_x, in_y) / (in_x.sum(0) * in_y.sum(0))
    return _within(x, in_x) + _within(y, in_y) - 2 * across


def _within(x: Tensor, chosen: Tensor) -> Tensor:
    count = chosen.sum(0)
    with_itself = _kernel(x.square().sum(1), x.shape[1]) @ chosen
    return (_pair_sums(x, x, chosen, chosen) - with_itself) / (count * (count - 1))


def _pair_sums(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """The sum of the kernel over all pairs of each subset, (S,)."""
    rows = max(1, BLOCK // len(y))
    total = torch.zeros(in_x.shape[1], dtype=torch.float64)
    for block, members in zip(x.split(rows), in_x.split(rows), strict=True):
        total += (members * (_kernel(block @ y.T, x.shape[1]) @ in_y)).sum(0)
    return total


def _kernel(products: Tensor, width: int) -> Tensor:
    return (products / width + 1) ** 3


def _membership(chosen: Tensor, count: int) -> Tensor:
    """(S, size) indices -> (count, S) of 0 and 1."""
    return torch.zeros(len(chosen), count).scatter_(1, chosen, 1.0).T
